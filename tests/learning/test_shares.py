"""The shares of ranks: every row once, balanced, and as many passes on each."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policy import make_rollouts, tiny_policy

from thinkrl.learning.learner import Example
from thinkrl.learning.packing import Path, example_paths, rollout_paths
from thinkrl.learning.scorer import Scorer
from thinkrl.learning.shares import NOTHING, deal, own_batches, pack_for
from thinkrl.parallel.place import Place
from thinkrl.parallel.ranks import Ranks
from thinkrl.sampling.sampler import SamplingSpec

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=20)


def paths_of(lengths: list[int]) -> list[Path]:
    """Paths that share nothing, each with one prediction."""
    target = np.zeros(1, dtype=np.int32)
    return example_paths([Example(np.full(n, i, dtype=np.int32), target) for i, n in enumerate(lengths)])


def member(rank: int, size: int) -> Ranks:
    return Ranks(Place(rank, size, rank, "nowhere", 0))


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(4, 80), st.booleans())
def test_every_prediction_is_made_once_in_as_many_passes_on_each(lengths, size, budget, share):
    rows = pack_for(size, paths_of(lengths), budget, share=share)
    batches = [own_batches(rows, budget, member(rank, size)) for rank in range(size)]
    assert len({len(own) for own in batches}) == 1
    columns = [c for own in batches for batch in own for row in batch for c in row.columns.tolist()]
    assert sorted(columns) == list(range(len(lengths)))
    assert all(row is not NOTHING or len(batch) == 1 for own in batches for batch in own for row in batch)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_the_fullest_rank_has_at_most_one_row_more_than_the_emptiest(lengths, size):
    rows = pack_for(size, paths_of(lengths), 64, share=False)
    loads = [sum(map(len, part)) for part in deal(rows, size)]
    assert max(loads) - min(loads) <= max(lengths)


def test_a_batch_that_fits_one_row_is_spread_over_the_ranks():
    paths = paths_of([10] * 8)
    assert len(pack_for(1, paths, 1024, share=True)) == 1
    loads = [sum(map(len, part)) for part in deal(pack_for(4, paths, 1024, share=True), 4)]
    assert loads == [20, 20, 20, 20]


def test_more_rows_than_the_budget_asks_for_only_where_that_evens_them():
    rollouts = make_rollouts((4, 4))
    paths = rollout_paths(rollouts, np.arange(8))
    alone, together = pack_for(1, paths, 40, share=True), pack_for(2, paths, 40, share=True)
    fullest = [max(sum(map(len, part)) for part in deal(rows, 2)) for rows in (alone, together)]
    assert fullest[1] <= fullest[0]


@pytest.mark.parametrize("branches", [True, False])
def test_a_row_of_nothing_gives_every_weight_a_gradient_of_zero(branches):
    module = tiny_policy(tie=False).module
    scored = Scorer(module, 8, branches=branches)([NOTHING], SamplingSpec(), with_entropy=True)
    assert scored.logprobs.shape == (0,)
    assert scored.columns.shape == (0,)
    scored.logprobs.sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
