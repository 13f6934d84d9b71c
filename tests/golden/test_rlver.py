"""RLVER (arXiv 2507.03112): golden values of scores, levels, rewards and advantages, and the edges of each."""

import json
from pathlib import Path
from typing import Any

import pytest
from score_file import TOLERANCE, score
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.rollouts.talks import EmotionScale

TRAINING = EmotionScale()
SAGE = EmotionScale(start=40.0, largest_change=10.0, ends_at=9.0, content_at=100.0)
GRPO = ("rlver/paper", "algorithm=grpo", "~stages.rl.companions")

COURSES: list[tuple[list[float], list[float], float, float]] = [
    ([5, 10, 15, 10], [30, 35, 45, 60, 70], 0.7, 75.0),
    ([-10, -12, -15], [30, 20, 8, -7], 0.0, 10.0),
    ([40, 20, 25], [30, 70, 90, 100], 1.0, 70.0),
    ([20, -5, 8, 0, 12, 3, -2, 6], [30, 50, 45, 53, 53, 65, 68, 66, 72], 0.72, 70.0),
]


def course(scale: EmotionScale, changes: list[float]) -> list[float]:
    scores = [scale.start]
    for change in changes:
        scores.append(scale.after(scores[-1], change))
    return scores


def line(scores: list[float], prompt: str = "s", episode: str = "0", **fields: Any) -> dict[str, Any]:
    about = {"episode": episode, "scores": scores, **fields}
    return {"prompt_id": prompt, "response": "<think>a</think>hi", "signals": {"episode": about}}


@pytest.mark.parametrize(("changes", "scores", "reward", "sage"), COURSES)
def test_scores_and_rewards_of_the_card(
    changes: list[float], scores: list[float], reward: float, sage: float, tmp_path: Path
) -> None:
    found = course(TRAINING, changes)
    assert found == pytest.approx(scores, **TOLERANCE)
    assert [TRAINING.over(score) for score in found[1:]] == [score <= 0 for score in scores[1:]]
    assert course(SAGE, changes)[-1] == pytest.approx(sage, **TOLERANCE)
    assert not any(SAGE.over(score) for score in course(SAGE, changes))  # the second would be scored at 10
    (scored,) = score(tmp_path, [line(found)], *GRPO)
    assert scored["reward"] == pytest.approx(reward, **TOLERANCE)


@pytest.mark.parametrize(
    ("value", "level"),
    [(100, "S"), (99, "A"), (70, "A"), (69, "B"), (40, "B"), (39, "C"), (10, "C"), (9, "F"), (0, "F"), (-7, "F")],
)
def test_levels_of_the_card(value: float, level: str) -> None:
    assert TRAINING.level(value) == level


def test_where_sage_ends() -> None:
    assert [SAGE.over(score) for score in (100.0, 99.0, 10.0, 9.0)] == [True, False, False, True]
    assert course(SAGE, [10] * 7)[-1] == 100.0


LENGTHS = {"a": (3, 0.0), "b": (8, 72.0), "c": (8, 55.0), "d": (2, 0.0)}


def turns() -> list[dict[str, Any]]:
    """A group of four conversations whose turns are responses."""
    return [
        line([30.0] * count + [final], episode=name, turn=number)
        for name, (count, final) in LENGTHS.items()
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("algorithm", "advantages"),
    [
        ("grpo", [-1.683538, 0.821885, 0.230327, -1.683538]),
        ("grpo_episodes", [-0.850911, 1.078713, 0.623108, -0.850911]),
    ],
)
def test_advantages_of_the_card(tmp_path: Path, algorithm: str, advantages: list[float]) -> None:
    found = score(tmp_path, turns(), "rlver/paper", f"algorithm={algorithm}", "~stages.rl.companions")
    assert [found[row]["reward"] for row in (0, 3, 11, 19)] == pytest.approx([0.0, 0.72, 0.55, 0.0], **TOLERANCE)
    assert [found[row]["advantage"] for row in (0, 3, 11, 19)] == pytest.approx(advantages, **TOLERANCE)
    assert len({found[row]["advantage"] for row in range(3, 11)}) == 1


def test_whole_conversations_are_compared_by_the_same_numbers(tmp_path: Path) -> None:
    lines = [line([30.0] * count + [final], episode=name) for name, (count, final) in LENGTHS.items()]
    found = score(tmp_path, lines, *GRPO)
    expected = [-0.850911, 1.078713, 0.623108, -0.850911]
    assert [one["advantage"] for one in found] == pytest.approx(expected, **TOLERANCE)


def test_a_user_that_failed_gives_no_reward_and_moves_nobody(tmp_path: Path) -> None:
    lines = [line([30, 80], episode="a"), line([30, 20], episode="b"), line([30, 95], episode="c", fault="no answer")]
    found = score(tmp_path, lines, *GRPO)
    assert [one["reward"] for one in found] == [0.8, 0.2, None]
    assert [one["verdict"] for one in found] == ["wrong", "wrong", "ungradable"]
    assert found[2]["advantage"] is None
    assert "emotion: no answer" in found[2]["notes"]
    assert found[0]["advantage"] == pytest.approx(-found[1]["advantage"])


def test_the_form_of_thinking_is_asked_for_by_the_text_and_not_by_the_code(tmp_path: Path) -> None:
    bad = {**line([30, 80]), "response": "hi"}
    assert [one["reward"] for one in score(tmp_path, [line([30, 80]), bad], *GRPO)] == [0.8, 0.8]
    found = score(tmp_path, [line([30, 80]), bad], *GRPO, "reward=emotion_think")
    assert [one["reward"] for one in found] == [0.8, 0.0]
    assert "format: no <think>" in found[1]["notes"]


def test_credit_for_turns_adds_up(tmp_path: Path) -> None:
    given = line([30, 50, 45, 72])
    arguments = ("rlver/paper", "algorithm=reinforce_pp", "~stages.rl.companions", "reward=emotion_turns")
    plain = {**given, "tokens": ["<think>a</think>", "hi"]}
    (found,) = score(tmp_path, [plain], *arguments)
    assert found["reward"] == 0.0
    assert any("pays 0.42 in all to tokens" in note for note in found["notes"])


def test_ppo_places_the_reward_on_the_last_token(tmp_path: Path) -> None:
    """lambda = gamma = 1 and a critic that says 0: every token's return is the reward, whitened to 0; values are taken
    off before."""
    tokens = ["<think>", "a", "</think>", "hi"]
    given = {**line([30, 80]), "tokens": tokens}
    given["signals"]["values"] = [0.1, 0.3, 0.5, 0.7]
    (found,) = score(tmp_path, [given], "rlver/paper")
    left = [0.8 - value for value in given["signals"]["values"]]
    mean = sum(left) / 4
    deviation = (sum((value - mean) ** 2 for value in left) / 3) ** 0.5
    assert found["advantage"] == pytest.approx([(value - mean) / deviation for value in left], **TOLERANCE)


def test_the_signals_are_named(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["score", "--signals", "rlver/paper", "--json"]).output
    names = {json.loads(row)["name"] for row in listed.splitlines() if row.startswith("{")}
    assert names == {"episode", "values"}


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        ({"scores": [30, 70]}, "must be an object with episode"),
        ({"episode": "a", "scores": ["30"]}, "scores must be a list of numbers"),
        ({"episode": "a", "scores": []}, "at least one"),
        ({"episode": "a", "scores": [30, 70], "turn": 5}, "turn must be from 0 to 1"),
        ("70", "must be an object with episode"),
    ],
)
def test_an_episode_that_cannot_be_read_is_located(tmp_path: Path, episode: Any, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"prompt_id": "s", "response": "hi", "signals": {"episode": episode}}))
    refused = CliRunner().invoke(app, ["score", GRPO[0], str(file), *GRPO[1:]])
    said = " ".join((str(refused.output) + str(refused.exception)).split())
    assert refused.exit_code == 1
    assert "bad.jsonl:1" in said
    assert message in said
