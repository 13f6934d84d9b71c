"""What a vLLM engine is asked, and how its answers become samples: the same in process and over HTTP."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thinkrl.config.component import UserError
from thinkrl.models.policy import Policy
from thinkrl.rollouts.store import FinishReason
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec, ThinkingBudget
from thinkrl.sampling.stops import StopRule

_LOWEST_TEMPERATURE = 0.01
"""vLLM raises lower temperatures to this one."""
_SEED_BITS = 63


@dataclass(frozen=True, eq=False)
class Call:
    """One continuation wanted: its prompt, the sample it belongs to, and vLLM's parameters by the names that both
    `SamplingParams` and `/v1/completions` know."""

    request: int
    prompt_ids: list[int]
    parameters: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Answer:
    """What the engine sampled: ids and the log-probability of each under the processed distribution."""

    token_ids: list[int]
    logprobs: list[float]


Generate = Callable[[Sequence[Call]], list[Answer]]
"""An engine: an answer per call, in order."""


@dataclass(eq=False)
class _Draft:
    """A sample under way."""

    request: int
    place: int
    key: int
    prompt_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    inserted: tuple[int, int] | None = None
    finish_reason: FinishReason | None = None


class VLLMRequests:
    """Samples a specification from an engine: refuses what vLLM cannot honour, and cuts thinking at its budget."""

    def __init__(self, policy: Policy, positions: int) -> None:
        self._policy = policy
        self._positions = positions

    def sample(
        self, generate: Generate, requests: Sequence[SampleRequest], spec: SamplingSpec, version: int
    ) -> list[list[Sample]]:
        """For each request, one sample per stream key, in order. Entropies are NaN: the engine does not give them.

        Raises ValueError for a prompt that does not fit, UserError for a specification that cannot be honoured.
        """
        refuse(spec)
        drafts = list(self._drafts(requests, spec))
        if spec.budget is None:
            self._extend(generate, drafts, spec, spec.max_new_tokens)
        else:
            self._extend(generate, drafts, spec, spec.budget.tokens)
            self._force(drafts, spec, spec.budget)
            self._extend(generate, [d for d in drafts if d.finish_reason is None], spec, spec.max_new_tokens)
        rows: list[list[Sample]] = [[] for _ in requests]
        for draft in drafts:
            rows[draft.request].append(_sample(draft, spec, version))
        return rows

    def _drafts(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> Iterator[_Draft]:
        for index, request in enumerate(requests):
            length = len(request.prompt_ids)
            if not length:
                raise ValueError("prompt_ids must hold at least one token, got none")
            if length + spec.max_new_tokens > self._positions:
                raise ValueError(
                    f"a prompt of {length} tokens and max_new_tokens={spec.max_new_tokens} do not fit "
                    f"the engine's {self._positions} positions"
                )
            prompt = [int(token) for token in request.prompt_ids]
            for place, key in enumerate(request.stream_keys):
                yield _Draft(index, place, key, prompt, [], [])

    def _extend(self, generate: Generate, drafts: Sequence[_Draft], spec: SamplingSpec, limit: int) -> None:
        """Samples on until each draft ends or has `limit` tokens; one that only reached a lower limit stays open."""
        rule = StopRule(self._policy.tokenizer, self._policy.stop_ids, replace(spec, max_new_tokens=limit, budget=None))
        calls = [
            Call(
                draft.request,
                draft.prompt_ids + draft.token_ids,
                {
                    **parameters(spec, self._policy.stop_ids),
                    "max_tokens": limit - len(draft.token_ids),
                    # What follows a cut has a stream of its own.
                    "seed": _seed(draft.key if not draft.token_ids else stream_key("continued", draft.key)),
                },
            )
            for draft in drafts
        ]
        for draft, answer in zip(drafts, generate(calls), strict=True):
            for token, logprob in zip(answer.token_ids, answer.logprobs, strict=True):
                draft.token_ids.append(token)
                draft.logprobs.append(logprob)
                draft.finish_reason = rule.finished(draft.token_ids)
                if draft.finish_reason is not None:
                    break
            if draft.finish_reason is None:
                raise RuntimeError(
                    f"the engine ended a sample after {len(answer.token_ids)} tokens, where neither a stop nor the"
                    f" limit of {limit} was reached"
                )
            if draft.finish_reason is FinishReason.LENGTH and limit < spec.max_new_tokens:
                draft.finish_reason = None

    def _force(self, drafts: Sequence[_Draft], spec: SamplingSpec, budget: ThinkingBudget) -> None:
        """Appends the budget's text to every open sample that has not ended its thinking."""
        tokenizer = self._policy.tokenizer
        insert = [int(token) for token in tokenizer.encode(budget.insert, add_special_tokens=False)]
        for draft in drafts:
            if draft.finish_reason is not None:
                continue
            text = tokenizer.decode(draft.token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if budget.end in text:
                continue
            begin = len(draft.token_ids)
            given = insert[: spec.max_new_tokens - begin]
            draft.token_ids += given
            draft.logprobs += [float("nan")] * len(given)
            draft.inserted = (begin, begin + len(given))
            if len(draft.token_ids) == spec.max_new_tokens:
                draft.finish_reason = FinishReason.LENGTH


def refuse(spec: SamplingSpec) -> None:
    """Raises UserError for what vLLM would read differently."""
    if 0 < spec.temperature < _LOWEST_TEMPERATURE:
        raise UserError(
            f"sampling.temperature must be 0 or at least {_LOWEST_TEMPERATURE} with vLLM, which raises lower ones,"
            f" got {spec.temperature}"
        )
    if spec.min_p > 0 and spec.top_p < 1:
        raise UserError(
            f"sampling.top_p must be 1 where min_p is above 0 with vLLM, which applies min_p before top_p and not"
            f" after it, got top_p {spec.top_p} and min_p {spec.min_p}; sampler=torch takes both"
        )


def parameters(spec: SamplingSpec, stop_ids: frozenset[int]) -> dict[str, Any]:
    """vLLM's parameters for `spec`. Every one that could have another default is stated, so that none leaks in."""
    return {
        "n": 1,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "top_k": spec.top_k,
        "min_p": spec.min_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_tokens": 0,
        "stop": list(spec.stop),
        "include_stop_str_in_output": True,
        "stop_token_ids": sorted(stop_ids),
        "ignore_eos": True,  # the end token is among the stop ids, or is not to end anything
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "logprobs": 0,
    }


def _seed(key: int) -> int:
    return key & ((1 << _SEED_BITS) - 1)


def _sample(draft: _Draft, spec: SamplingSpec, version: int) -> Sample:
    if draft.finish_reason is None:
        raise RuntimeError("a sample was handed over before it ended")
    count = len(draft.token_ids)
    logprobs = np.asarray(draft.logprobs, dtype=np.float32)
    entropies = np.full(count, np.nan, dtype=np.float32)
    sampled = None
    if draft.inserted is not None:
        sampled = np.ones(count, dtype=np.bool_)
        sampled[slice(*draft.inserted)] = False
    if spec.temperature == 0:
        # One token has all the mass; vLLM reports the untempered distribution here.
        drawn = np.ones(count, dtype=np.bool_) if sampled is None else sampled
        logprobs[drawn], entropies[drawn] = 0.0, 0.0
    return Sample(
        np.asarray(draft.token_ids, dtype=np.int32), logprobs, entropies, draft.finish_reason, version, sampled
    )
