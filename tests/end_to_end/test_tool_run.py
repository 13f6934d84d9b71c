"""A run whose policy calls tools: killed between two steps and started again, it is the run that was not."""

import json
import signal
from pathlib import Path

import pytest
from cli_process import finish, small_quickstart, start
from run_contents import files, metric_rows

from thinkrl.rollouts.calls import CallOutcome
from thinkrl.rollouts.spans import given_spans
from thinkrl.rollouts.tool_calls import tool_metrics, turn_spans
from thinkrl.tracking.rollout_files import StoredRollouts, read_rollouts

TOOLS = (
    "environment=python_tool",
    "environment.syntax={call_start: '<', call_end: '1'}",
    "environment.max_turn_tokens=40",
    "constants.sampling.max_new_tokens=240",
    "scale.limits.new_tokens=240",
)
"""Any 1 ends a turn, so that a random model has several; its calls cannot be read, and it goes on from that."""


def stored(run: Path, stage: str) -> list[StoredRollouts]:
    folders = [folder for folder in run.glob(f"stages/*_{stage}") if folder.name.partition("_")[2] == stage]
    return [read_rollouts(path) for folder in folders for path in sorted(folder.glob("rollouts/*"))]


@pytest.fixture(scope="module")
def undisturbed_with_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    code = finish(start([*small_quickstart(folder / "run"), *TOOLS], folder / "log"))
    assert code == 0, (folder / "log").read_text()
    return folder / "run"


def test_killed_and_started_again(undisturbed_with_tools: Path, tmp_path: Path) -> None:
    """Killed while it selects traces, of which some of each is given, and again between two steps of GRPO."""
    args, log = [*small_quickstart(tmp_path / "killed"), *TOOLS], tmp_path / "log"
    assert finish(start(args, log, ("rollouts", 3))) == -signal.SIGKILL
    assert {row["stage"] for row in metric_rows(tmp_path / "killed")} == {"cold_start", "after_cold_start", "selection"}
    assert finish(start(args, log, ("rollouts", 4))) == -signal.SIGKILL
    assert metric_rows(tmp_path / "killed")[-1]["stage"] == "grpo"
    assert finish(start(args, log)) == 0, log.read_text()
    assert metric_rows(tmp_path / "killed") == metric_rows(undisturbed_with_tools)
    assert files(tmp_path / "killed") == files(undisturbed_with_tools)


def test_rows_count_the_calls_that_the_rollout_files_locate(undisturbed_with_tools: Path) -> None:
    steps = stored(undisturbed_with_tools, "grpo")
    rows = [row for row in metric_rows(undisturbed_with_tools) if row["stage"] == "grpo"]
    assert max(len(turn_spans(response)) for one in steps for response in one.rollouts) > 1
    for one, row in zip(steps, rows, strict=True):
        found = tool_metrics(one.rollouts)
        assert found
        assert {name: row[name] for name in found if found[name] == found[name]} == {
            name: value for name, value in found.items() if value == value
        }
        for response in one.rollouts:
            assert all(call.turn <= len(turn_spans(response)) for call in response.calls or ())
            assert all(call.outcome is CallOutcome.UNREADABLE for call in response.calls or ())


def test_what_tools_said_is_given_in_the_traces_that_are_learned_from(undisturbed_with_tools: Path) -> None:
    kept = [
        (response.text, given_spans(response))
        for one in stored(undisturbed_with_tools, "selection")
        for response, chosen in zip(one.rollouts, one.columns["kept"], strict=True)
        if chosen
    ]
    (path,) = undisturbed_with_tools.glob("stages/*_selection/traces.jsonl")
    traces = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(trace["response"], trace.get("given", [])) for trace in traces] == [
        (text, [list(span) for span in spans]) for text, spans in kept
    ]


def test_a_run_that_begins_with_demonstrations_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    def run(name: str) -> list[str]:
        small = ("scale=smoke", "tracker=none", "reuse=false", "stages.grpo.checkpoint_every=1")
        return ["run", "tgrl", *small, "--dir", str(tmp_path / name)]

    log = tmp_path / "log"
    assert finish(start(run("whole"), log)) == 0, log.read_text()
    assert finish(start(run("killed"), log, ("row", 1))) == -signal.SIGKILL
    assert finish(start(run("killed"), log, ("rollouts", 3))) == -signal.SIGKILL
    assert finish(start(run("killed"), log)) == 0, log.read_text()
    assert metric_rows(tmp_path / "killed") == metric_rows(tmp_path / "whole")
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    first = metric_rows(tmp_path / "whole")[0]
    assert (first["stage"], first["traces"]) == ("demonstrations", 8)
    assert first["tools/calls"] > 0
