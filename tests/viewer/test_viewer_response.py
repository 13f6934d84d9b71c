"""One response in full: places, colours, turns, judges, trees, images."""

import base64
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from viewed_runs import FIRST, Asked, Wrote, rollouts, small_run, token_column, write_record, write_step

from thinkrl.tracking.errors import RunError
from thinkrl.viewer.pages import Pages
from thinkrl.viewer.tokens import Utf16, segments
from thinkrl.viewer.trees import MOST_NODES, read_trees, tree_names
from thinkrl.viewer.values import around, beginning, number_list, plain

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20


def javascript_slice(text: str, begin: int, end: int) -> str:
    """What JavaScript's slice gives: by UTF-16 code units."""
    return text.encode("utf-16-le")[2 * begin : 2 * end].decode("utf-16-le")


@settings(deadline=None)
@given(st.text(max_size=60), st.data())
def test_places_are_those_of_javascript(text: str, data: Any) -> None:
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    here = Utf16(text)([begin, end])
    if not any("\ud800" <= one <= "\udfff" for one in text):
        assert javascript_slice(text, *here) == text[begin:end]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", "😀", "\n", "tool "]), max_size=12)
)
def test_segments_are_the_text_without_a_gap(parts: list[str]) -> None:
    text = "".join(parts)
    turns = [(n, n + 1, bool(n % 3)) for n in range(len(text))]
    found = segments(text, turns, Utf16(text))
    assert found[0]["start"] == 0
    assert all(one["end"] == two["start"] for one, two in pairwise(found))
    assert found[-1]["end"] == len(text.encode("utf-16-le")) // 2


def test_thinking_answer_and_given_text_are_marked(tmp_path: Path) -> None:
    text = "<think>😀 try</think> <tool_response>\n7</tool_response> <answer>2</answer>"
    run = write_record(tmp_path / "run")
    write_step(run, "0_rl", 1, [Asked("p", "?", [Wrote(text, given=["<tool_response>\n7</tool_response> "])])])
    detail = Pages(run).response("0_rl", 1, 0)
    marked = {
        kind: "".join(javascript_slice(text, s["start"], s["end"]) for s in detail["segments"] if kind in s["kinds"])
        for kind in ("think", "answer", "given")
    }
    assert marked["think"] == "😀 try"
    assert marked["answer"] == "2"
    assert marked["given"].strip() == "<tool_response>\n7</tool_response>"
    pieces = [
        javascript_slice(text, b, e) for b, e in zip([0, *detail["token_ends"]], detail["token_ends"], strict=False)
    ]
    assert "".join(pieces) == text
    assert pieces[-1] == "", "the stop token shows nothing"
    assert [piece for piece, given in zip(pieces, detail["given"], strict=True) if given] == [
        "<tool_response>\n",
        "7</tool_response> ",
    ]


def test_every_column_of_tokens_is_a_colour(tmp_path: Path) -> None:
    run, held = write_record(tmp_path / "run"), rollouts(1, [FIRST])
    learner = held.logprobs.with_values(held.logprobs.values + 0.125)
    write_step(run, "0_rl", 1, [FIRST], token_weights=token_column(held, 1.0), learner_logprobs=learner,
               steps=[[1.0, 2.0]] * 4)  # fmt: skip
    detail = Pages(run).response("0_rl", 1, 0)
    colours = {one["name"]: one for one in detail["colours"]}
    assert list(colours) == ["advantage", "logprobs", "entropies", "token_weights", "learner_logprobs",
                             "learner_logprobs-difference"]  # fmt: skip
    count = len(detail["token_ends"])
    assert all(len(one["values"]) == count for one in colours.values())
    assert colours["advantage"]["values"] == [0.75] * count
    assert (colours["advantage"]["scale"], colours["advantage"]["signed"]) == (0.75, True), "the group's largest"
    assert colours["token_weights"]["values"] == list(range(count))
    assert not colours["token_weights"]["signed"]
    assert colours["learner_logprobs-difference"]["values"] == [0.125] * count
    assert detail["other"]["steps"] == [1.0, 2.0]


def test_advantages_by_token_stand_for_themselves(tmp_path: Path) -> None:
    run, held = write_record(tmp_path / "run"), rollouts(1, [FIRST])
    write_step(run, "0_rl", 1, [FIRST], token_advantages=token_column(held, -1.0))
    colours = Pages(run).response("0_rl", 1, 0)["colours"]
    assert [one["name"] for one in colours] == ["token_advantages", "logprobs", "entropies"]
    assert colours[0]["signed"]


def test_given_tokens_have_no_colour(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    write_step(run, "0_rl", 1, [Asked("p", "?", [Wrote("a b c", advantage=1.0, given=["b "])])])
    detail = Pages(run).response("0_rl", 1, 0)
    assert {one["name"]: one["values"][:3] for one in detail["colours"]} == {
        "advantage": [1.0, None, 1.0], "logprobs": [0.0, None, -0.5], "entropies": [0.0, None, 1.0],
    }  # fmt: skip


def test_what_is_known_of_a_response(tmp_path: Path) -> None:
    detail = Pages(small_run(tmp_path / "run")).response("0_rl", 2, 1)
    assert (detail["verdict"], detail["reward"], detail["advantage"]) == ("wrong", 0.5, 0.25)
    assert detail["parts"] == [
        {"name": "answer", "value": 0.5, "weight": 1.0, "contribution": 0.5, "note": "3 is not 2"}
    ]
    assert detail["messages"] == [{"role": "user", "content": "What is 1 + 1?"}]
    assert detail["reference"] == "2"
    assert [one["row"] for one in detail["group"]] == [0, 1, 2, 3]
    assert detail["marks"] == ["wrong", "wrong_rewarded", "wrong_reinforced", "mixed"]
    json.dumps(detail, allow_nan=False)
    json.dumps(Pages(tmp_path / "run").response("1_after", 1, 2), allow_nan=False)


def test_numbers_that_are_none_are_json(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    nan, inf = float("nan"), float("inf")
    strange = Asked("p", "?", [Wrote("a", "timeout", nan, nan), Wrote("b", None, -inf, inf)], reference=[nan, inf])
    write_step(run, "0_rl", 1, [strange], extra=[{"x": nan}, {"x": inf}])
    first, second = Pages(run).responses("0_rl", 1, [0, 1])
    assert (first["reward"], first["advantage"], first["verdict"]) == (None, None, "timeout")
    assert (second["reward"], second["advantage"], second["verdict"]) == ("-Infinity", "Infinity", "")
    assert second["other"]["extra"] == {"x": "Infinity"}
    json.dumps([first, second], allow_nan=False)


def test_a_file_with_nothing_but_texts_shows_them(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    (run / "stages/0_rl/rollouts").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["<answer>1</answer>", None], "messages": ["not json", "[1]"]}),
                   run / "stages/0_rl/rollouts/000001.parquet")  # fmt: skip
    first, second = Pages(run).responses("0_rl", 1, [0, 1])
    assert first["segments"][1]["kinds"] == ["answer"]
    assert first["messages"] == [{"role": "", "content": "not json"}]
    assert (second["text"], second["messages"], second["colours"], second["timeline"]) == (
        "", [{"role": "", "content": "[1]"}], [], [])  # fmt: skip


TOOLS = (
    'Let me see. <tool_call>{"name": "python", "arguments": {"code": "print(7)"}}</tool_call>'
    "\n<tool_response>\n7\n</tool_response>\n"
    "So <tool_call>{oops</tool_call>"
    "\n<tool_response>\nerror: the call is not JSON\n</tool_response>\n"
    "It is <answer>7</answer>"
)
SAID = [
    "\n<tool_response>\n7\n</tool_response>\n",
    "\n<tool_response>\nerror: the call is not JSON\n</tool_response>\n",
]


def test_calls_and_what_tools_said_are_a_timeline(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    calls = json.dumps([{"turn": 1, "tool": "python", "outcome": "done", "reason": ""},
                        {"turn": 2, "tool": "", "outcome": "unreadable", "reason": "not JSON"}])  # fmt: skip
    path = write_step(run, "0_rl", 1, [Asked("p", "?", [Wrote(TOOLS, given=SAID)])])
    table = pq.read_table(path, partitioning=None)
    episode = json.dumps({"episode": "e", "scores": [30, 40.5, 20, 20]})
    pq.write_table(table.append_column("tool_calls", [[calls]]).append_column("episode", [[episode]]), path)
    turns = Pages(run).response("0_rl", 1, 0)["timeline"]
    assert [turn["who"] for turn in turns] == ["policy", "tool", "policy", "tool", "policy"]
    assert turns[0]["text"] == "Let me see."
    assert turns[0]["call"] == {"name": "python", "arguments": {"code": "print(7)"}}
    assert turns[1]["text"] == "7"
    assert "not JSON" in turns[2]["call"]["problem"]
    assert turns[2]["call"]["raw"].startswith("<tool_call>{oops</tool_call>")
    assert turns[3]["text"] == "error: the call is not JSON"
    assert [turn.get("outcomes") for turn in turns] == [["done"], None, ["unreadable: not JSON"], None, None]
    assert [turn.get("scores") for turn in turns] == [[30.0, 40.5], None, [40.5, 20.0], None, [20.0, 20.0]]


def test_the_recipes_own_tags_are_read(tmp_path: Path) -> None:
    config = ("name: demo\nstages:\n  rl:\n    _target_: thinkrl.stages.grpo.GRPO\n    environment:\n      syntax:\n"
              "        call_start: '[['\n        call_end: ']]'\n")  # fmt: skip
    run = write_record(tmp_path / "run", config=config)
    write_step(run, "0_rl", 1, [Asked("p", "?", [Wrote('go [[{"name": "look", "arguments": {}}]]')])])
    assert Pages(run).response("0_rl", 1, 0)["timeline"][0]["call"] == {"name": "look", "arguments": {}}


def test_what_judges_were_asked_of_a_response(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    lines = [{"key": "0" * 32, "call": name, "messages": [{"role": "user", "content": "?"}], "reply": name}
             for name in ("1/sum1/0", "1/sum1/0#1", "1/sum1/1 : 1/sum1/0#swapped", "1/sum1/10", "2/x")]  # fmt: skip
    path = run / "stages/0_rl/quality_transcript.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "torn" + "\n" + '{"call": "1/sum1/0')
    pages = Pages(run)
    judged = pages.response("0_rl", 1, 0)["judged"]
    assert [call["reply"] for call in judged] == ["1/sum1/0", "1/sum1/0#1", "1/sum1/1 : 1/sum1/0#swapped"]
    assert {call["judge"] for call in judged} == {"quality"}
    with path.open("a") as file:  # it goes on where a torn line ended
        file.write('"}\n' + json.dumps({"key": "", "call": "1/sum1/0#2", "reply": "late"}) + "\n")
    assert pages.response("0_rl", 1, 0)["judged"][-1]["reply"] == "late"
    assert pages.response("0_rl", 1, 5)["judged"] == []


def test_trees_keep_parents_before_children(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    leaf = {"text": "2", "value": 1.0, "visits": 1, "children": [], "verdict": "correct"}
    root = {"text": "", "value": None, "visits": 3, "children": [leaf, {"text": "3", "value": float("nan")}]}
    (folder / "000000_sum.json").write_text(json.dumps({"prompt_id": "sum", "tokens": 12, "root": root}))
    (folder / "bare.json").write_text(json.dumps([root, leaf]))
    assert tree_names(tmp_path) == ["000000_sum", "bare"]
    read = read_trees(tmp_path, "000000_sum")
    assert read["facts"] == [{"prompt_id": "sum", "tokens": 12}]
    assert [(node["text"], node["value"], node["visits"], node.get("parent")) for node in read["nodes"]] == [
        ("", None, 3, None), ("2", 1.0, 1, 0), ("3", None, None, 0)]  # fmt: skip
    assert read["nodes"][1]["other"] == {"verdict": "correct"}
    assert [node.get("tree") for node in read_trees(tmp_path, "bare")["nodes"]] == [0, 1, None, None]


def test_trees_that_are_large_deep_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "wide.json").write_text(
        json.dumps({"text": "", "children": [{"text": str(n)} for n in range(MOST_NODES + 9)]})
    )
    wide = read_trees(tmp_path, "wide")
    assert (len(wide["nodes"]), wide["left"]) == (MOST_NODES, 10)
    (folder / "deep.json").write_text('{"children": [' * 50_000 + "{}" + "]}" * 50_000)
    (folder / "list.json").write_text("[1, 2]")
    (folder / "torn.json").write_text('{"text": ')
    for name in ("deep", "list", "torn"):
        with pytest.raises(RunError, match="holds no search tree"):
            read_trees(tmp_path, name)
    with pytest.raises(LookupError):
        read_trees(tmp_path, "../run")


def test_images_are_pictures_of_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    (tmp_path / "secret.png").write_bytes(PNG)
    (run / "picture.png").write_bytes(PNG)
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    page = "data:text/html;base64," + base64.b64encode(b"<script>1</script>").decode()
    images = ["picture.png", url, "../secret.png", str(tmp_path / "secret.png"), page, "data:image/png,x", "gone.png",
              "http://example.org/x.png"]  # fmt: skip
    write_step(run, "0_rl", 1, [Asked("p", "?", [Wrote("a")], metadata={"images": images, "level": 2})])
    detail = Pages(run).response("0_rl", 1, 0)
    shown = detail["images"]
    assert detail["metadata"] == {"level": 2}, "pictures are shown once"
    assert [one.get("url") for one in shown] == [url, url, *[None] * 6]
    assert [one["problem"] for one in shown[2:4]] == ["a file outside the run directory"] * 2
    assert shown[4]["problem"] == "neither PNG, JPEG, GIF nor WebP"


@settings(deadline=None)
@given(st.lists(st.floats(width=32), max_size=20))
def test_rounded_numbers_keep_four_digits(values: list[float]) -> None:
    for value, rounded in zip(values, number_list(np.asarray(values)), strict=True):
        if value != value:
            assert rounded is None
        elif abs(value) == float("inf"):
            assert float(rounded) == value
        else:
            assert rounded == pytest.approx(value, rel=1e-3, abs=1e-300)
    json.dumps(number_list(np.asarray(values)), allow_nan=False)


def test_texts_for_a_list() -> None:
    assert beginning("a\n b", 10) == "a b"
    assert beginning("x" * 30, 10) == "x" * 10 + " …"
    assert "here" in around("x" * 500 + " HERE " + "y" * 500, "here", 60).lower()
    assert around("abc", "zzz", 10) == "abc"
    assert plain({1: (b"ab", np.float32(2.0), {"a"})}) == {"1": ["2 bytes", 2.0, "{'a'}"]}
