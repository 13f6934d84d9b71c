"""Comparisons of benchmarks of reward models, and the prompts that ask for a verdict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from thinkrl.data.comparisons import Comparison, ComparisonColumns, FileComparisons, HubComparisons, JudgingPrompts
from thinkrl.data.hub import HubPrompts, HubTraces
from thinkrl.data.rows import RowSchema
from thinkrl.data.source import DataError
from thinkrl.data.templates import PromptTemplate
from thinkrl.rollouts.prompt import Message

TEMPLATE = PromptTemplate("{question}|{first}|{second}")


def file(folder: Path, *rows: Any) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def test_rewardbench_rows(tmp_path: Path) -> None:
    row = {"id": 7, "prompt": "q", "chosen": "good", "rejected": "bad", "subset": "math-prm", "chosen_model": "x"}
    columns = ComparisonColumns(subset="subset", identity="id")
    (one,) = FileComparisons(file(tmp_path, row), columns).comparisons()
    assert one == Comparison("7", (Message("user", "q"),), ("good",), ("bad",), "math-prm")


def test_a_split_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="cannot load nobody/nothing-there"):
        HubComparisons("nobody/nothing-there").comparisons()


def test_rm_bench_rows_have_three_styles_a_side(tmp_path: Path) -> None:
    row = {"id": "a", "prompt": "q", "chosen": ["1", "2", "3"], "rejected": ["x", "y", "z"], "domain": "safety-refuse"}
    source = FileComparisons(file(tmp_path, row), ComparisonColumns(subset="domain", identity="id"))
    prompts = JudgingPrompts(source, TEMPLATE).prompts()
    assert len(prompts) == 9
    assert {(p.metadata["chosen"], p.metadata["rejected"]) for p in prompts} == {
        (i, j) for i in range(3) for j in range(3)
    }
    assert len({p.prompt_id for p in prompts}) == 9
    shown = prompts[5]  # the second style against the third; B is right, as the place is odd
    assert (shown.prompt_id, shown.messages[-1].content, shown.reference) == ("a/12", "q|z|2", "B")


def test_a_conversation_is_a_prompt_and_a_response(tmp_path: Path) -> None:
    row = {"chosen": turns("a", "b", "c", "good"), "rejected": turns("a", "b", "c", "bad")}
    (one,) = FileComparisons(file(tmp_path, row)).comparisons()
    assert [turn.content for turn in one.messages] == ["a", "b", "c"]
    assert (one.chosen, one.rejected, one.question) == (("good",), ("bad",), "c")
    template = PromptTemplate("{conversation}|{first}|{second}")
    (prompt,) = JudgingPrompts(FileComparisons(file(tmp_path, row)), template).prompts()
    assert prompt.messages[0].content == "user: a\nassistant: b\nuser: c|good|bad"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "chosen": "good"}, "line 1: no value in column 'rejected'; the columns are"),
        ({"prompt": "q", "chosen": "good", "rejected": None}, "no value in column 'rejected'"),
        ({"chosen": "good", "rejected": "bad"}, "no value in column 'prompt'"),
        ({"prompt": "q", "chosen": [], "rejected": "bad"}, "chosen must be a text, texts or turns"),
        ({"prompt": "q", "chosen": ["a", 3], "rejected": "bad"}, "chosen must be a text, texts or turns"),
        ({"prompt": "q", "chosen": turns("a"), "rejected": "bad"}, "last turn of chosen must be the assistant's"),
        ({"chosen": turns("a", "x"), "rejected": turns("b", "y")}, "must answer the same prompt"),
    ],
)
def test_a_row_that_is_no_comparison_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        FileComparisons(file(tmp_path, row)).comparisons()


def test_an_empty_file_and_a_missing_subset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        FileComparisons(file(tmp_path)).comparisons()
    row = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    with pytest.raises(DataError, match="no value in column 'subset'"):
        FileComparisons(file(tmp_path, row), ComparisonColumns(subset="subset")).comparisons()


@dataclass(frozen=True)
class Given:
    count: int

    def comparisons(self) -> Sequence[Comparison]:
        return [Comparison(f"c{n}", (Message("user", f"q{n}"),), ("good",), ("bad",)) for n in range(self.count)]


def test_the_reference_is_where_the_better_response_stands() -> None:
    for order in ("chosen_first", "alternate", "random", "both"):
        for prompt in JudgingPrompts(Given(50), TEMPLATE, order).prompts():
            assert prompt.messages[-1].content.split("|")["AB".index(prompt.reference) + 1] == "good"


def test_order_policies() -> None:
    def golds(order: Any, count: int = 400, seed: int = 0) -> str:
        return "".join(prompt.reference for prompt in JudgingPrompts(Given(count), TEMPLATE, order, seed).prompts())

    assert golds("chosen_first", 4) == "AAAA"
    assert golds("alternate", 5) == "ABABA"
    assert golds("both", 2) == "ABAB"
    assert 160 < golds("random").count("A") < 240
    assert golds("random") == golds("random")
    assert golds("random", seed=1) != golds("random")
    assert golds("random", 200) == golds("random")[:200]  # a coin is the comparison's own


def test_a_template_with_an_unknown_place_is_refused() -> None:
    with pytest.raises(DataError, match=r"\{frist\}, which nothing fills; did you mean first\?"):
        JudgingPrompts(Given(1), PromptTemplate("{frist} {second}")).prompts()
    with pytest.raises(DataError, match=r"must have the place \{second\}"):
        JudgingPrompts(Given(1), PromptTemplate("{first}")).prompts()


def test_judgements_of_a_hub_split_are_traces(tmp_path: Path) -> None:
    row = {"context_messages": turns("judge this"), "winner": "because <answer>[[A]]</answer>"}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    schema = RowSchema(kind="prompt_completion", prompt="context_messages", completion="winner")
    source = HubPrompts("json", files=(str(path),), schema=schema)
    (trace,) = HubTraces(source).traces()
    assert trace.response == row["winner"]
    assert trace.prompt.messages == (Message("user", "judge this"),)
    path.write_text(json.dumps({"context_messages": turns("judge this"), "winner": None}) + "\n")
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"context_messages": turns("judge this")}) + "\n")
    with pytest.raises(DataError, match="row 0 has no response"):
        HubTraces(HubPrompts("json", files=(str(other),), schema=schema)).traces()
