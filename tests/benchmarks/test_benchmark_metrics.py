from fractions import Fraction
from itertools import combinations
from math import comb, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.benchmarks.metrics import (
    accuracy,
    accuracy_interval,
    bootstrap_interval,
    majority_at_k,
    majority_score,
    paired_difference,
    pass_at_k,
    pass_probability,
    prompt_means,
    wilson_interval,
)

DRAWN = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(DRAWN)
def test_pass_probability_is_the_share_of_subsets_with_a_correct_sample(case: tuple[int, int, int]) -> None:
    n, correct, k = case
    samples = [1] * correct + [0] * (n - correct)
    subsets = list(combinations(samples, k))
    assert pass_probability(n, correct, k) == Fraction(sum(any(subset) for subset in subsets), len(subsets))


def test_pass_probability_is_exact_where_floats_are_not() -> None:
    # 1 - C(3999, 2000) / C(4000, 2000) = 1/2; the binomials have 1203 digits.
    assert pass_probability(4000, 1, 2000) == Fraction(1, 2)
    assert pass_probability(4000, 2, 2000) == 1 - Fraction(comb(3998, 2000), comb(4000, 2000))


@given(DRAWN)
def test_pass_probability_rises_with_k_and_begins_at_the_mean(case: tuple[int, int, int]) -> None:
    n, correct, _ = case
    values = [pass_probability(n, correct, k) for k in range(1, n + 1)]
    assert values == sorted(values)
    assert values[0] == Fraction(correct, n)
    assert values[-1] == (1 if correct else 0)


def test_pass_at_k_is_unbiased() -> None:
    # Ten independent samples of success rate 0.3: E[pass@4] = 1 - 0.7^4 = 0.7599.
    weights = [comb(10, c) * 0.3**c * 0.7 ** (10 - c) for c in range(11)]
    expected = sum(w * float(pass_probability(10, c, 4)) for c, w in enumerate(weights))
    assert expected == pytest.approx(0.7599, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="must be between"):
        pass_probability(n, c, k)


def test_samples_without_verdict_are_left_out() -> None:
    scores = np.asarray([[1, 0, nan, nan], [nan, nan, nan, nan], [1, 1, 1, 1]])
    assert prompt_means(scores)[[0, 2]].tolist() == [0.5, 1.0]
    assert isnan(prompt_means(scores)[1])
    assert accuracy(scores) == 0.75
    assert pass_at_k(scores, 1) == 0.75
    assert pass_at_k(scores, 2) == 1.0
    assert pass_at_k(scores, 4) == 1.0  # the first prompt has two verdicts only


def test_no_verdict_at_all_is_nan() -> None:
    nothing = np.full((2, 3), nan)
    assert isnan(accuracy(nothing))
    assert isnan(pass_at_k(nothing, 1))
    assert isnan(majority_at_k([["1"] * 3] * 2, nothing))
    assert isnan(bootstrap_interval(np.zeros(0), 0).low)
    assert isnan(accuracy_interval(nothing, 0).high)
    assert isnan(wilson_interval(0, 0).low)


@pytest.mark.parametrize(
    ("answers", "scores", "expected"),
    [
        (["7", "7", "8"], [1, 1, 0], 1.0),
        (["7", "8", "8"], [1, 0, 0], 0.0),
        (["7", "8"], [1, 0], 0.5),
        (["7", "8", "9"], [1, 0, 0], 1 / 3),
        (["7", None, None], [1, 0, 0], 1.0),
        ([None, None], [0, 0], 0.0),
        (["7", "8", "8"], [1, nan, nan], 1.0),
        (["7", "0.5", "1/2"], [0, 1, 1], 2 / 3),
    ],
)
def test_majority_votes(answers: list[str | None], scores: list[float], expected: float) -> None:
    assert majority_score(answers, scores) == pytest.approx(expected, abs=1e-12)


def test_majority_over_prompts() -> None:
    scores = np.asarray([[1, 1, 0], [0, 0, 1], [nan, nan, nan]])
    assert majority_at_k([["1", "1", "2"], ["3", "3", "4"], ["5", "5", "5"]], scores) == 0.5


def test_wilson_by_hand() -> None:
    # Wilson's interval for 8 of 10 at 95%, z = 1.959964: (0.8 + 0.192073 +- 0.252643) / 1.384146.
    interval = wilson_interval(8, 10)
    assert interval.low == pytest.approx(0.490162, abs=1e-6)
    assert interval.high == pytest.approx(0.943318, abs=1e-6)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_own_equation(case: tuple[int, int]) -> None:
    successes, trials = case
    interval, share = wilson_interval(successes, trials), successes / trials
    for bound in (interval.low, interval.high):
        if 0 < bound < 1:
            z = abs(share - bound) / (bound * (1 - bound) / trials) ** 0.5
            assert z == pytest.approx(1.959964, abs=1e-4)
    assert 0 <= interval.low <= share <= interval.high <= 1
    assert interval.high - interval.low > 0


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    stream = np.random.default_rng(0)
    truth, runs = 0.7, 400
    wilson, bootstrap = 0, 0
    for run in range(runs):
        # Prompts differ in difficulty (mean 0.7) and have four samples each.
        chances = stream.beta(3.5, 1.5, size=100)
        scores = (stream.random((100, 4)) < chances[:, None]).astype(float)
        interval = bootstrap_interval(prompt_means(scores), run, draws=500)
        bootstrap += interval.low <= truth <= interval.high
        interval = wilson_interval(int((stream.random(100) < truth).sum()), 100)
        wilson += interval.low <= truth <= interval.high
    # 95% of 400 is 380, standard deviation 4.4; 5 deviations either way.
    assert 358 <= wilson <= 400
    assert 358 <= bootstrap <= 400


def test_bootstrap_width_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).random(400)
    interval = bootstrap_interval(values, seed=0)
    expected = 2 * 1.96 * values.std() / 20
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)
    assert interval == bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)


def test_one_sample_a_prompt_gives_wilson_and_several_the_bootstrap() -> None:
    single = np.asarray([[1.0]] * 8 + [[0.0]] * 2)
    assert accuracy_interval(single, 0) == wilson_interval(8, 10)
    assert accuracy_interval(np.ones((5, 4)), 0).low < 1.0
    mixed = np.asarray([[1.0, 0.0]] * 5 + [[1.0, 1.0]] * 5)
    assert accuracy_interval(mixed, 0) == bootstrap_interval(prompt_means(mixed), 0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30))
@settings(max_examples=30, deadline=None)
def test_paired_difference_is_antisymmetric(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.asarray([[float(pair[side])] for pair in pairs]) for side in (0, 1))
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.difference == pytest.approx(accuracy(b) - accuracy(a), abs=1e-12)
    assert forward.difference == -backward.difference
    assert forward.interval.low == pytest.approx(-backward.interval.high, abs=1e-9)


def test_pairing_removes_what_prompts_have_in_common() -> None:
    a = np.asarray([[1.0]] * 50 + [[0.0]] * 50)
    b = a.copy()
    b[50:55] = 1.0  # five prompts are gained, none lost
    paired = paired_difference(a, b)
    assert paired.difference == pytest.approx(0.05)
    assert paired.interval.low > 0
    assert wilson_interval(50, 100).high > wilson_interval(55, 100).low  # apart, the intervals overlap


def test_paired_difference_leaves_out_prompts_without_a_verdict() -> None:
    a = np.asarray([[nan], [0.0], [1.0]])
    b = np.asarray([[1.0], [1.0], [nan]])
    assert paired_difference(a, b).prompts == 1
    assert paired_difference(a, b).difference == 1.0
    with pytest.raises(ValueError, match="same prompts, got 3 and 2"):
        paired_difference(a, b[:2])
