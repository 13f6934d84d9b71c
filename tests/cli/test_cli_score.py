"""`thinkrl score`: golden values by hand, options, and every kind of bad input."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_cli_start import invoke

from thinkrl.cli.score_table import print_scores, printable
from thinkrl.stages.scoring import Scored, ScoredResponse

RIGHT = "<think>4+3=7\n7-2=5\n5+8=13</think><answer>13</answer>"
SLIPS = "<think>4+3=7\n7-2=6\n6+8=15</think><answer>15</answer>"
LINES: list[dict[str, Any]] = [
    {"prompt_id": "a", "prompt": "4 + 3 - 2 + 8 = ?", "reference": 13, "response": RIGHT},
    {"prompt_id": "a", "response": SLIPS},
    {"prompt_id": "b", "prompt": "?", "reference": "none", "response": "<think>x", "finish_reason": "length"},
    {"prompt_id": "a", "response": "13", "response_id": "bare"},
]
# Correct 1, format 0.1 and true steps 0.4, of which SLIPS has one of three (7-2=6 and 6+8=15 are false).
REWARDS = [1.5, 0.1 + 0.4 / 3, None, 0.0]

JUDGED = """
from dataclasses import dataclass
import numpy as np
from thinkrl.rewards.term import Scores
from thinkrl.rollouts.signals import ENTROPIES, Signal

@dataclass(frozen=True)
class Judge:
    reads_tokens = False
    def signals(self):
        return (Signal("judge", "score of a judge, 0 to 1"),)
    def score(self, rollouts, context):
        return Scores(context.signals["judge"])

@dataclass(frozen=True)
class Calm:
    def signals(self):
        return (ENTROPIES, Signal("step_values", "value of each step", "list"))
    def score(self, rollouts, context):
        context.state["seen"] = context.state.get("seen", 0) + len(rollouts)
        steps = context.signals["step_values"].sums()
        return Scores(np.asarray([-np.mean(row) for row in rollouts.entropies]) + steps)
"""
JUDGED_RECIPE = """
# @package _global_
defaults: [/quickstart/laptop, _self_]
name: judged
reward:
  terms:
    judge:
      weight: {_target_: thinkrl.rewards.schedules.Linear, first: 0.0, last: 1.0}
      term: {_target_: judged_terms.Judge}
    calm: {weight: 0.1, term: {_target_: judged_terms.Calm}}
"""
SIGNALS = {"judge": 0.5, "entropies": [0.5, 1.5], "step_values": [1, 2, 0.5]}


def write(folder: Path, *lines: dict[str, Any] | str) -> str:
    path = folder / "responses.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def rows(*arguments: str) -> list[dict[str, Any]]:
    code, text = invoke("score", *arguments, "--json")
    assert code == 0, text
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path, *LINES)


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "judged_terms.py").write_text(JUDGED)
    (tmp_path / "judged.yaml").write_text(JUDGED_RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "judged_terms", raising=False)
    return str(tmp_path / "judged.yaml")


def test_the_quickstart_reward_by_hand(file: str) -> None:
    found = rows("quickstart", file)
    assert [row["response_id"] for row in found] == ["a/0", "a/1", "b/0", "bare"]
    assert [row["verdict"] for row in found] == ["correct", "wrong", "ungradable", "wrong"]
    assert [row["reward"] for row in found] == pytest.approx(REWARDS, abs=1e-12)
    assert [list(row["terms"].values()) for row in found] == [
        [1.0, 1.0, 1.0],
        [0.0, 1.0, pytest.approx(1 / 3)],
        [None, 0.0, 0.0],
        [0.0, 0.0, 0.0],
    ]
    assert all(row["weights"] == {"correctness": 1.0, "format": 0.1, "true_steps": 0.4} for row in found)
    assert found[2]["contributions"] == {"correctness": None, "format": 0.0, "true_steps": 0.0}
    assert "correctness: no number in the reference 'none'" in found[2]["notes"]
    assert "no reward: correctness gave no number" in found[2]["notes"]
    assert "format: no <think>; no </think>; no <answer>; no </answer>" in found[3]["notes"]


# The group's rewards 1.5, 0.233333 and 0 have mean 0.577778 and squared deviations 0.850494 + 0.118642 + 0.333827
# = 1.302963: standard deviation sqrt(1.302963 / 2) = 0.807144 of a sample, sqrt(1.302963 / 3) = 0.659031 of all.
@pytest.mark.parametrize(
    ("overrides", "advantages"),
    [
        ([], [1.142574, -0.426744, -0.715829]),
        (["algorithm.advantage.std=population"], [1.399360, -0.522653, -0.876708]),
        (["algorithm=dr_grpo"], [0.922222, -0.344444, -0.577778]),
        (["algorithm=rloo"], [1.383333, -0.516667, -0.866667]),
        (["algorithm=reinforce"], [1.5, 0.233333, 0.0]),
    ],
)
def test_group_advantages_by_hand(file: str, overrides: list[str], advantages: list[float]) -> None:
    found = rows("quickstart", file, *overrides)
    assert [found[index]["advantage"] for index in (0, 1, 3)] == pytest.approx(advantages, abs=2e-6)
    assert found[2]["advantage"] is None


def test_one_response_alone_gets_zero_and_a_note(tmp_path: Path) -> None:
    (row,) = rows("quickstart", write(tmp_path, LINES[0]))
    assert row["advantage"] == 0.0
    assert "no other response to this prompt has a reward: the advantage is 0" in row["notes"]


def test_a_stage_without_an_algorithm_has_no_advantage(file: str) -> None:
    assert [row["advantage"] for row in rows("quickstart", file, "--stage", "selection")] == [None] * 4


def test_overrides_weights_and_the_step_are_in_force(file: str) -> None:
    linear = "{_target_:thinkrl.rewards.schedules.Linear,first:0.2,last:1.0}"
    for step, weight in ((1, 0.2), (3, 0.6), (5, 1.0)):  # first and last are those of the first and the last step
        found = rows(
            "quickstart", file, f"reward.terms.format.weight={linear}", "--step", str(step), "--total-steps", "5"
        )
        assert found[0]["weights"]["format"] == pytest.approx(weight)
        assert found[0]["reward"] == pytest.approx(1.4 + weight)
    # The recipe says 60 steps: 30 are (30 - 1) / (60 - 1) of the way.
    (first, *_) = rows("quickstart", file, f"reward.terms.format.weight={linear}", "--step", "30")
    assert first["weights"]["format"] == pytest.approx(0.2 + 0.8 * 29 / 59)


def test_a_given_token_count_is_the_length_and_tokens_share_a_span_reward(tmp_path: Path) -> None:
    length = "reward.terms.long={term:{_target_:thinkrl.rewards.length.LengthPenalty,free_tokens:10,cap_tokens:40}}"
    file = write(tmp_path, {**LINES[0], "token_count": 25}, {**LINES[1], "token_count": 40})
    assert [row["terms"]["long"] for row in rows("quickstart", file, length)] == [-0.5, -1.0]
    found = rows("quickstart", file, "reward.terms.format.scope=span", "algorithm=reinforce")
    assert [len(row["advantage"]) for row in found] == [25, 40]
    # The thinking pays 0.1 a token: what is still to come falls to the reward of the response.
    assert found[0]["advantage"][-1] == pytest.approx(1.4)
    assert found[0]["advantage"] == sorted(found[0]["advantage"], reverse=True)


def test_missing_token_counts_come_from_the_recipes_tokenizer_with_the_stop_token(tmp_path: Path) -> None:
    length = "reward.terms.long={term:{_target_:thinkrl.rewards.length.LengthPenalty,free_tokens:0,cap_tokens:100}}"
    file = write(
        tmp_path,
        *({"prompt_id": "a", "reference": 1, "response": "12 + 3", "finish_reason": r} for r in ("stop", "length")),
    )
    # A character is a token of the tiny model: 6, and the stop token of the response that was finished.
    found = rows("quickstart", file, length, "model=tiny", "model.tokenizer=character")
    assert [row["terms"]["long"] for row in found] == pytest.approx([-0.07, -0.06])
    assert found[0]["notes"][0] == "7 tokens, counted with the recipe's tokenizer"
    code, text = invoke("score", "quickstart", file, length, "model=qwen3_8b")
    assert code == 2
    assert "give each response its token_count" in text


def test_signals_state_and_schedule_of_an_own_recipe(judged: str, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {**LINES[0], "signals": SIGNALS},
        {**LINES[1], "signals": {"judge": None, "entropies": [2.0], "step_values": []}},
    )
    state = tmp_path / "state.json"
    first, second = rows(judged, file, "--step", "60", "--state", str(state))
    assert first["terms"]["judge"] == 0.5
    assert first["terms"]["calm"] == pytest.approx(-1.0 + 3.5)
    assert first["reward"] == pytest.approx(1.5 + 0.5 + 0.25)
    assert second["terms"]["judge"] is None
    assert second["reward"] is None
    assert json.loads(state.read_text())["calm"] == {"seen": 2}
    rows(judged, file, "--state", str(state))
    assert json.loads(state.read_text())["calm"] == {"seen": 4}
    assert [path.name for path in tmp_path.glob("*partial*")] == []
    (early, _) = rows(judged, file)  # weight 0 at the first step
    assert early["reward"] == pytest.approx(1.5 + 0.25)


def test_the_signals_of_a_recipe_are_listed(judged: str) -> None:
    listed = rows("--signals", judged)
    assert [(row["name"], row["read_by"]) for row in listed] == [
        ("judge", ["judge"]), ("entropies", ["calm"]), ("step_values", ["calm"]),
    ]  # fmt: skip
    assert listed[0]["meaning"] == "score of a judge, 0 to 1"
    code, text = invoke("score", "--signals", judged)
    assert code == 0
    assert "a list of numbers, one for each token" in text
    assert "reads no signals" in invoke("score", "--signals", "quickstart")[1]
    penalty = "algorithm.kl_reward={_target_:thinkrl.algorithms.kl.KLReward,coefficient:0.5}"
    assert [row["name"] for row in rows("--signals", "quickstart", penalty)] == ["logprobs", "reference_logprobs"]


def test_a_kl_penalty_reads_log_probabilities(tmp_path: Path) -> None:
    signals = {"logprobs": [-1.0, -2.0], "reference_logprobs": [-1.5, -1.0]}
    penalty = "algorithm.kl_reward={_target_:thinkrl.algorithms.kl.KLReward,coefficient:0.5}"
    (row,) = rows("quickstart", write(tmp_path, {**LINES[0], "signals": signals}), penalty, "algorithm=reinforce")
    # k1 is 0.5 at the first token and -1 at the second; half of each is taken, and returns are summed from behind.
    assert row["advantage"] == pytest.approx([1.5 - 0.25 + 0.5, 1.5 + 0.5])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"judge": ...}, "response 'a/0' lacks the signal 'judge', read by judge: score of a judge, 0 to 1"),
        ({"judge": ...}, '"signals": {"judge": ...} with a number'),
        ({"entropies": ...}, "lacks the signal 'entropies'"),
        ({"judge": [0.5]}, "must be a number, or null, got a list"),
        ({"judge": True}, "must be a number, or null, got a truth value"),
        ({"step_values": 3}, "must be a list of numbers, or null, got a number"),
        ({"step_values": [1, "x"]}, "must be a list of numbers, or null"),
        ({"judge": 10**400}, "too large"),
        ({"entropies": [1.0]}, "numbers of tokens that differ: 2 by token_count, 1 by the signal 'entropies'"),
        ({"juge": 1.0}, "warning: no part of stage grpo declares the signal 'juge'; did you mean judge?"),
    ],
)
def test_signals_that_are_missing_or_do_not_fit(
    judged: str, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    signals = {key: value for key, value in {**SIGNALS, **changes}.items() if value is not ...}
    code, text = invoke("score", judged, write(tmp_path, {**LINES[0], "token_count": 2, "signals": signals}))
    assert code == (0 if "warning" in says else 1)
    assert says in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stage", "gropo"], "did you mean grpo?"),
        (["--stage", "cold_start"], "has no reward; those with one: selection, grpo"),
        (["--step", "61"], "--step must be at most --total-steps, got 61 of 60"),
        (["--step", "3", "--stage", "selection"], "--step 3 needs --total-steps"),
        (["reward.terms.format.wieght=1"], "did you mean weight?"),
        (["algorithm.advantage.stdd=sample"], "did you mean std?"),
        (["rewrd.terms.format.weight=1"], "did you mean reward?"),
        (["algorithm=rlo"], "did you mean rloo?"),
        (["~stages.selection", "~stages.grpo"], "quickstart has no stage with a reward"),
        (["--signals"], "takes no file"),
    ],
)
def test_mistakes_on_the_command_line_exit_2(file: str, arguments: list[str], says: str) -> None:
    code, text = invoke("score", "quickstart", file, *arguments)
    assert code == 2
    assert says in text
    assert "Traceback" not in text


def test_a_file_must_be_named_and_be_there(tmp_path: Path, file: str) -> None:
    for arguments in (["quickstart"], ["quickstart", "seed=1"]):
        assert "name a file of responses" in invoke("score", *arguments)[1]
    code, text = invoke("score", "quickstart", str(tmp_path / "respones.jsonl"))
    assert (code, "did you mean responses.jsonl?" in text) == (1, True)
    assert "is a folder" in invoke("score", "quickstart", str(tmp_path))[1]
    state = tmp_path / "state.json"
    for text, says in (
        ("[1", "not JSON"),
        ("[]", "must hold an object"),
        ('{"corectness": {}}', "did you mean correctness?"),
    ):
        state.write_text(text)
        code, said = invoke("score", "quickstart", file, "--state", str(state))
        assert (code, says in said) == (1, True)
        assert state.read_text() == text


def test_no_nan_or_infinity_is_printed(tmp_path: Path) -> None:
    file = write(tmp_path, LINES[2], {**LINES[2], "response_id": "again"})
    code, text = invoke("score", "quickstart", file, "--json")
    assert code == 0
    for line in text.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_it_answers_without_torch_and_transformers(file: str) -> None:
    program = (
        "import resource, sys; from typer.testing import CliRunner; from thinkrl.cli.app import app\n"
        f"result = CliRunner().invoke(app, ['score', 'quickstart', {file!r}, 'reward.terms.format.weight=1'])\n"
        "assert result.exit_code == 0, result.output\n"
        "print(*[name for name in ('torch', 'transformers', 'datasets', 'wandb') if name in sys.modules])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    modules, seconds = done.stdout.split("\n")[:2]
    assert modules == ""
    assert float(seconds) < 2.0


def test_ten_megabytes_are_scored_in_seconds(tmp_path: Path) -> None:
    texts = ["<think>" + "1+1=2\n" * 1_700_000 + "</think><answer>2</answer>", "(" * 10_000_000, "9" * 10_000_000]
    file = write(tmp_path, *({"prompt_id": "p", "reference": 2, "response": text} for text in texts))
    assert [row["verdict"] for row in rows("quickstart", file)] == ["correct", "wrong", "wrong"]


def printed(scored: Scored, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_scores(console, scored, "recipe, stage", with_advantage=True)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_is_cut_off_at_any_width(width: int) -> None:
    names = ("correctness", "format", "true_steps")
    response = ScoredResponse(
        "p", "p/0", "ungradable", dict.fromkeys(names, 0.3333333), dict.fromkeys(names, 0.25),
        dict.fromkeys(names, 0.1), -0.12345, [-0.5, 0.25], ["format: no <answer>", "alone"],
    )  # fmt: skip
    text = printed(Scored([response], {}), width)
    assert max(map(len, text.splitlines())) <= width
    for part in (*names, "p/0", "ungradable", "-0.1235", "-0.5..0.25", "0.3333", "× 0.25", "no <answer>", "alone"):
        assert part in text
    assert "…" not in text
    assert ("response  verdict" in text) == (width >= 80)


def test_what_a_terminal_would_obey_is_written_out() -> None:
    assert printable("a\x1b[31m\n\ud800é") == "a\\x1b[31m\\n\\ud800é"


def test_the_help_says_what_a_line_holds_and_where_steps_begin() -> None:
    code, text = invoke("score", "--help")
    assert code == 0
    words = " ".join(text.replace("│", " ").split())
    for part in (
        "prompt_id and response",
        "finish_reason (stop or length)",
        "Step of the stage, from 1",
        "thinkrl score quickstart",
    ):
        assert part in words


def test_standard_input_is_read() -> None:
    program = "from thinkrl.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "score", "quickstart", "-", "--json"],
        input=json.dumps(LINES[0]) + "\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["reward"] == 1.5
