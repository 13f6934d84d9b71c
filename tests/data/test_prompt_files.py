import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkrl.data.files import FilePrompts
from thinkrl.data.hub import HubPrompts
from thinkrl.data.rows import RowSchema
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message, Prompt

GSM8K = {
    "question": "Janet has 16 eggs and eats 7 of them. Her 2 hens lay 1,000 more.",
    "answer": "16 - 7 = <<16-7=9>>9\n9 + 1,000 = 1,009\n#### 1,009",
}
CONVERSATION = {
    "messages": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Plus 1?"},
        {"role": "assistant", "content": "5"},
    ]
}


def write(folder: Path, rows: list[dict[str, Any]], suffix: str) -> str:
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sources(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> list[FilePrompts | HubPrompts]:
    files = [write(folder, rows, suffix) for suffix in (".jsonl", ".json", ".parquet")]
    hub = [HubPrompts("json", files=(files[0],), **fields), HubPrompts("parquet", files=(files[2],), **fields)]
    return [*(FilePrompts(path, **fields) for path in files), *hub]


def only(source: FilePrompts | HubPrompts) -> Prompt:
    (prompt,) = source.prompts()
    return prompt


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_gsm8k_rows(tmp_path: Path) -> None:
    for source in sources(tmp_path, [GSM8K], system="Think.", template="Q: {question}"):
        prompt = only(source)
        assert prompt.reference == "1009"
        assert prompt.messages == (Message("system", "Think."), Message("user", f"Q: {GSM8K['question']}"))
        assert prompt.metadata == GSM8K


def test_messages_rows(tmp_path: Path) -> None:
    for source in sources(tmp_path, [CONVERSATION | {"gold": 5}], schema=RowSchema(reference="gold")):
        prompt = only(source)
        assert [turn.content for turn in prompt.messages] == ["2 + 2?", "4", "Plus 1?"]
        assert prompt.reference == 5
        assert prompt.metadata == {"gold": 5}


def test_messages_that_end_with_the_user_have_no_reference(tmp_path: Path) -> None:
    row = {"messages": [{"from": "human", "value": "2 + 2?"}]}
    for source in sources(tmp_path, [row]):
        assert only(source).reference is None
        assert only(source).messages == (Message("user", "2 + 2?"),)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "completion": "4"},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
    ],
)
def test_prompt_completion_rows(tmp_path: Path, row: dict[str, Any]) -> None:
    for source in sources(tmp_path, [row]):
        assert only(source).messages == (Message("user", "2 + 2?"),)
        assert only(source).reference == "4"


def test_a_reference_may_be_nested(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "2 + 2?"}], "reward_model": {"ground_truth": "4", "style": "rule"}}
    for source in sources(tmp_path, [row], schema=RowSchema(reference="reward_model.ground_truth")):
        assert only(source).reference == "4"


def test_math_500_columns(tmp_path: Path) -> None:
    row = {"problem": "$1+1$", "solution": r"It is $\boxed{2}$.", "answer": "2", "unique_id": "test/algebra/1.json"}
    schema = RowSchema(kind="question_answer", question="problem", identity="unique_id")
    for source in sources(tmp_path, [row], schema=schema, template="{question} Use \\boxed{}."):
        prompt = only(source)
        assert (prompt.prompt_id, prompt.reference) == ("test/algebra/1.json", "2")
        assert prompt.messages[0].content == r"$1+1$ Use \boxed{}."
        assert prompt.metadata["question"] == "$1+1$"


def test_size_takes_the_beginning_and_ids_are_unique(tmp_path: Path) -> None:
    rows = [{"question": str(index), "answer": str(index)} for index in range(5)]
    for source in sources(tmp_path, rows, size=3):
        prompts = source.prompts()
        assert [prompt.reference for prompt in prompts] == ["0", "1", "2"]
        assert len({prompt.prompt_id for prompt in prompts}) == 3


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    path = tmp_path / "separators.jsonl"
    question = "a\u2028b\u2029c\x85d\x0be"
    row = json.dumps({"question": question, "answer": "1"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n\n{row}".encode())
    prompts = FilePrompts(str(path)).prompts()
    assert [prompt.messages[0].content for prompt in prompts] == [question, question]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"question": "2 + 2", "ans', "not valid JSON"),
        (b'{"question": "\xff", "answer": "1"}', "not valid JSON"),
        (b'["question"]', "must be an object, got list"),
        (b'{"question": "2 + 2"}', "no known schema in columns \\['question'\\]"),
    ],
)
def test_a_corrupt_line_is_named_by_file_and_line(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "broken.jsonl"
    good = b'{"question": "1 + 1", "answer": "2"}\n'
    path.write_bytes(good + b"\n" + line + b"\n" + good)
    with pytest.raises(DataError, match=f"broken.jsonl line 3: .*{reason}"):
        FilePrompts(str(path)).prompts()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [{"role": "oracle", "content": "x"}]}, "a role of system"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "must end with another role"),
        ({"messages": []}, "list of role and content"),
        ({"messages": "text"}, None),
        ({"prompt": "x", "completion": [{"role": "user", "content": "y"}]}, "one assistant turn"),
        ({"question": "x", "answer": None}, "no value in column 'answer'"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], reason: str | None) -> None:
    path = write(tmp_path, [row], ".jsonl")
    if reason is None:
        assert FilePrompts(path).prompts()[0].messages == (Message("user", "text"),)
        return
    with pytest.raises(DataError, match=f"line 1: .*{reason}"):
        FilePrompts(path).prompts()


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_an_empty_data_set_is_an_error(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match=r"rows\.\w+ holds no rows"):
        FilePrompts(write(tmp_path, [], suffix)).prompts()


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*none\.jsonl"):
        FilePrompts(str(tmp_path / "none.jsonl")).prompts()
    for name in ("bad.parquet", "bad.json"):
        (tmp_path / name).write_bytes(b"not a table")
        with pytest.raises(DataError, match=name):
            FilePrompts(str(tmp_path / name)).prompts()
    (tmp_path / "object.json").write_text('{"data": []}')
    with pytest.raises(DataError, match="must hold a list of objects, got dict"):
        FilePrompts(str(tmp_path / "object.json")).prompts()
    with pytest.raises(ValueError, match=r"path must end with .*, got 'x.csv'"):
        FilePrompts("x.csv")


def test_the_hub_out_of_reach_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"cannot load openai/gsm8k \(config main, .*copy HF_HOME here"):
        HubPrompts("openai/gsm8k", config="main").prompts()
