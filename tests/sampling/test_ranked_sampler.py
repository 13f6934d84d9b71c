"""Requests dealt out to ranks come back in order, each drawn once, and ranks that hold other weights are found."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.parallel.wire import decode, encode
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.ranked_sampler import RankedSampler, engine_name
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec


class Echo:
    """Answers each stream key with a sample that holds it."""

    version = 3

    def __init__(self, checksum: str = "same") -> None:
        self.checksum, self.asked, self.closed = checksum, [], 0

    def sample(self, requests: Any, spec: SamplingSpec) -> list[list[Sample]]:
        assert requests, "an engine is not troubled with nothing"
        self.asked += [key for request in requests for key in request.stream_keys]
        one = np.zeros(1, dtype=np.float32)
        return [
            [Sample(np.asarray([key], np.int32), one, one, FinishReason.STOP, 3) for key in request.stream_keys]
            for request in requests
        ]

    def sync(self, version: int) -> str:
        return self.checksum

    def close(self) -> None:
        self.closed += 1


class Member:
    """A rank whose exchanges already hold what the others will say."""

    def __init__(self, rank: int, others: list[Any]) -> None:
        self.rank, self.size, self.others = rank, len(others), others

    def gather(self, value: Any, name: str, kinds: Any = ()) -> list[Any]:
        told = [*self.others]
        told[self.rank] = value
        return [decode(encode(part), kinds) for part in told]


@given(st.lists(st.integers(0, 3), max_size=9), st.integers(1, 4))
def test_every_sample_is_drawn_once_and_stands_in_its_place(groups: list[int], size: int) -> None:
    keys = iter(range(100))
    requests = [SampleRequest(np.ones(1, np.int32), tuple(next(keys) for _ in range(count))) for count in groups]
    shares = [requests[rank::size] for rank in range(size)]
    others: list[Any] = [Echo().sample(share, SamplingSpec()) if share else [] for share in shares]
    asked = []
    for rank in range(size):
        engine = Echo()
        ranks: Any = Member(rank, others)
        found = RankedSampler(engine, ranks).sample(requests, SamplingSpec())
        assert [[int(s.token_ids[0]) for s in row] for row in found] == [list(r.stream_keys) for r in requests]
        asked += engine.asked
    assert sorted(asked) == list(range(sum(groups)))


def test_ranks_with_other_weights_are_found() -> None:
    ranks: Any = Member(0, ["same", "same"])
    assert RankedSampler(Echo(), ranks).sync(4) == "same"
    with pytest.raises(RuntimeError, match="ranks hold different weights after version 4: other, same"):
        RankedSampler(Echo("other"), ranks).sync(4)


def test_it_is_named_like_its_engine_and_closes_it() -> None:
    engine = Echo()
    ranks: Any = Member(0, [None])
    sampler = RankedSampler(engine, ranks)
    assert engine_name(sampler) == engine_name(engine) == "Echo"
    assert sampler.version == 3
    sampler.close()
    assert engine.closed == 1
