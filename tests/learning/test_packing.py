import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policy import make_rollouts

from thinkrl.learning.learner import Example
from thinkrl.learning.packing import _path, example_paths, micro_batches, pack, rollout_paths


def ids(*values):
    return np.array(values, dtype=np.int32)


def path(prompt, response, start=0, predicted=None):
    """The path of one response; `predicted` are its sampled tokens, all by default."""
    tokens = list(range(len(response))) if predicted is None else predicted
    return _path(ids(*prompt), ids(*response), np.asarray(tokens), start)


def test_a_row_by_hand():
    """Prompt 1 2, responses 3 4 5 and 6 7; the last token of a response is predicted but never read."""
    (row,) = pack([path([1, 2], [3, 4, 5], 0), path([1, 2], [6, 7], 3)], 99, share=True)
    assert row.token_ids.tolist() == [1, 2, 3, 4, 6]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 2]
    assert row.sources[row.predictions].tolist() == [1, 2, 3, 1, 4]
    assert row.targets[row.predictions].tolist() == [3, 4, 5, 6, 7]
    assert row.columns.tolist() == [0, 1, 2, 3, 4]
    assert row.visible().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_equal_beginnings_of_responses_stand_once():
    """Responses 3 4 5, 3 4 6 and 3 again: 3 4 is read once, and `3 after 1 2` is one prediction of three columns."""
    (row,) = pack([path([1, 2], [3, 4, 5], 0), path([1, 2], [3, 4, 6], 3), path([1, 2], [3], 6)], 99, share=True)
    assert row.token_ids.tolist() == [1, 2, 3, 4]
    assert row.columns.tolist() == [6, 0, 1, 2, 3, 4, 5]
    assert row.targets[row.predictions].tolist() == [3, 3, 4, 5, 3, 4, 6]
    assert row.predictions[[0, 1, 4]].tolist() == [row.predictions[0]] * 3
    assert len(row.sources) == 4


def test_a_segment_may_go_on_in_several_ways():
    (row,) = pack(
        [path([1], tokens, 10 * i) for i, tokens in enumerate([[2, 3, 9], [2, 4, 9], [5, 9]])], 99, share=True
    )
    assert row.token_ids.tolist() == [1, 2, 3, 4, 5]
    assert row.parents.tolist() == [-1, 0, 1, 1, 0]
    assert row.above().astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_given_tokens_are_read_but_not_predicted():
    (row,) = pack([path([1], [2, 3, 4, 5], 10, [0, 2])], 99, share=True)
    assert row.token_ids.tolist() == [1, 2, 3]
    assert row.columns.tolist() == [10, 12]
    assert row.targets.tolist() == [2, 4]


def contexts(row):
    """What the model has read, in order of position, where each prediction is made."""
    visible = row.visible()
    for prediction, column in zip(row.predictions, row.columns, strict=True):
        source, target = row.sources[prediction], row.targets[prediction]
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
    paths = rollout_paths(rollouts, np.arange(len(rollouts)))
    rows = pack(paths, row_tokens, share=share)
    expected = {}
    for r, response in enumerate(rollouts):
        prompt = rollouts.groups[rollouts.group_index[r]].prompt_ids.tolist()
        tokens = response.token_ids.tolist()
        for t in np.flatnonzero(response.origins):
            expected[int(rollouts.token_ids.offsets[r] + t)] = (prompt + tokens[:t], tokens[t])
    found = [entry for row in rows for entry in contexts(row)]
    assert len(found) == len(expected)
    assert {column: (seen, target) for column, seen, target in found} == expected
    alone = max(len(path) for path in paths)
    assert all(len(row) <= max(row_tokens, alone) for row in rows)
    assert [len(row) for row in rows] == sorted((len(row) for row in rows), reverse=True)
    if not share:
        assert all(row.plain for row in rows)


def test_a_prompt_is_read_once_for_its_group():
    prompts = [[1, 2, 3, 4, 5], [6, 7, 8]]
    paths = [path(prompt, [10 + i, 0], 2 * i) for i, prompt in enumerate(prompts * 8)]
    shared = sum(len(row) for row in pack(paths, 4096, share=True))
    plain = sum(len(row) for row in pack(paths, 4096, share=False))
    assert plain - shared == 7 * (5 + 3)


def test_what_prompts_share_is_read_once_for_the_batch():
    (row,) = pack([path([1, 2, 3, 4], [7]), path([1, 2, 3, 5], [7], 1)], 99, share=True)
    assert row.token_ids.tolist() == [1, 2, 3, 4, 5]


def test_a_large_group_is_cut_into_equal_parts():
    paths = [path([1, 2], [i, *range(100, 110)], 11 * i) for i in range(6)]  # 6 responses of 10 tokens to read
    assert [len(row) for row in pack(paths, 50, share=True)] == [32, 32]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_rows_are_as_few_as_filling_them_in_order_allows(lengths, budget):
    paths = [path([i], [0] * n, 100 * i) for i, n in enumerate(lengths)]
    rows, size = 1, 0
    for n in lengths:
        rows, size = (rows + 1, n) if size and size + n > budget else (rows, size + n)
    assert len(pack(paths, budget, share=True)) == rows


def sizes(batches):
    return [[len(row) for row in batch] for batch in batches]


def test_micro_batches_count_padding():
    rows = pack([path([n, *range(n - 1)], [1]) for n in (10, 9, 4, 4)], 1, share=True)
    assert sizes(micro_batches(rows, 20)) == [[10, 9], [4, 4]]
    assert sizes(micro_batches(rows, 19)) == [[10], [9], [4, 4]]
    assert sizes(micro_batches(rows, 3)) == [[10], [9], [4], [4]]


def test_rows_that_would_be_padded_much_stay_apart():
    rows = pack([path([n, *range(n - 1)], [1]) for n in (20, 19, 18, 4)], 1, share=True)
    assert sizes(micro_batches(rows, 1000)) == [[20, 19, 18], [4]]  # 3 of 60 positions are padding


def test_joined_rows_go_where_they_fit_first():
    rows = pack([path([n, *range(n - 1)], [1]) for n in (30, 20, 12, 9, 8)], 1, share=True)
    assert sizes(micro_batches(rows, 31, joined=True)) == [[30], [20, 9], [12, 8]]


def drawn_lengths(kind, count, seed):
    """Response lengths as training meets them: all alike, ragged, with a heavy tail, or most cut at the limit."""
    rng = np.random.default_rng(seed)
    lengths = {
        "alike": rng.normal(60, 4, count),
        "uniform": rng.integers(1, 400, count),
        "lognormal": np.exp(rng.normal(4.5, 1.0, count)),
        "pareto": 20 * (1 + rng.pareto(1.1, count)),
        "cut": np.minimum(np.exp(rng.normal(6, 0.5, count)), 400),
    }[kind]
    return np.clip(lengths, 1, 3000).astype(int)


@given(
    kind=st.sampled_from(["alike", "uniform", "lognormal", "pareto", "cut"]),
    groups=st.integers(1, 8),
    size=st.integers(1, 16),
    budget=st.sampled_from([256, 1024, 4096]),
    share=st.booleans(),
    joined=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_padding_is_at_most_a_twentieth_and_budgets_hold(kind, groups, size, budget, share, joined, seed):
    lengths = drawn_lengths(kind, groups * size, seed)
    prompts = drawn_lengths("lognormal", groups, seed + 1)
    paths = [
        path([g] * prompts[g] + [99], [100 + i] * lengths[g * size + i]) for g in range(groups) for i in range(size)
    ]
    rows = pack(paths, 1024, share=share)
    batches = micro_batches(rows, budget, joined=joined)
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    real = sum(map(len, rows))
    computed = [sum(map(len, batch)) if joined else len(batch) * len(batch[0]) for batch in batches]
    assert real >= 0.95 * sum(computed)
    assert all(positions <= budget or len(batch) == 1 for positions, batch in zip(computed, batches, strict=True))
    if joined:  # any two batches together are over the budget, so that there are few
        assert sum(positions <= budget // 2 for positions in computed) <= 1


def test_examples_have_a_column_each():
    paths = example_paths([Example(ids(1), ids(2, 3)), Example(ids(4), ids()), Example(ids(5), ids(6))])
    assert [path.columns.tolist() for path in paths] == [[0, 1], [2]]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="a prompt must have at least one token"):
        example_paths([Example(ids(), ids(1))])
