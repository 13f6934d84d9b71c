"""One prompt, one response: the environment of most papers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinkrl.data.chat import ChatRenderer
from thinkrl.data.length import OverlongPolicy, fit_prompts
from thinkrl.environments.decoding import Decoder
from thinkrl.rollouts.cuts import Cut
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class SingleTurn:
    """Renders each prompt and samples its group; ids that were sampled are never decoded and encoded again."""

    response_prefix: str = ""
    r"""Given text that starts every response, such as `<think>\n`; it carries no loss."""
    max_prompt_tokens: int = 1024
    """Longest prompt, in tokens, before `overlong` applies."""
    overlong: OverlongPolicy = OverlongPolicy.ERROR
    """What happens to longer prompts; their number is logged."""

    def __post_init__(self) -> None:
        if self.max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be at least 1, got {self.max_prompt_tokens}")

    def rollout(
        self,
        policy: "Policy",
        sampler: Sampler,
        prompts: Sequence[Prompt],
        group_size: int,
        spec: SamplingSpec,
        seed: int,
        stage: str,
        step: int,
    ) -> Rollouts:
        """Groups `<step>/<prompt id>` with responses `<group>/<index>`; dropped prompts have no group.

        Raises DataError under the overlong policy `error`.
        """
        renderer = ChatRenderer(policy.tokenizer)
        groups = self.groups(renderer, prompts, step)
        given = renderer.given_ids(self.response_prefix)
        requests = [
            SampleRequest(
                prompt_ids=np.concatenate([group.prompt_ids, given]),
                stream_keys=tuple(
                    stream_key("sample", seed, stage, step, group.prompt.prompt_id, index)
                    for index in range(group_size)
                ),
            )
            for group in groups
        ]
        decoder = Decoder(policy.tokenizer)
        responses: list[Response] = []
        for group, samples in zip(groups, sampler.sample(requests, spec), strict=True):
            if len(samples) != group_size:
                raise ValueError(f"the sampler gave {len(samples)} of {group_size} responses for {group.group_id}")
            for index, sample in enumerate(samples):
                name = f"{group.group_id}/{index}"
                responses.append(make_response(name, group.group_id, given, sample, policy.stop_ids, decoder))
        return Rollouts.from_responses(groups, responses)

    def groups(self, renderer: ChatRenderer, prompts: Sequence[Prompt], step: int) -> list[Group]:
        """The groups of `prompts`, in order, with the ids that they are asked by; those that are dropped have none."""
        rows = [renderer.prompt_ids(prompt.messages) for prompt in prompts]
        bos = renderer.tokenizer.bos_token_id
        fitted = fit_prompts(
            rows,
            [prompt.prompt_id for prompt in prompts],
            self.max_prompt_tokens,
            self.overlong,
            head=int(any(bos is not None and len(row) and row[0] == bos for row in rows)),
            tail=renderer.header_count,
        )
        return [
            Group(f"{step}/{prompts[position].prompt_id}", prompts[position], row)
            for position, row in zip(fitted.kept, fitted.rows, strict=True)
        ]


def make_response(
    response_id: str,
    group_id: str,
    given: Ids,
    sample: Sample,
    stop_ids: frozenset[int],
    decoder: Decoder,
    cut: Cut | None = None,
    known: Ids | None = None,
) -> Response:
    """A response of `given` ids and a sampled continuation.

    A stop token that ended the sample stays in `token_ids`, where it carries loss, and is left out of `text`.
    What a thinking budget inserted is given, in the middle of the response.
    known: `char_ends` of the first tokens, [k], where another response that begins alike has them.
    """
    ids = np.concatenate([given, sample.token_ids.astype(np.int32)])
    stopped = sample.finish_reason is FinishReason.STOP and len(sample.token_ids) > 0 and int(ids[-1]) in stop_ids
    shown = [int(token) for token in (ids[:-1] if stopped else ids)]
    text = decoder.decode(shown)
    ends = decoder.char_ends(shown, text, known)
    blank = np.full(len(given), np.nan, dtype=np.float32)
    drawn = np.ones(len(sample.token_ids), dtype=np.bool_) if sample.sampled is None else sample.sampled
    sampled = np.concatenate([np.zeros(len(given), dtype=np.bool_), drawn])
    return Response(
        response_id=response_id,
        group_id=group_id,
        text=text,
        finish_reason=sample.finish_reason,
        token_ids=ids,
        origins=np.where(sampled, Origin.SAMPLED, Origin.GIVEN).astype(np.uint8),
        logprobs=np.concatenate([blank, sample.logprobs.astype(np.float32)]),
        entropies=np.concatenate([blank, sample.entropies.astype(np.float32)]),
        versions=np.where(sampled, sample.version, -1).astype(np.int32),
        char_ends=np.append(ends, np.int32(len(text))).astype(np.int32) if stopped else ends,
        cut=cut,
    )
