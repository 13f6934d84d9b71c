"""docs/tools.md: its recipe builds, its file reads, its tool works, and every column it names is logged."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.data.traces import FileTraces
from thinkrl.environments.tool_use import ToolUse
from thinkrl.rollouts.calls import CallOutcome, CallRecord, call_metrics
from thinkrl.stages.demonstrate import Demonstrate
from thinkrl.stages.experiment import Experiment

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
((KIND, RECIPE),) = re.findall(r"```(yaml)\n(.*?)```", PAGE, re.DOTALL)


def test_the_recipe_of_the_page(tmp_path: Path) -> None:
    given = yaml.safe_load(RECIPE)
    defaults = [{"/model": "tiny"}, {"/environment": "python_tool"}, *given["defaults"]]
    text = {"defaults": ["/base", *defaults, "_self_"], "name": "shown", "stages": given["stages"]}
    path = tmp_path / "shown.yaml"
    path.write_text(f"# @package _global_\n# A recipe.\n{yaml.safe_dump(text, sort_keys=False)}")
    composed = compose(path)
    stages = build(Experiment, composed.tree, composed).stages
    assert list(stages) == ["demonstrations", "cold_start"]
    first = stages["demonstrations"]
    assert isinstance(first, Demonstrate)
    assert isinstance(first.environment, ToolUse)
    first.check()
    assert first.plan() == "play 200 demonstrations through python"


def test_the_file_of_the_page(tmp_path: Path) -> None:
    (line,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "traces.jsonl"
    path.write_text(line)
    (trace,) = FileTraces(str(path)).traces()
    assert [trace.response[slice(*span)] for span in trace.given] == ["\n<tool_response>\n1776\n</tool_response>\n"]
    called = trace.response.partition("</tool_call>")[0].partition("<tool_call>")[2]
    assert json.loads(called)["arguments"] == {"code": "print(37*48)"}


def test_the_tool_of_the_page() -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    space: dict[str, Any] = {"__name__": "page"}
    exec(source, space)
    tool = space["Lookup"]()
    assert tool.fault({"word": "pi"}) == "" != tool.fault({})
    assert [reply.text for reply in tool.answer_all([{"word": "pi"}, {"word": "e"}])] == ["3.14159", "not found"]


def test_columns_of_the_page_are_those_of_the_log() -> None:
    logged = {"tools/turns", *call_metrics([(CallRecord(1, "python", CallOutcome.DONE),)])}
    assert set(re.findall(r"`(tools/\w+)`", PAGE)) == logged


@pytest.mark.parametrize("name", ["max_turn_tokens", "max_tool_tokens", "max_turns", "tools"])
def test_settings_of_the_page_are_there(name: str) -> None:
    assert f"environment.{name}" in PAGE
    assert name in ToolUse.__dataclass_fields__
