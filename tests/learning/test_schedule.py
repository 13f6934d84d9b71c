import math

import pytest

from thinkrl.learning.schedule import learning_rate_at


def rates(schedule, warmup=2, total=6, steps=8):
    return [learning_rate_at(step, total, 1.0, warmup, schedule) for step in range(steps)]


def test_warmup_rises_to_the_peak_and_never_starts_at_zero():
    assert rates("constant") == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert rates("constant", warmup=0)[0] == 1.0


def test_linear_falls_to_zero_and_stays():
    assert rates("linear") == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_cosine_falls_along_half_a_wave():
    half = math.sqrt(0.5)
    assert rates("cosine") == pytest.approx([0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0, 0.0])


def test_more_warmup_than_steps_stays_below_the_peak():
    assert rates("cosine", warmup=10, total=4, steps=4) == [0.1, 0.2, 0.3, 0.4]


def test_a_falling_rate_may_end_at_a_share_of_the_peak():
    """5e-7 to 1e-7 along half a cosine (arXiv 2502.06781)."""
    found = [learning_rate_at(step, 80, 5e-7, 0, "cosine", 0.2) for step in (0, 40, 80, 90)]
    assert found == pytest.approx([5e-7, 3e-7, 1e-7, 1e-7])
    assert learning_rate_at(5, 10, 1.0, 0, "linear", 0.5) == pytest.approx(0.75)
    assert learning_rate_at(0, 10, 1.0, 2, "linear", 0.5) == 0.5
    assert learning_rate_at(9, 10, 1.0, 0, "constant", 0.5) == 1.0
