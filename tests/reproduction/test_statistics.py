"""Intervals over seeds and prompts, against closed forms; verdicts against their definition."""

import numpy as np
import pytest

from thinkrl.reproduction.statistics import Estimate, Verdict, decide, over_seeds, over_seeds_and_prompts, overall


def test_means_and_seeds_by_hand() -> None:
    method, baseline = np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([[0.5, 0.5], [0.0, 0.5]])
    difference = over_seeds_and_prompts(method, baseline, "difference")
    assert difference.value == pytest.approx(0.25)
    assert difference.per_seed == pytest.approx((0.25, 0.25))
    ratio = over_seeds_and_prompts(method, baseline, "ratio")
    assert ratio.value == pytest.approx(2.5 / 1.5)


def test_what_has_no_verdict_in_one_arm_is_left_out_of_both() -> None:
    method, baseline = np.array([[1.0, np.nan, 1.0]]), np.array([[0.0, 1.0, np.nan]])
    assert over_seeds_and_prompts(method, baseline, "difference").value == 1.0
    nothing = over_seeds_and_prompts(np.full((1, 2), np.nan), baseline[:, :2], "difference")
    assert np.isnan(nothing.low)
    assert decide(nothing, 0.0, None) == "inconclusive"


def test_one_seed_gives_the_plain_bootstrap_over_prompts() -> None:
    # The bootstrap's spread of a mean of n independent values is their standard deviation over sqrt(n).
    rng = np.random.default_rng(0)
    differences = rng.normal(0.3, 1.0, 400)
    estimate = over_seeds_and_prompts(differences[None], np.zeros((1, 400)), "difference")
    half = 1.96 * differences.std() / np.sqrt(400)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.05)


def test_prompts_common_to_all_seeds_are_not_counted_as_independent() -> None:
    # Ten seeds that repeat one another know no more than one seed.
    differences = np.random.default_rng(1).normal(0, 1, 200)
    one = over_seeds_and_prompts(differences[None], np.zeros((1, 200)), "difference")
    ten = over_seeds_and_prompts(np.tile(differences, (10, 1)), np.zeros((10, 200)), "difference")
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.05)


def test_spread_between_seeds_widens_the_interval() -> None:
    alike = over_seeds_and_prompts(np.full((4, 50), 0.2), np.zeros((4, 50)), "difference")
    apart = over_seeds_and_prompts(np.repeat([[0.0], [0.4], [0.0], [0.4]], 50, axis=1), np.zeros((4, 50)), "difference")
    assert alike.high - alike.low == pytest.approx(0, abs=1e-12)
    # Means of 4 draws from {0, 0.4}: their standard deviation is 0.1.
    assert apart.high - apart.low == pytest.approx(4 * 0.1, abs=0.02)


def test_one_number_a_seed_has_students_interval() -> None:
    estimate = over_seeds([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "difference")
    assert estimate.value == 2.0
    assert estimate.high - 2.0 == pytest.approx(4.303 / np.sqrt(3))  # t with 2 degrees of freedom, deviation 1
    assert np.isnan(over_seeds([1.0], [0.0], "difference").low)
    assert over_seeds([1.0, 3.0], [2.0, 2.0], "ratio").per_seed == (0.5, 1.5)


def test_arms_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        over_seeds_and_prompts(np.zeros((1, 2)), np.zeros((1, 3)), "difference")


@pytest.mark.parametrize(
    ("low", "high", "at_least", "at_most", "verdict"),
    [
        (0.1, 0.3, 0.1, None, "reproduced"),
        (0.0, 0.3, 0.1, None, "inconclusive"),
        (0.0, 0.09, 0.1, None, "not reproduced"),
        (0.5, 0.9, None, 0.9, "reproduced"),
        (0.5, 1.0, None, 0.9, "inconclusive"),
        (0.95, 1.0, None, 0.9, "not reproduced"),
        (np.nan, np.nan, 0.0, None, "inconclusive"),
    ],
)
def test_a_verdict_follows_from_interval_and_bound(
    low: float, high: float, at_least: float | None, at_most: float | None, verdict: Verdict
) -> None:
    assert decide(Estimate((low + high) / 2, low, high, ()), at_least, at_most) == verdict


def test_a_claim_is_as_good_as_its_worst_check() -> None:
    assert overall(["reproduced", "inconclusive"]) == "inconclusive"
    assert overall(["inconclusive", "not reproduced", "reproduced"]) == "not reproduced"
    assert overall(["reproduced"]) == "reproduced"
    assert overall([]) == "inconclusive"
