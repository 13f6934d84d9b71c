"""Distillation from teachers behind a URL: right answers are kept, wrong ones go to a second teacher with a hint."""

import json
import signal
import sys
from pathlib import Path

from cli_process import finish, start
from run_contents import metric_rows

sys.path.append(str(Path(__file__).parents[1] / "judges"))
from chat_double import Answering, serving

RECIPE = """# @package _global_
defaults:
  - /base
  - /model: tiny
  - /stage@stages.teaching: distil
  - /stage@stages.learning: sft
  - _self_

name: distilled
model: {{hidden: 32, intermediate: 48, layers: 1, heads: 2, kv_heads: 2}}
tracker: null
data:
  _target_: thinkrl.data.comparisons.JudgingPrompts
  source: {{_target_: thinkrl.tasks.judging.SmallComparisons, size: 8}}
  template: {{_target_: thinkrl.data.templates.PromptTemplate, user: "{{question}} {{first}} {{second}}"}}
  order: chosen_first
stages:
  teaching:
    teacher: &server {{_target_: thinkrl.judges.chat_server.ChatServer, url: "{url}", model: first, attempts: 1}}
    second: {{_target_: thinkrl.judges.chat_server.ChatServer, url: "{url}", model: second, attempts: 1}}
    extractor: {{sources: [whole]}}
    grader: {{_target_: thinkrl.grading.verdict_marks.VerdictMarkGrader}}
    hint: {{user: "It is {{reference}}."}}
    sampling: {{max_new_tokens: 16}}
  learning:
    traces: {{_target_: thinkrl.stages.artifacts.FromStage, stage: teaching}}
    max_steps: 1
"""


def teach(handler: Answering, body: dict[str, object], before: int) -> None:
    """The first teacher knows sums alone, and fails where a sum has a 0; the second does as it is told, but for wishes
    with an e."""
    turns = body["messages"]
    assert isinstance(turns, list)
    question = turns[0]["content"]
    if body["model"] == "second":
        handler.say("[[B]]" if "e" in question.removeprefix("have") else f"hinted [[{turns[-1]['content'][-2]}]]")
    elif "0" in question:
        handler.send(b"no", 400)
    else:
        handler.say("[[B]]" if question.startswith("have") else "[[A]]")


def test_teachers_write_traces_that_a_model_learns_from(tmp_path: Path) -> None:
    with serving(teach) as server:
        recipe = tmp_path / "distilled.yaml"
        recipe.write_text(RECIPE.format(url=server.url).replace("&server ", ""))
        arguments = ["run", str(recipe), "reuse=false", "--dir", str(tmp_path / "run")]
        assert finish(start(arguments, tmp_path / "log", ("row", 1))) == -signal.SIGKILL
        asked = len(server.bodies)
        assert finish(start(arguments, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
        faults = sum("0" in body["messages"][0]["content"] and body["model"] == "first" for body in server.bodies)
        assert len(server.bodies) == asked + faults // 2  # of the rest, everything was known already
    folder = tmp_path / "run" / "stages" / "0_teaching"
    traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    row = next(row for row in metric_rows(tmp_path / "run") if row["stage"] == "teaching")
    questions = [trace["messages"][0]["content"] for trace in traces]
    assert len(traces) == row["right_first"] + row["right_second"]
    assert row["prompts"] == 8
    assert row["without_answer"] == faults // 2
    for trace, question in zip(traces, questions, strict=True):
        knew = not question.startswith("have") and "0" not in question
        assert trace["response"] == ("[[A]]" if knew else "hinted [[A]]")
        assert knew or "e" not in question.removeprefix("have")
