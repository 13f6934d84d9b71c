"""What environments of several turns share: responses under way that go on, token in, token out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from thinkrl.environments.decoding import Decoder
from thinkrl.rollouts.store import FinishReason, Origin, Response, Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplingSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from thinkrl.models.policy import Policy

Ids = NDArray[np.int32]
T = TypeVar("T")


@dataclass(eq=False)
class Trajectory:
    """A response under way. first, begin: where the policy's first turn and its last one begin, in tokens. keys: of its
    random streams."""

    response: Response
    prompt_ids: Ids
    keys: tuple[str | int, ...]
    first: int
    begin: int
    open: bool = True

    @property
    def length(self) -> int:
        """Tokens from the first sampled one on."""
        return self.response.token_count - self.first

    def cut(self) -> None:
        """Ends it for want of turns or of room."""
        self.open = False
        self.response = replace(self.response, finish_reason=FinishReason.LENGTH)


@dataclass(frozen=True, eq=False)
class Turns:
    """Samples turn after turn of many trajectories: each goes on from the very ids it has, with a random stream a turn.

    spec: how the tokens of one turn are drawn. most: tokens of a whole response, those between turns included.
    """

    policy: "Policy"
    sampler: Sampler
    spec: SamplingSpec
    most: int
    decoder: Decoder = field(init=False)

    def __post_init__(self) -> None:
        if self.spec.budget is not None:
            raise ValueError("sampling.budget must be null where the policy has several turns, got a budget")
        object.__setattr__(self, "decoder", Decoder(self.policy.tokenizer))

    def begin(self, first: Rollouts, seed: int, stage: str) -> list[Trajectory]:
        """Trajectories whose first turn is sampled, in row order."""
        begins = [int(np.argmax(response.origins == Origin.SAMPLED)) for response in first]
        return [
            Trajectory(
                response,
                first.groups[int(group)].prompt_ids,
                ("turn", seed, stage, response.response_id),
                begin,
                begin,
            )
            for response, group, begin in zip(first, first.group_index, begins, strict=True)
        ]

    def room(self, trajectory: Trajectory, given: Ids) -> int:
        """Tokens that may still be sampled after `given`; none, where it is 0 or less."""
        return self.most - trajectory.length - len(given)

    def go_on(self, running: Sequence[tuple[Trajectory, Ids]], turn: int) -> None:
        """Samples turn `turn` of each, behind given ids that leave room; equal limits are sampled together."""

        def limit(one: tuple[Trajectory, Ids]) -> int:
            return min(self.spec.max_new_tokens, self.room(*one))

        for tokens, alike in groupby(sorted(running, key=limit, reverse=True), key=limit):
            together = list(alike)
            requests = [
                SampleRequest(
                    np.concatenate([one.prompt_ids, one.response.token_ids, given]), (stream_key(*one.keys, turn),)
                )
                for one, given in together
            ]
            samples = self.sampler.sample(requests, replace(self.spec, max_new_tokens=tokens))
            for (trajectory, given), (sample,) in zip(together, samples, strict=True):
                trajectory.begin = trajectory.response.token_count + len(given)
                trajectory.response = extended(trajectory.response, given, sample, self.policy.stop_ids, self.decoder)


def extended(response: Response, given: Ids, sample: Sample, stop_ids: frozenset[int], decoder: Decoder) -> Response:
    """`response` with `given` ids and a sampled continuation; no id that stands is encoded again."""
    ids = np.concatenate([response.token_ids, given, sample.token_ids.astype(np.int32)])
    stopped = sample.finish_reason is FinishReason.STOP and len(sample.token_ids) > 0 and int(ids[-1]) in stop_ids
    shown = [int(token) for token in (ids[:-1] if stopped else ids)]
    text = decoder.decode(shown)
    ends = decoder.char_ends(shown, text)
    blank = np.full(len(given), np.nan, dtype=np.float32)
    mark = (Origin.GIVEN, Origin.SAMPLED)
    new = [
        np.full(len(part), origin, dtype=np.uint8) for part, origin in zip((given, sample.token_ids), mark, strict=True)
    ]
    return replace(
        response,
        text=text,
        finish_reason=sample.finish_reason,
        token_ids=ids,
        origins=np.concatenate([response.origins, *new]),
        logprobs=np.concatenate([response.logprobs, blank, sample.logprobs.astype(np.float32)]),
        entropies=np.concatenate([response.entropies, blank, sample.entropies.astype(np.float32)]),
        versions=np.concatenate(
            [response.versions, np.full(len(given), -1), np.full(len(sample.token_ids), sample.version)]
        ).astype(np.int32),
        char_ends=np.append(ends, np.int32(len(text))).astype(np.int32) if stopped else ends,
    )


def empty_response(response_id: str, group_id: str) -> Response:
    """A response without a token, to be extended."""
    none = np.zeros(0, dtype=np.int32)
    blank = np.zeros(0, dtype=np.float32)
    return Response(
        response_id, group_id, "", FinishReason.LENGTH, none, none.astype(np.uint8), blank, blank, none, none
    )


def plain_text(tokenizer: "PreTrainedTokenizerBase", text: str, tags: Sequence[str] = ()) -> str:
    """`text` in which nothing is one of the tokenizer's own tokens, or one of `tags`: what others say must not be able
    to speak for the policy or to end its turn, and what the policy says not to speak for others."""
    own = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), *tags}
    for special in sorted((one for one in own if len(one) > 1), key=lambda one: (-len(one), one)):
        text = text.replace(special, f"{special[:1]} {special[1:]}")
    return text


def asked_once(sampler: Sampler, ask: Callable[[], T], what: str, kinds: Sequence[type] = ()) -> T:
    """What `ask` gives. Of several processes the first asks and tells the others: what is slow is slow for all, and
    may answer differently each time. kinds: record types among the answers; what: their name."""
    from thinkrl.sampling.ranked_sampler import RankedSampler  # torch, which configurations do without

    if not isinstance(sampler, RankedSampler):
        return ask()
    told: T = sampler.ranks.share(ask() if sampler.ranks.first else None, what, kinds)
    return told
