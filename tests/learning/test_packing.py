import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policy import make_rollouts

from thinkrl.learning.learner import Example
from thinkrl.learning.packing import Branch, Tree, example_trees, micro_batches, pack, rollout_trees


def ids(*values):
    return np.array(values, dtype=np.int32)


def branch(tokens, start, predicted=None):
    mask = np.ones(len(tokens), dtype=np.bool_) if predicted is None else np.array(predicted, dtype=np.bool_)
    return Branch(ids(*tokens), mask, start)


def test_a_row_by_hand():
    """Prompt 1 2, responses 3 4 5 and 6 7; the last token of a response is predicted but never read."""
    (row,) = pack([Tree(ids(1, 2), (branch([3, 4, 5], 0), branch([6, 7], 3)))], 99, share_prompts=True)
    assert row.token_ids.tolist() == [1, 2, 3, 4, 6]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 2]
    assert row.sources.tolist() == [1, 2, 3, 1, 4]
    assert row.targets.tolist() == [3, 4, 5, 6, 7]
    assert row.columns.tolist() == [0, 1, 2, 3, 4]
    assert row.visible().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_given_tokens_are_read_but_not_predicted():
    tree = Tree(ids(1), (branch([2, 3, 4, 5], 10, [True, False, True, False]),))
    (row,) = pack([tree], 99, share_prompts=True)
    assert row.token_ids.tolist() == [1, 2, 3]
    assert row.columns.tolist() == [10, 12]
    assert row.targets.tolist() == [2, 4]


def contexts(row):
    """What the model has read, in order of position, where each prediction is made."""
    visible = row.visible()
    for source, target, column in zip(row.sources, row.targets, row.columns, strict=True):
        seen = np.flatnonzero(visible[source])
        assert row.position_ids[seen].tolist() == list(range(len(seen)))
        yield int(column), row.token_ids[seen].tolist(), int(target)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    row_tokens=st.integers(1, 90),
    share=st.booleans(),
    given_tokens=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_sampled_token_is_predicted_once_from_its_own_past(sizes, row_tokens, share, given_tokens, seed):
    rollouts = make_rollouts(sizes, seed=seed, given=given_tokens)
    trees = rollout_trees(rollouts, np.arange(len(rollouts)))
    rows = pack(trees, row_tokens, share_prompts=share)
    expected = {}
    for r, response in enumerate(rollouts):
        prompt = rollouts.groups[rollouts.group_index[r]].prompt_ids.tolist()
        tokens = response.token_ids.tolist()
        for t in np.flatnonzero(response.origins):
            expected[int(rollouts.token_ids.offsets[r] + t)] = (prompt + tokens[:t], tokens[t])
    found = [entry for row in rows for entry in contexts(row)]
    assert len(found) == len(expected)
    assert {column: (seen, target) for column, seen, target in found} == expected
    alone = max(len(tree.prompt_ids) + b.input_count for tree in trees for b in tree.branches)
    assert all(len(row) <= max(row_tokens, alone) for row in rows)
    assert [len(row) for row in rows] == sorted((len(row) for row in rows), reverse=True)
    if not share:
        assert all(row.plain for row in rows)


def test_a_prompt_is_read_once_for_its_group():
    rollouts = make_rollouts((8, 8))
    trees = rollout_trees(rollouts, np.arange(16))
    shared = sum(len(row) for row in pack(trees, 4096, share_prompts=True))
    plain = sum(len(row) for row in pack(trees, 4096, share_prompts=False))
    assert plain - shared == 7 * sum(len(group.prompt_ids) for group in rollouts.groups)


def test_a_large_group_is_cut_into_about_equal_parts():
    tree = Tree(ids(1, 2), tuple(branch(range(11), 11 * i) for i in range(6)))  # 6 responses of 10 tokens to read
    lengths = [len(row) for row in pack([tree], 50, share_prompts=True)]
    assert lengths == [32, 32]


def test_micro_batches_count_padding():
    rows = pack([Tree(ids(*range(n)), (branch([1], 0),)) for n in (10, 9, 4, 4)], 1, share_prompts=True)
    assert [[len(row) for row in batch] for batch in micro_batches(rows, 20)] == [[10, 9], [4, 4]]
    assert [[len(row) for row in batch] for batch in micro_batches(rows, 3)] == [[10], [9], [4], [4]]


def test_examples_have_a_column_each():
    trees = example_trees([Example(ids(1), ids(2, 3)), Example(ids(4), ids()), Example(ids(5), ids(6))])
    assert [tree.branches[0].start for tree in trees] == [0, 2]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="a prompt must have at least one token"):
        example_trees([Example(ids(), ids(1))])
