import pytest

from thinkrl.cli.sweep import _rule
from thinkrl.config.component import ConfigError
from thinkrl.sweeps.stopping import HalvingStop, MedianStop, read_curve


def curve(*values: float) -> dict[int, float]:
    return dict(enumerate(values, start=1))


def test_the_median_rule_by_hand() -> None:
    rule = MedianStop(after=3, others=3)
    others = [curve(1, 2, 3), curve(0, 0, 3), curve(4, 4, 4, 9)]
    # Means up to step 3: 2, 1, 4; their median is 2. The 9 at step 4 lies ahead.
    assert rule.reason(curve(0, 1.9, 0), others)
    assert "median of the means of 3 runs of other points 2" in rule.reason(curve(0, 1.9, 0), others)
    assert not rule.reason(curve(0, 2, 0), others), "not worse than the median"
    assert not rule.reason(curve(0, 1.9), others), "before `after`"
    assert not rule.reason(curve(0, 1.9, 0), others[:2]), "too few others"
    assert not rule.reason(curve(0, 0, 0, 0), others), "only one of them has come to step 4"


def test_lower_may_be_better() -> None:
    rule = MedianStop(after=1, others=1, minimize=True)
    assert rule.reason(curve(3), [curve(2)])
    assert not rule.reason(curve(1), [curve(2)])
    halving = HalvingStop(first=1, factor=2, minimize=True)
    assert halving.reason(curve(3), [curve(2)])
    assert not halving.reason(curve(1), [curve(2)])


def test_halving_by_hand() -> None:
    rule = HalvingStop(first=2, factor=3)
    mine = curve(0, 5)
    assert not rule.reason(mine, [curve(0, 9)]), "two runs: one in three cannot be told yet"
    assert rule.reason(mine, [curve(0, 9), curve(0, 1)]), "second of three, and one goes on"
    assert not rule.reason(curve(0, 9.5), [curve(0, 9), curve(0, 1)])
    six = [curve(0, value) for value in (9, 1, 1, 1, 1)]
    assert not rule.reason(mine, six), "second of six, and two go on"
    assert "the best 2 go on" in rule.reason(curve(0, 0.5), six)


def test_a_rung_is_judged_by_what_was_known_there() -> None:
    rule = HalvingStop(first=2, factor=2)
    late = curve(0, 1, 100)
    assert rule.reason(late, [curve(0, 2, 0)]), "at the rung of step 2 it was behind"
    # From step 4 on the next rung counts; those who have not come there do not.
    assert not rule.reason(curve(0, 1, 1, 1), [curve(0, 2, 0)])
    assert rule.reason(curve(0, 1, 1, 1), [curve(0, 2, 0, 3)])


def test_the_last_quarter_counts() -> None:
    rule = HalvingStop(first=8, factor=2)
    steady = curve(*[1.0] * 8)
    assert rule.reason(steady, [curve(0, 0, 0, 0, 0, 0, 1.5, 1.0)]), "1.25 against 1"
    assert not rule.reason(steady, [curve(9, 9, 9, 9, 9, 9, 0.5, 1.0)])


def test_a_curve_is_of_one_stage_and_without_what_is_no_number() -> None:
    rows = [
        {"stage": "a", "step": 1, "x": 1.0}, {"stage": "b", "step": 1, "x": 2.0}, {"stage": "b", "step": 2, "x": None},
        {"stage": "b", "step": 3, "x": float("nan")}, {"stage": "b", "step": 4, "x": 3}, {"stage": "b", "step": 5},
    ]  # fmt: skip
    assert read_curve(rows, "x", "b") == {1: 2.0, 4: 3.0}  # type: ignore[arg-type]
    assert read_curve([], "x", "b") == {}


def test_rules_are_configuration() -> None:
    assert _rule(None) is None
    assert _rule(["median"]) == MedianStop()
    assert _rule(["after=20", "metric=accuracy"]) == MedianStop(metric="accuracy", after=20)
    assert _rule(["halving", "factor=4", "stage=grpo"]) == HalvingStop(stage="grpo", factor=4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["medain"], "median"),
        (["halving", "facter=4"], "did you mean factor"),
        (["halving", "factor=1"], "factor: must be at least 2"),
        (["median", "after=0"], "after: must be at least 1"),
        (["halving", "first=0"], "first: must be at least 1"),
    ],
)
def test_mistakes_are_told(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _rule(given)
