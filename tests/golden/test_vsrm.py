"""VSRM (arXiv 2508.10293): golden values of step rewards, splitter, outcomes and advantages, and the edges of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.rewards.in_order import TextsInOrder
from thinkrl.rewards.step_gains import StepGains
from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.steps import TRIGGER_WORDS, TriggerWordSteps

PLAIN = ("vsrm/paper", "algorithm=reinforce_pp", "~stages.grpo.companions.critic")
SHORT = TriggerWordSteps(first_after=0, apart=1)


@pytest.mark.parametrize(
    ("accuracies", "gains"),
    [
        ([0.2, 0.6, 0.6, 0.6, 1.0], [0.4, 0.196, 0.28, 0.4]),
        ([0, 0, 0, 0, 0, 0, 0.8], [0, 0.19208, 0.2744, 0.392, 0.56, 0.8]),  # the first has exhausted its window
        ([1, 1, 0.4, 1], [-0.42, -0.6, 0.6]),
        ([0.4, 0.4, 0.4], [0, 0]),
        ([1, 0.8, 0.8, 0.2], [-0.2, -0.42, -0.6]),
        ([0, 0, 0, 0, 0.8], [0.2744, 0.392, 0.56, 0.8]),
        ([0, 0, 0, 0, 0], [0, 0, 0, 0]),
        ([0.2, 0.6], [0.4]),
    ],
)
def test_gains_of_the_card(accuracies: list[float], gains: list[float]) -> None:
    assert StepGains().gains(accuracies) == pytest.approx(gains, **TOLERANCE)


def from_the_card(a: list[float], n: int) -> list[float]:
    """The card's pseudocode, for a comparison over many lists."""
    found = []
    for j in range(n):
        d = a[j + 1] - a[j]
        if abs(d) < 1e-5:
            k, t = j + 1, 0
            while t < 4 and k < n and abs(a[k + 1] - a[k]) < 1e-5:
                k, t = k + 1, t + 1
            ahead = (a[k + 1] - a[k]) * 0.7 ** (k - j) if k < n else (a[-1] - a[j]) * 0.7 ** (n - j - 1)
            d = 0.0 if t == 4 else ahead
        found.append(d)
    return found


def test_gains_follow_the_cards_pseudocode_everywhere() -> None:
    stream = np.random.default_rng(0)
    for _ in range(400):
        n = int(stream.integers(1, 12))
        accuracies = np.repeat(stream.integers(0, 6, n + 1) / 5, stream.integers(1, 5, n + 1))[: n + 1].tolist()
        assert StepGains().gains(accuracies) == pytest.approx(from_the_card(accuracies, n), **TOLERANCE)


def test_gains_that_all_change_something_add_up_to_the_whole_and_without_discount_stalls_are_worth_nothing() -> None:
    assert sum(StepGains().gains([0.2, 0.6, 0.4, 1.0])) == pytest.approx(0.8)
    assert StepGains(discount=0.0).gains([0.2, 0.6, 0.6, 1.0]) == pytest.approx([0.4, 0.0, 0.4])


def test_the_splitter_of_the_card() -> None:
    text = "<think>" + 500 * "a" + ". Wait, x. " + 600 * "b" + ". But y. " + 100 * "c" + ". So z. " + 450 * "d"
    assert TriggerWordSteps().starts(text + ". Hmm q. </think> ans") == [1119, 1686]
    cut = len("<think>")
    prompted = TriggerWordSteps(prefix="<think>").starts(text[cut:] + ". Hmm q. </think> ans")
    assert prompted == [1119 - cut, 1686 - cut]


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("<think>ab. wait</think> But no. Wait", [10]),  # what stands behind the thinking has no step
        ("<think>ab. wait. But c", [10, 16]),  # thinking that does not end
        ("<think>ab wait c", [10]),  # no sentence before it: the word's own place
        ("<think>ab. c wait, d but e</think>", [10]),  # two words of one sentence, one step
        ("<think>ab.\ndistribution</think>", [11]),  # words are found inside others
        ("<think>ab. Some</think>", [10]),
        ("<think>ab. some</think>", []),  # the casing counts
        ("wait. But no", []),  # nothing opens the thinking
        ("<think></think>", []),
    ],
)
def test_where_steps_begin(text: str, starts: list[int]) -> None:
    assert SHORT.starts(text) == starts


@pytest.mark.parametrize(("first", "found"), [(999, []), (1000, [1006]), (1001, [1007])])
def test_the_first_step_may_begin_at_character_1000(first: int, found: list[int]) -> None:
    """The word stands `first` characters into the thinking, right after a space behind a full stop."""
    text = "<think>" + (first - 2) * "a" + ". Wait</think>"
    assert text.index("Wait") - len("<think>") == first
    assert TriggerWordSteps().starts(text) == found


@pytest.mark.parametrize(("between", "steps"), [(399, 1), (400, 2)])
def test_steps_are_400_characters_apart(between: int, steps: int) -> None:
    """From where the first step begins to the second's word."""
    text = "<think>" + 1000 * "a" + ".Wait" + (between - 5) * "b" + ".But"
    assert text.index("But") - text.index("Wait") == between
    assert len(TriggerWordSteps().starts(text)) == steps


def test_a_step_that_falls_back_onto_the_last_is_one_with_it_and_may_begin_before_character_1000() -> None:
    text = "<think>" + 700 * "a" + "." + 400 * "b" + "wait" + 600 * "c" + "but"
    assert TriggerWordSteps().starts(text) == [708]


def test_longer_phrases_are_read_first() -> None:
    assert {"Wait", "wait", "WAIT", "But wait", "So", "That's correct, but"} <= set(TRIGGER_WORDS)
    assert SHORT._pattern.match("Wait, but").group() == "Wait, but"  # type: ignore[union-attr]


def scored(texts: list[str], accuracies: list[list[float]]) -> Any:
    batch = rollouts([len(text) for text in texts], texts=texts)
    signals = {"step_accuracies": Ragged.from_rows(accuracies, np.float64)}
    return StepGains(SHORT).score(batch, RewardContext(signals=signals))


def test_a_gain_is_paid_to_the_first_token_of_its_step() -> None:
    text = "<think>a. Wait. But</think>x"
    found = scored([text], [[0.2, 0.6, 0.4]])
    places = [text.index(" Wait"), text.index(" But")]
    assert found.tokens[0][places] == pytest.approx([0.4, -0.2])
    assert np.flatnonzero(found.tokens[0]).tolist() == places
    assert found.values[0] == pytest.approx(0.2)


@pytest.mark.parametrize("accuracies", [[0.2], [0.2, 0.4], [0.2, 0.4, 0.6, 0.8], [], [0.2, float("nan"), 0.4]])
def test_steps_and_accuracies_that_do_not_match_pay_nothing(accuracies: list[float]) -> None:
    found = scored(["<think>a. Wait. But</think>x"], [accuracies])
    assert not found.tokens.values.any()
    assert "no step is paid" in found.notes[0]


def test_without_a_step_there_is_nothing_and_the_last_token_keeps_its_outcome() -> None:
    assert scored(["<think>abc</think>x"], [[]]).notes == ("",)
    last = scored(["<think>ab.w", "<think>ab.wait"], [[], [0.0, 1.0]])
    assert last.tokens[1][10] == 1.0
    only = StepGains(TriggerWordSteps(words=("w",), first_after=0, apart=1))
    batch = rollouts([11], texts=["<think>ab.w"])
    paid = only.score(batch, RewardContext(signals={"step_accuracies": Ragged.from_rows([[0.0, 1.0]], np.float64)}))
    assert not paid.tokens.values.any()  # type: ignore[union-attr]


def test_shares_of_steps_that_add_nothing() -> None:
    found = scored(["<think>a. Wait. But. Hmm</think>x"], [[0.2, 0.6, 0.6, 0.6]])
    assert found.metrics == pytest.approx({"steps": 3.0, "idle_steps": 2 / 3, "steps_after_right": 2 / 3})
    none = scored(["<think>a</think>x"], [[]]).metrics
    assert none == {"steps": 0.0, "idle_steps": 0.0, "steps_after_right": 0.0}


def line(response: str, accuracies: list[float], tokens: list[str] | None = None, **signals: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt_id": "q", "prompt": "?", "reference": 7, "response": response}
    return found | {"tokens": tokens or list(response), "signals": {"step_accuracies": accuracies, **signals}}


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("a</think>\\boxed{7}", 1.0),
        ("a</think>\\boxed{8}", 0.0),
        ("a</think>7", -9.5),
        ("a</think>\\boxed{7", -9.5),  # a box that does not close is none
        ("a \\boxed{7}", -10.0),  # thinking that does not end, whatever it holds
    ],
)
def test_outcomes(tmp_path: Path, response: str, reward: float) -> None:
    (found,) = score(tmp_path, [line(response, [])], *PLAIN)
    assert found["reward"] == reward


def test_texts_in_order() -> None:
    batch = rollouts([1] * 4, texts=["<think>a</think>", "</think><think>", "a</think>", ""])
    assert TextsInOrder().score(batch, RewardContext()).values.tolist() == [1, 0, 0, 0]
    assert TextsInOrder(prefix="<think>").score(batch, RewardContext()).values.tolist() == [1, 1, 1, 0]
    assert TextsInOrder().score(batch, RewardContext()).notes[2] == "no <think> where it should stand"


WORDS = ["a.", " b", " Wait", " c.", " d", " But", "</think>", "\\boxed{7}"]
LOW = ("constants.steps.first_after=0", "constants.steps.apart=1")


def test_token_rewards_returns_and_whitening_of_the_card(tmp_path: Path) -> None:
    """0.4 at token 1, -0.2 at token 4, the outcome at the last; the card's own places are tested with the estimator."""
    response = "".join(WORDS)
    (found,) = score(tmp_path, [line(response, [0.2, 0.6, 0.4], WORDS)], *PLAIN, *LOW)
    returns = numbers(1.2, 1.2, 0.8, 0.8, 0.8, 1.0, 1.0, 1.0)
    assert found["reward"] == 1.0
    assert found["terms"]["steps"] == pytest.approx(0.2, **TOLERANCE)
    expected = (returns - returns.mean()) / returns.std(ddof=1)
    assert found["advantage"] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_ppo_takes_the_critics_values_off_and_whitens_the_rest(tmp_path: Path) -> None:
    response = "".join(WORDS)
    values = [0.5, 0.1, 0.9, 0.4, 0.3, 0.2, 0.8, 0.6]
    given = line(response, [0.2, 0.6, 0.4], WORDS, values=values)
    (found,) = score(tmp_path, [given], "vsrm/paper", *LOW)
    left = numbers(1.2, 1.2, 0.8, 0.8, 0.8, 1.0, 1.0, 1.0) - numbers(*values)
    expected = (left - left.mean()) / left.std(ddof=1)
    assert found["advantage"] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_signals_are_named(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from thinkrl.cli.app import app

    listed = CliRunner().invoke(app, ["score", "--signals", "vsrm/paper", "--json"]).output
    names = {json.loads(row)["name"] for row in listed.splitlines() if row.startswith("{")}
    assert names == {"step_accuracies", "values"}
    missing = line("a</think>7", []) | {"signals": {}}
    file = tmp_path / "missing.jsonl"
    file.write_text(json.dumps(missing))
    refused = CliRunner().invoke(app, ["score", *PLAIN[:1], str(file), *PLAIN[1:]])
    assert refused.exit_code == 1
    assert "step_accuracies" in str(refused.output) + str(refused.exception)
