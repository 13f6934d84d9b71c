"""A run whose policy calls tools: killed between two steps and started again, it is the run that was not."""

import signal
from pathlib import Path

from cli_process import finish, small_quickstart, start
from run_contents import files, metric_rows

from thinkrl.rollouts.tool_calls import turn_spans
from thinkrl.tracking.rollout_files import read_rollouts

TOOLS = (
    "environment=python_tool",
    "environment.syntax={call_start: '<', call_end: '1'}",
    "scale.limits.new_tokens=60",
)


def test_killed_and_started_again(tmp_path: Path) -> None:
    runs = [[*small_quickstart(tmp_path / name), *TOOLS] for name in ("undisturbed", "killed")]
    log = tmp_path / "log"
    assert finish(start(runs[0], log)) == 0, log.read_text()
    assert finish(start(runs[1], log, ("rollouts", 3))) == -signal.SIGKILL
    assert finish(start(runs[1], log)) == 0, log.read_text()
    assert metric_rows(tmp_path / "killed") == metric_rows(tmp_path / "undisturbed")
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")
    stored = [read_rollouts(path).rollouts for path in sorted((tmp_path / "killed").glob("stages/*grpo/rollouts/*"))]
    assert max(len(turn_spans(response)) for rollouts in stored for response in rollouts) > 1
