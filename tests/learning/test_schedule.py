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
