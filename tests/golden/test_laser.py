"""LASER, LASER-D, LASER-DE (arXiv 2505.15612) and their baselines: golden values, from the released code or by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers, reading, rollouts, score

from thinkrl.rewards.group_length import LengthAmongPassed, LengthRange
from thinkrl.rewards.in_format import ThinkBoxFormat
from thinkrl.rewards.length import BudgetMargin, TargetDistance
from thinkrl.rewards.pass_rate import PassRateBands
from thinkrl.rewards.repetition import repetition_start
from thinkrl.rewards.target_bonus import StepBonus
from thinkrl.rewards.target_search import ExpectedCorrectTargets
from thinkrl.rewards.term import RewardContext

COVERAGE = {
    "easy": [0.1, 0.3, 0.5, 0.7, 0.9, 0.9, 1.0, 1.0],
    "medium": [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.9, 1.0],
    "hard": [0.0, 0.0, 0.1, 0.1, 0.2, 0.4, 0.6, 1.0],
}
GRID: dict[str, Any] = {"lower_tokens": 100, "upper_tokens": 800, "step_tokens": 100}

# Golden 5: an easy group, six of eight right, target 300.
OUTCOMES = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -0.5, -0.5]
LENGTHS = [250, 300, 301, 500, 120, 280, 200, 600]
TARGETS = {"easy": 300, "medium": 400, "hard": 500}
REWARDS_D = [1.5, 1.5, 1.0, 1.0, 1.5, 1.5, -0.5, -0.5]
ADVANTAGES_D = [0.713246, 0.713246, 0.142649, 0.142649, 0.713246, 0.713246, -1.569141, -1.569141]
ADVANTAGES_DE = [0.724568, 0.724568, 0.080508, 0.080508, 0.724568, 0.724568, -1.851674, -1.207613]


@pytest.mark.parametrize(
    ("group_size", "rounding", "longest", "targets"),
    [
        (8, "floor", 800, (200, 500, 800)),  # golden 1
        (16, "floor", 800, (100, 300, 800)),  # golden 2
        (8, "floor", 600, (200, 500, 600)),  # golden 2
        # ceil needs 1/6 and 1/3 where floor needs 1/5 and 1/2: 0.3 is the first easy share, 0.5 the first medium one.
        (8, "ceil", 800, (200, 500, 800)),
        (8, "floor", 150, (150, 150, 150)),
    ],
)
def test_target_search(group_size: int, rounding: Any, longest: int, targets: tuple[int, int, int]) -> None:
    search = ExpectedCorrectTargets(**GRID, group_size=group_size, rounding=rounding)
    found = search.search(COVERAGE, longest)
    assert (found["easy"], found["medium"], found["hard"]) == targets


def test_the_papers_counts_need_less_coverage_than_the_codes() -> None:
    """Required shares: floor 0.2, 0.5, 1; ceil 0.1667, 0.3333, 1."""
    shares = {"easy": [0.17, 0.2], "medium": [0.34, 0.5], "hard": [0.99, 1.0]}
    two: dict[str, Any] = {"lower_tokens": 100, "upper_tokens": 200, "step_tokens": 100}
    floor = ExpectedCorrectTargets(**two).search(shares, 200)
    ceil = ExpectedCorrectTargets(**two, rounding="ceil").search(shares, 200)
    assert floor == {"easy": 200, "medium": 200, "hard": 200}
    assert ceil == {"easy": 100, "medium": 100, "hard": 200}


def test_lengths_that_are_tried() -> None:
    assert ExpectedCorrectTargets(lower_tokens=4096).grid == list(range(4096, 16385, 1024))
    assert ExpectedCorrectTargets(lower_tokens=500, upper_tokens=3000).grid == [500, 1024, 2048]


def test_coverage_counts_all_responses_of_a_band_and_the_monitors_bounds() -> None:
    """One of three right is hard and two of three medium at a monitor; a band without a response covers nothing."""
    seen = rollouts([100, 250, 900, 100, 200, 300], ["a"] * 3 + ["b"] * 3)
    passed = np.asarray([True, False, False, True, True, False])
    found = ExpectedCorrectTargets(**GRID).coverage(passed, seen)
    assert found["hard"] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert found["medium"] == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])
    assert found["easy"] == [0.0] * 8


@pytest.mark.parametrize(
    ("rate", "in_training", "at_monitor"),
    [(0.0, "hard", "hard"), (1 / 3, "medium", "hard"), (0.5, "medium", "medium"), (2 / 3, "easy", "medium"),
     (1.0, "easy", "easy"), (2 / 8, "hard", "hard"), (3 / 8, "medium", "medium"), (6 / 8, "easy", "easy")],
)  # fmt: skip
def test_bands(rate: float, in_training: str, at_monitor: str) -> None:
    bands = PassRateBands()
    assert (bands.band(rate), bands.band(rate, on_threshold="lower")) == (in_training, at_monitor)


@pytest.mark.parametrize(
    ("tokens", "start"),
    [
        (list(range(300)), 300),  # golden 3
        ([*range(200), *[7, 8, 9, 10] * 30], 308),  # golden 3
        ([*range(1, 9), *range(1, 9), *range(1000, 1284)], 0),  # golden 4
        ([*range(1, 6), *range(1, 6), *range(1000, 1290)], 300),  # golden 4
        ([5] * 400, 400),  # one token said over and over is left out
        ([1, 2, 1, 2], 4),  # no longer than 2n
        ([1, 2, 3, 1, 2, 9, 8], 7),  # n = 2: (1, 2) twice, 3 apart, which is not below 7 // 3
        ([], 0),
    ],
)
def test_repetition(tokens: list[int], start: int) -> None:
    assert repetition_start(tokens) == start


def test_a_bigram_twice_and_near_repeats_a_short_text() -> None:
    """Twelve tokens: n = 2, two occurrences 2 apart, closer than 12 // 3 = 4."""
    assert repetition_start([1, 2, 1, 2, *range(10, 18)]) == 0


@pytest.mark.parametrize(("explore", "last"), [(None, 0.0), (-0.5, 1.0)])
def test_step_bonus(explore: float | None, last: float) -> None:
    bonus = StepBonus(ExpectedCorrectTargets(), explore=explore)
    found = bonus.score(rollouts(LENGTHS), reading("outcome", OUTCOMES, {"targets": TARGETS}))
    assert found.values.tolist() == [1, 1, 0, 0, 1, 1, 0, last]
    assert found.metrics == {"target/easy": 300.0, "target/medium": 400.0, "target/hard": 500.0}
    assert found.notes[0] == "target 300 (easy, 0.75 right)"


def test_a_fixed_target_holds_for_every_band_and_its_boundary_is_inside() -> None:
    found = StepBonus(300).score(rollouts([300, 301, 300, 10]), reading("outcome", [1.0, 1.0, -0.5, -1.0]))
    assert found.values.tolist() == [1, 0, 0, 0]


def test_exploring_pays_neither_loops_nor_what_is_out_of_format() -> None:
    loop = [*range(200), *[7, 8, 9, 10] * 30]
    ids = [loop, list(range(320)), list(range(320)), list(range(40))]
    found = StepBonus(300, explore=-0.5).score(
        rollouts([320, 320, 320, 40], ids=ids), reading("outcome", [-0.5, -0.5, -1.0, -0.5])
    )
    assert found.values.tolist() == [0, 1, 0, 0]
    assert found.notes[0].endswith("repeats itself")


def test_a_monitor_sets_the_targets_of_the_next_batch_and_of_those_after() -> None:
    """The next batch's longest response is the limit; later batches do not move the targets."""
    bonus = StepBonus(ExpectedCorrectTargets(**GRID))
    state: dict[str, Any] = {}
    # A group of 8, all right: easy, needs a share of 0.2: two of eight are within 200.
    seen = rollouts([150, 200, 500, 500, 500, 500, 500, 500])
    bonus.observe(seen, reading("outcome", [1.0] * 8, state))
    bonus.score(rollouts([700, 400]), reading("outcome", [1.0, 1.0], state))
    assert state["targets"] == {"easy": 200, "medium": 700, "hard": 700}
    bonus.score(rollouts([90, 100]), reading("outcome", [1.0, 1.0], state))
    assert state["targets"]["hard"] == 700
    assert json.loads(json.dumps(state)) == state  # checkpoints hold JSON
    bonus.observe(seen, reading("outcome", [0.0] * 8, state))
    bonus.score(rollouts([750]), reading("outcome", [1.0], state))
    # All wrong: hard, needs all within: the first length that covers all is 500.
    assert state["targets"] == {"easy": 750, "medium": 750, "hard": 500}


def lines(text: str = "<think>x</think>\\boxed{{{}}}") -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = [
        {"prompt_id": "q", "response": text.format(7 if outcome == 1.0 else 8), "token_count": length}
        for outcome, length in zip(OUTCOMES, LENGTHS, strict=True)
    ]
    given[0] |= {"prompt": "3 + 4 = ?", "reference": "7"}
    return given


@pytest.mark.parametrize(
    ("reward", "rewards", "advantages"),
    [("laser_d", REWARDS_D, ADVANTAGES_D), ("laser_de", [*REWARDS_D[:-1], 0.0], ADVANTAGES_DE)],
)
def test_golden_5_through_score(tmp_path: Path, reward: str, rewards: list[float], advantages: list[float]) -> None:
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"length_bonus": {"targets": TARGETS}}))
    found = score(tmp_path, lines(), "laser/paper", f"reward={reward}", "--state", str(state))
    assert [row["reward"] for row in found] == pytest.approx(rewards, **TOLERANCE)
    assert [row["advantage"] for row in found] == pytest.approx(advantages, **TOLERANCE)
    assert json.loads(state.read_text())["length_bonus"]["targets"] == TARGETS


def test_without_a_state_the_batch_stands_for_the_monitor(tmp_path: Path) -> None:
    found = score(tmp_path, lines(), "laser/paper", "constants.length_target=200", "constants.length_step=100")
    # Easy, required share 0.2: two of eight are within 200.
    assert found[0]["notes"] == ["length_bonus: target 200 (easy, 0.75 right)"]
    assert [row["reward"] for row in found] == [1.0, 1.0, 1.0, 1.0, 1.5, 1.0, -0.5, -0.5]


@pytest.mark.parametrize(
    ("response", "reward", "verdict"),
    [
        ("<think>x</think>\\boxed{7}", 1.5, "correct"),
        ("x</think>\\boxed{7}", 1.5, "correct"),  # the chat template wrote <think>
        ("<think>x</think>7", -1.0, "correct"),  # right, but no box
        ("<think>x \\boxed{7}", -1.0, "wrong"),  # the thinking never ends
        ("x \\boxed{7}", -1.0, "wrong"),  # nor here, where the template began it
        ("<think>x</think>\\boxed{7", -1.0, "wrong"),  # the box never closes
        ("<think>x</think>\\boxed{8}", -0.5, "wrong"),
        ("", -1.0, "wrong"),
    ],
)
def test_outcome_and_format(tmp_path: Path, response: str, reward: float, verdict: str) -> None:
    line = {"prompt_id": "q", "prompt": "?", "reference": "7", "response": response, "token_count": len(response)}
    (found,) = score(tmp_path, [line], "laser/paper", "reward=laser", "constants.length_target=100")
    assert (found["reward"], found["verdict"]) == (reward, verdict)


def test_a_missing_opening_tag_is_out_of_format_without_a_template_that_writes_it() -> None:
    text = ["x</think>\\boxed{7}"]
    assert ThinkBoxFormat().score(rollouts([3], texts=text), RewardContext()).values.tolist() == [0.0]
    assert ThinkBoxFormat("<think>").score(rollouts([3], texts=text), RewardContext()).values.tolist() == [1.0]


def test_baselines_through_score(tmp_path: Path) -> None:
    """By hand, at L_T = 300, on golden 5's group."""
    target = "constants.length_target=300"
    truncated = [1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -0.5, -1.0]
    # Kimi: shortest 120, longest 600: 0.5 - (L - 120) / 480; wrong ones at most 0.
    kimi = [0.5 - (length - 120) / 480 for length in LENGTHS]
    kimi = [1.0 + s for s in kimi[:6]] + [-0.5 + min(0.0, s) for s in kimi[6:]]
    exact = [outcome - 3e-4 * abs(length - 300) for outcome, length in zip(OUTCOMES, LENGTHS, strict=True)]
    # 0.01 (300 - L) + 0.5 between 0 and 1: 1 (250: 1.0), 0.5, 0.49, 0 (500), 1 (120), 0.7; wrong ones nothing.
    maximum = [1.0, 0.5, 0.49, 0.0, 1.0, 0.7, 0.0, 0.0]
    right = numbers(*LENGTHS[:6])  # mean 291.8333, squared deviations 74900.83, population std 111.7295
    z = (right - 291.8333333) / np.sqrt(74900.8333333 / 6)
    sigmoid = [*(1.0 - 0.2 / (1.0 + np.exp(-z))), -0.5, -0.5]
    wanted = [("outcome", OUTCOMES), ("truncation", truncated), ("kimi_length", kimi), ("l1_exact", exact),
              ("l1_max", maximum), ("group_sigmoid", sigmoid)]  # fmt: skip
    for reward, rewards in wanted:
        found = score(tmp_path, lines(), "laser/paper", f"reward={reward}", target)
        assert [row["reward"] for row in found] == pytest.approx(rewards, **TOLERANCE), reward


def test_length_terms_at_their_edges() -> None:
    equal = rollouts([50, 50, 50])
    for term in (LengthAmongPassed(), LengthRange()):
        found = term.score(equal, reading("correctness", [1.0, 1.0, 0.0])).values
        assert found.tolist() == ([0.5, 0.5, 0.0] if isinstance(term, LengthAmongPassed) else [0.0, 0.0, 0.0])
    nothing = LengthAmongPassed().score(equal, reading("correctness", [0.0] * 3))
    assert nothing.values.tolist() == [0.0] * 3
    assert TargetDistance(60).score(equal, RewardContext()).values.tolist() == [10.0] * 3
    assert BudgetMargin(50, slope=0.1).score(equal, RewardContext()).values.tolist() == [0.5] * 3
