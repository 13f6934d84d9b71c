"""`thinkrl score` says of a run's responses what the run itself said, and its page runs as it stands."""

import json
import re
import shlex
from pathlib import Path

import pytest
from cli_process import SMALL
from test_records import grpo_files
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.tracking.rollout_files import read_rollouts

PAGE = (Path(__file__).parents[2] / "docs" / "score.md").read_text()


def score(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["score", *arguments], env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_a_runs_own_responses_score_as_in_the_run(undisturbed: Path, tmp_path: Path) -> None:
    stored = read_rollouts(grpo_files(undisturbed)[1])
    lines = [
        {
            "prompt_id": response.group_id,
            "response_id": response.response_id,
            "response": response.text,
            "finish_reason": response.finish_reason.value,
            "token_count": response.token_count,
            "reference": stored.rollouts.prompt(row).reference,
            "prompt": [vars(message) for message in stored.rollouts.prompt(row).messages],
        }
        for row, response in enumerate(stored.rollouts)
    ]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    step = str(stored.step)
    found = [json.loads(line) for line in score("quickstart", str(file), *SMALL, "--step", step, "--json")]
    assert len(found) == len(lines) > 1
    for row, one in enumerate(found):
        assert one["response_id"] == lines[row]["response_id"]
        for key in ("verdict", "reward"):
            assert one[key] == stored.columns[key][row]
        assert one["advantage"] == pytest.approx(stored.columns["advantage"][row], abs=1e-12)
        for name, value in one["terms"].items():
            assert value == stored.columns[f"term/{name}"][row]
            assert one["weights"][name] == stored.columns[f"weight/{name}"][row]
            assert one["contributions"][name] == stored.columns[f"contribution/{name}"][row]


def test_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
    (responses,) = [body for kind, body in blocks if kind == "json"]
    (tmp_path / "responses.jsonl").write_text(responses)
    commands = [
        line.partition("  #")[0] for kind, body in blocks if kind == "bash" for line in body.splitlines() if line
    ]
    assert len(commands) >= 4
    printed = {command: score(*shlex.split(command)[2:]) for command in commands}
    (shown,) = [body for kind, body in blocks if kind == "text"]
    assert [line.rstrip() for line in printed[commands[0]]] == shown.splitlines()
