import json
from pathlib import Path
from typing import Any

import pytest

from thinkrl.data.source import DataError, json_value, question_text
from thinkrl.data.traces import FileTraces, Trace, read_traces, write_traces
from thinkrl.rollouts.prompt import Message, Prompt

TRACES = [
    Trace(
        Prompt("a", (Message("system", "s"), Message("user", "1 + 1\u2028?")), "2", "test", {"terms": [1, 1]}),
        "<think>1 + 1 = 2</think><answer>2</answer>",
    ),
    Trace(Prompt("b", (Message("user", "naïve 🎉"),), None, "test", {}), ""),
]


def test_round_trip(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "deep" / "traces.jsonl", TRACES)
    assert read_traces(path) == TRACES
    assert FileTraces(str(path)).traces() == TRACES
    assert FileTraces(str(path), size=1).traces() == TRACES[:1]
    assert path.read_bytes().count(b"\n") == len(TRACES)
    assert [file.name for file in path.parent.iterdir()] == ["traces.jsonl"]


def test_equal_traces_are_equal_bytes(tmp_path: Path) -> None:
    first, second = write_traces(tmp_path / "1.jsonl", TRACES), write_traces(tmp_path / "2.jsonl", TRACES)
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "traces.jsonl", TRACES)
    broken = Trace(Prompt("c", (Message("user", "\ud800"),)), "")
    with pytest.raises(UnicodeEncodeError):
        write_traces(path, [broken])
    assert read_traces(path) == TRACES


def test_a_corrupt_trace_is_named(tmp_path: Path) -> None:
    path = write_traces(tmp_path / "traces.jsonl", TRACES)
    path.write_bytes(path.read_bytes() + b'{"prompt_id": "c"}\n')
    with pytest.raises(DataError, match=r"traces.jsonl line 3: expected the keys"):
        read_traces(path)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]},
        {"prompt": "1 + 1?", "completion": "2"},
        {"question": "1 + 1?", "answer": "2"},
    ],
)
def test_usual_schemas(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    (trace,) = FileTraces(str(path)).traces()
    assert trace.prompt.messages == (Message("user", "1 + 1?"),)
    assert trace.response == "2"


def test_a_row_without_response_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "x", "completion": "y"}\n{"prompt": "x"}\n')
    with pytest.raises(DataError, match=r"rows.jsonl row 1 has no response"):
        FileTraces(str(path)).traces()


def test_question_text_ignores_wording_and_white_space() -> None:
    wrapped = Prompt("a", (Message("user", "Solve: 1 + 1\n = ?"),), metadata={"question": "1  + 1\n = ?"})
    plain = Prompt("b", (Message("system", "s"), Message("user", "1 + 1 = ?")))
    assert question_text(wrapped) == question_text(plain) == "1 + 1 = ?"


def test_json_values() -> None:
    import numpy as np

    value = {1: (np.float32(0.5), np.arange(2)), "set": {"b", "a"}, "bad": float("nan"), "other": Path("x")}
    assert json_value(value) == {"1": [0.5, [0, 1]], "set": ["a", "b"], "bad": "nan", "other": "x"}
