"""What became of every call: counted, located by response and turn, and kept in the rollout file."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinkrl.environments.tool_use import ToolUse
from thinkrl.environments.tools import PythonTool
from thinkrl.rollouts.calls import CallOutcome, CallRecord, call_metrics
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.rollouts.tool_calls import tool_metrics
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sandbox.python_sandbox import PythonSandbox
from thinkrl.tracking.rollout_files import read_rollouts, write_rollouts

DONE, FAILED, STOPPED, UNREADABLE, REFUSED, UNANSWERED, FINAL = CallOutcome


@dataclass
class Actor:
    """A sampler that writes, for each prompt, its turns one after the other."""

    policy: Any
    turns: dict[str, list[str]]
    version: int = 0
    asked: list[SampleRequest] = field(default_factory=list)

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        self.asked += requests
        return [[self._one(request, spec) for _ in request.stream_keys] for request in requests]

    def _one(self, request: SampleRequest, spec: SamplingSpec) -> Sample:
        text = self.policy.tokenizer.decode(request.prompt_ids)
        name = next(name for name in self.turns if f"{name}?" in text)
        said = self.turns[name][text.count("<tool_response>")]
        ids = np.asarray(self.policy.tokenizer(said, add_special_tokens=False)["input_ids"], dtype=np.int32)
        cut = len(ids) > spec.max_new_tokens
        ids = ids[: spec.max_new_tokens]
        blank = np.zeros(len(ids), dtype=np.float32)
        return Sample(ids, blank, blank, FinishReason.LENGTH if cut else FinishReason.STOP, 0)


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def code(text: str) -> str:
    return call("python", code=text)


ANSWER = call("answer", answer="\\boxed{7}")


def roll(policy: Any, turns: dict[str, list[str]], most: int = 4096, **fields: Any) -> Rollouts:
    tool = PythonTool(PythonSandbox(wall_seconds=1.0, output_kib=8, memory_mib=128))
    env = ToolUse(**{"tools": {"python": tool}, **fields})
    prompts = [Prompt(name, (Message("user", f"{name}?"),), "7") for name in turns]
    sampler: Any = Actor(policy, turns)
    return env.rollout(policy, sampler, prompts, 1, SamplingSpec(max_new_tokens=most), 0, "s", 0)


TROUBLES = {
    "fine": [code("print(7)"), ANSWER],
    "json": ["<tool_call>{python}</tool_call>", ANSWER],
    "never": [code("print(1)"), code("while True: pass"), ANSWER],
    "flood": [code("print('x' * 100_000)"), ANSWER],
    "error": [code("print(1)\n1 / 0"), ANSWER],
    "memory": [code("x = bytearray(1 << 30)"), ANSWER],
    "unknown": [call("shell", code="ls"), ANSWER],
    "arguments": [call("python", text="1"), ANSWER],
    "silent": ["7<|im_end|>"],
    "endless": [code("1")] * 4,
}
EXPECTED = {
    "fine": [(1, "python", DONE, ""), (2, "answer", FINAL, "")],
    "json": [(1, "", UNREADABLE, "the call is not JSON"), (2, "answer", FINAL, "")],
    "never": [(1, "python", DONE, ""), (2, "python", STOPPED, "wall time"), (3, "answer", FINAL, "")],
    "flood": [(1, "python", STOPPED, "output"), (2, "answer", FINAL, "")],
    "error": [(1, "python", FAILED, "ZeroDivisionError: division by zero"), (2, "answer", FINAL, "")],
    "memory": [(1, "python", STOPPED, "memory"), (2, "answer", FINAL, "")],
    "unknown": [(1, "shell", REFUSED, "there is no tool 'shell'; there are: python, answer"), (2, "answer", FINAL, "")],
    "arguments": [(1, "python", REFUSED, "the arguments must be"), (2, "answer", FINAL, "")],
    "silent": [],
    "endless": [*((turn, "python", DONE, "") for turn in (1, 2, 3)), (4, "python", UNANSWERED, "")],
}


@pytest.fixture(scope="module")
def troubles() -> Rollouts:
    from types import SimpleNamespace

    from thinkrl.models.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer("byte", ("<think>", "</think>"))
    return roll(SimpleNamespace(tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id})), TROUBLES)


@pytest.mark.parametrize("name", TROUBLES)
def test_every_call_is_located(troubles: Rollouts, name: str) -> None:
    found = troubles.calls[list(TROUBLES).index(name)]
    assert len(found) == len(EXPECTED[name])
    for one, (turn, tool, outcome, reason) in zip(found, EXPECTED[name], strict=True):
        assert (one.turn, one.tool, one.outcome) == (turn, tool, outcome)
        assert one.reason.startswith(reason)
        assert bool(one.reason) == bool(reason)


def test_and_counted(troubles: Rollouts) -> None:
    """By hand: 13 calls of tools by ten responses, of which five were answered without error."""
    found = tool_metrics(troubles)
    assert found["tools/turns"] == (2 + 2 + 3 + 2 + 2 + 2 + 2 + 2 + 1 + 4) / 10
    assert found["tools/calls"] == 13 / 10
    assert found["tools/called"] == 9 / 10
    assert found["tools/success"] == 5 / 13
    assert found["tools/answered"] == 8 / 10
    counts = {name: found[f"tools/{name}"] for name in ("failed", "stopped", "unreadable", "refused", "unanswered")}
    assert counts == {"failed": 1, "stopped": 3, "unreadable": 1, "refused": 2, "unanswered": 1}


def test_a_tool_that_never_returns_or_floods_is_told_so_and_the_others_are_not_touched(troubles: Rollouts) -> None:
    texts = dict(zip(TROUBLES, troubles.texts, strict=True))
    assert "<tool_response>\nstopped: it took more than 1 s\n</tool_response>" in texts["never"]
    assert "<tool_response>\nstopped: too much output\n</tool_response>" in texts["flood"]
    assert len(texts["flood"]) < 400
    assert "<tool_response>\n7\n</tool_response>" in texts["fine"]
    for name in ("never", "flood", "json", "error"):
        assert texts[name].endswith(ANSWER)


def test_records_are_kept_in_the_rollout_file(troubles: Rollouts, tmp_path: Path) -> None:
    write_rollouts(tmp_path / "r.parquet", troubles, {}, stage="s", step=1)
    assert read_rollouts(tmp_path / "r.parquet").rollouts.calls == troubles.calls
    assert troubles.select([2, 0]).calls == (troubles.calls[2], troubles.calls[0])
    assert Rollouts.from_responses(troubles.groups, list(troubles)).calls == troubles.calls


def test_a_call_without_room_for_its_answer_is_unanswered(policy: Any) -> None:
    rollouts = roll(policy, {"fine": TROUBLES["fine"]}, most=len(code("print(7)")) + 5)
    assert rollouts.calls == ((CallRecord(1, "python", UNANSWERED),),)
    assert rollouts.finish_reasons == (FinishReason.LENGTH,)


def test_long_names_and_reasons_are_cut(policy: Any) -> None:
    (records,) = roll(policy, {"long": [call("x" * 5000), ANSWER]}, most=20_000, max_turn_tokens=10_000).calls
    assert len(records[0].tool) == len(records[0].reason) == 200


def test_equal_scripts_run_once_and_all_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    original: Callable[..., Any] = PythonSandbox.run_all

    def counted(self: PythonSandbox, programs: Sequence[str]) -> Any:
        ran.append(list(programs))
        return original(self, programs)

    monkeypatch.setattr(PythonSandbox, "run_all", counted)
    scripts = ["print(1)", "print(2)", "print(1)", "print(1)", "print(2)"]
    answers = PythonTool().answer_all([{"code": text} for text in scripts])
    assert [one.text for one in answers] == ["1", "2", "1", "1", "2"]
    assert ran == [["print(1)", "print(2)"]]


def test_metrics_of_no_calls() -> None:
    assert call_metrics([]) == {}
    found = call_metrics([(), ()])
    assert math.isnan(found.pop("tools/success"))
    assert set(found.values()) == {0.0}


def test_rollouts_without_tools_have_no_metrics(troubles: Rollouts, policy: Any) -> None:
    from dataclasses import replace

    assert tool_metrics(replace(troubles, calls=())) == {}
    with pytest.raises(ValueError, match="calls has 1 rows, expected 10"):
        replace(troubles, calls=((),))
