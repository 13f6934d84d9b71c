"""Thinking that is cut, and the answers that the policy then has to give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinkrl.config.component import GroupSize, NewTokens
from thinkrl.environments.decoding import Decoder
from thinkrl.environments.single_turn import make_response
from thinkrl.rollouts.cuts import Cut, thinking_owners
from thinkrl.rollouts.spans import token_range
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class ForcedAnswers:
    r"""Cuts thinking at budgets, closes it with an inserted text, and samples answers from there.

    The ids of the thinking are continued as they were sampled. What is inserted is given and carries no loss; so is the
    thinking in every response but the one that owns it (`rollouts.cuts.thinking_owners`). Budgets that reach the end
    of a thinking meet in one cut, whose answers are dealt out to them in order (arXiv 2505.13438).
    """

    insert: str = "...\n\n...\n\n</think>\n\n**Final Answer**"
    """Text that closes thinking which has not ended, and begins the answer."""
    insert_after_end: str = "\n\n**Final Answer**"
    """Text that begins the answer where thinking has ended of itself; empty inserts nothing."""
    end: str = "</think>"
    """Ends the thinking, and belongs to it."""
    answers: GroupSize = 1
    """Answers sampled at each budget."""
    answer_tokens: NewTokens = 128
    """Longest answer, in tokens, without what is inserted."""

    def __post_init__(self) -> None:
        for name in ("answers", "answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("insert", "end"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty, got {getattr(self, name)!r}")

    def answer(
        self,
        policy: "Policy",
        sampler: Sampler,
        thoughts: Rollouts,
        budgets: Sequence[Sequence[int]],
        spec: SamplingSpec,
        seed: int,
        stage: str,
    ) -> Rollouts:
        """Responses `<thought>/<place of the budget>/<answer>`, thought after thought, budget after budget.

        Args:
            thoughts: responses with thinking; an answer that stands behind it is left out.
            budgets: for each of them its budgets in sampled tokens, which must not fall; [] asks for no answer.
            spec: how tokens are drawn; `answer_tokens` takes the place of its limit, and no budget of its own counts.
        """
        decoder = Decoder(policy.tokenizer)
        cuts = [
            point
            for base, group, allowed in zip(
                thoughts, (thoughts.groups[index] for index in thoughts.group_index), budgets, strict=True
            )
            for point in self._points(base, group, allowed, policy)
        ]
        requests = [SampleRequest(point.asked, self._keys(point, seed, stage)) for point in cuts]
        drawn = sampler.sample(requests, replace(spec, max_new_tokens=self.answer_tokens, budget=None))
        branches: list[tuple[_Point, str, Cut, Sample]] = []
        for point, samples in zip(cuts, drawn, strict=True):
            if len(samples) != len(point.budgets) * self.answers:
                raise ValueError(f"the sampler gave {len(samples)} answers to {point.base.response_id}")
            for number, sample in enumerate(samples):
                place, budget = point.budgets[number // self.answers]
                name = f"{point.base.response_id}/{place}/{number % self.answers}"
                branches.append((point, name, Cut(point.base.response_id, budget, point.kept), sample))
        owners = thinking_owners([cut for _, _, cut, _ in branches])
        responses = [
            make_response(
                name, point.base.group_id, _NOTHING, point.continued(sample, owner), policy.stop_ids, decoder,
                cut, known=point.base.char_ends[: point.kept],
            )
            for (point, name, cut, sample), owner in zip(branches, owners, strict=True)
        ]  # fmt: skip
        return Rollouts.from_responses(thoughts.groups, responses)

    def thinking(self, response: Response) -> tuple[int, bool]:
        """How many tokens the thinking of a response has, its end among them, and whether it ended of itself."""
        place = response.text.find(self.end)
        if place < 0:
            return response.token_count, response.finish_reason is FinishReason.STOP
        return token_range(response.char_ends, 0, place + len(self.end))[1], True

    def _points(self, base: Response, group: Group, budgets: Sequence[int], policy: "Policy") -> "list[_Point]":
        """Where one thinking is cut, in order."""
        length, ended = self.thinking(base)
        counted = np.cumsum(base.origins == Origin.SAMPLED)

        def kept(numbered: tuple[int, int]) -> int:
            # Up to the token after which one more would be sampled: given tokens cost no budget.
            return min(length, int(np.searchsorted(counted, numbered[1], side="right")))

        points = []
        for cut, met in groupby(enumerate(budgets), key=kept):
            text = self.insert_after_end if ended and cut == length else self.insert
            insert = np.asarray(policy.tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)
            points.append(_Point(base, group.prompt_ids, cut, insert, list(met)))
        return points

    def _keys(self, point: "_Point", seed: int, stage: str) -> tuple[int, ...]:
        return tuple(
            stream_key("answer", seed, stage, point.base.response_id, place, number)
            for place, _ in point.budgets
            for number in range(self.answers)
        )


_NOTHING: Ids = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class _Point:
    """Where a thinking is cut: what stays of it, what is inserted, and the budgets (place, tokens) that meet there."""

    base: Response
    prompt_ids: Ids
    kept: int
    insert: Ids
    budgets: list[tuple[int, int]]

    @property
    def asked(self) -> Ids:
        """What the answer continues."""
        return np.concatenate([self.prompt_ids, self.base.token_ids[: self.kept], self.insert])

    def continued(self, answer: Sample, owner: bool) -> Sample:
        """Thinking, insertion and answer as one continuation of the prompt, all by the same weights."""
        own = (self.base.origins[: self.kept] == Origin.SAMPLED) & owner
        blank = np.full(len(self.insert), np.nan, dtype=np.float32)
        given = np.zeros(len(self.insert), dtype=np.bool_)
        drawn = np.ones(len(answer.token_ids), dtype=np.bool_) if answer.sampled is None else answer.sampled
        return Sample(
            token_ids=np.concatenate([self.base.token_ids[: self.kept], self.insert, answer.token_ids]),
            logprobs=np.concatenate([np.where(own, self.base.logprobs[: self.kept], np.nan), blank, answer.logprobs]),
            entropies=np.concatenate(
                [np.where(own, self.base.entropies[: self.kept], np.nan), blank, answer.entropies]
            ),
            finish_reason=answer.finish_reason,
            version=answer.version,
            sampled=np.concatenate([own, given, drawn]),
        )


def check_shares(shares: Sequence[float], name: str) -> None:
    """Raises ValueError unless `shares` rise within 0 to 1."""
    rising = all(before < after for before, after in pairwise(shares))
    if not shares or not rising or not shares[0] >= 0.0 or not shares[-1] <= 1.0:
        raise ValueError(f"{name} must be numbers that rise within 0 to 1, at least one, got {list(shares)}")


def share_of(shares: Sequence[float], tokens: int) -> list[int]:
    """Those shares of a number of tokens, each rounded up."""
    return [math.ceil(share * tokens - 1e-9) for share in shares]  # 0.1 of 30 are 3, whatever the product's last bit
