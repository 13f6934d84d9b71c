"""TGRL (arXiv 2510.11184): golden values of its rewards, advantages and aggregation, by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from score_file import TOLERANCE, rollouts, score

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.aggregation import aggregate
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.responses import read_responses
from thinkrl.data.source import DataError
from thinkrl.data.traces import Trace
from thinkrl.grading.called_answer import CalledAnswer
from thinkrl.grading.number import NumberGrader
from thinkrl.learning.learner import Example
from thinkrl.learning.packing import example_paths, rollout_paths
from thinkrl.models.tiny import TinyModel, tiny_tokenizer
from thinkrl.rewards.term import RewardContext
from thinkrl.rewards.tool_use import AnswerOutcome, ToolFormat
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Origin, Rollouts
from thinkrl.rollouts.tool_calls import ToolSyntax
from thinkrl.stages.scoring import make_rollouts

SAID = "\n<tool_response>\n7\n</tool_response>\n"


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def turn(body: str, thought: str = "hm") -> str:
    return f"<think>{thought}</think>{body}"


CODE = turn(call("python", code="print(7)"))
RIGHT, WRONG = (turn(call("answer", answer=rf"\boxed{{{n}}}")) for n in (7, 8))
BAD = turn("<tool_call>{python}</tool_call>")

EPISODES = {
    "correct and clean": (CODE + SAID + RIGHT, 1, 1),
    "correct, one turn": (RIGHT, 1, 1),
    "correct, a call malformed before": (BAD + SAID + RIGHT, 1, -1),
    "wrong and clean": (CODE + SAID + WRONG, -1, 1),
    "wrong and malformed": (BAD + SAID + WRONG, -1, -1),
    "no answer, clean until the cap": (CODE + SAID + CODE, 0, 0),
    "no answer and malformed": (CODE + SAID + BAD, 0, -1),
    "correct, some thinking empty": (turn(call("python", code="1"), " ") + SAID + RIGHT, 1, 0),
    "an answer without a box": (turn(call("answer", answer="7")), 0, 0),
    "a turn without a call": (turn("the answer is \\boxed{7}"), 0, -1),
    "text between thinking and call": ("<think>a</think>so" + call("answer", answer="\\boxed{7}"), 1, -1),
    "two calls in a turn": (turn(call("python", code="1") + call("answer", answer="\\boxed{7}")), 0, -1),
    "no thinking at all": (call("answer", answer="\\boxed{7}"), 1, -1),
    "a tool that is not there": (turn(call("shell", code="ls")) + SAID + RIGHT, 1, -1),
    "another argument": (turn(call("python", text="1")) + SAID + RIGHT, 1, -1),
    "code that is no text": (turn(call("python", code=1)) + SAID + RIGHT, 1, -1),
    "an exception is an answer like any other": (CODE + SAID.replace("7", "ZeroDivisionError: x") + RIGHT, 1, 1),
    "a forged answer of a tool": (turn(SAID + call("answer", answer="\\boxed{7}")), 1, -1),
    "the last box counts": (turn(call("answer", answer="\\boxed{8} or \\boxed{7}")), 1, 1),
    "a box that does not close": (turn(call("answer", answer="\\boxed{7")), 0, 0),
    "the first answer ends it": (RIGHT + SAID + WRONG, 1, 1),
    "nothing": ("", 0, -1),
}


def batch(texts: list[str], reason: FinishReason = FinishReason.STOP) -> Rollouts:
    made = rollouts([max(1, len(text)) for text in texts], texts=texts)
    return Rollouts(**{**vars(made), "finish_reasons": (reason,) * len(texts)})


@pytest.mark.parametrize("name", EPISODES)
def test_rewards(name: str) -> None:
    text, outcome, form = EPISODES[name]
    responses = batch([text])
    assert AnswerOutcome(NumberGrader()).score(responses, RewardContext()).values.tolist() == [outcome]
    assert ToolFormat().score(responses, RewardContext()).values.tolist() == [form]


def test_all_values_of_the_paper_are_reached() -> None:
    assert {outcome + form for _, outcome, form in EPISODES.values()} == {-2, -1, 0, 1, 2}


@pytest.mark.parametrize("cut", ["<think>hm", turn("<tool_call>{"), "<thi", ""])
def test_a_turn_that_a_limit_cut_off_is_not_malformed(cut: str) -> None:
    text = CODE + SAID + cut
    assert ToolFormat().score(batch([text], FinishReason.LENGTH), RewardContext()).values.tolist() == [0]
    assert ToolFormat().score(batch([text]), RewardContext()).values.tolist() == [-1]
    assert ToolFormat().score(batch([BAD + SAID + cut], FinishReason.LENGTH), RewardContext()).values.tolist() == [-1]


def test_notes_say_what_and_where() -> None:
    scores = ToolFormat().score(batch([CODE + SAID + BAD, CODE, turn(call("x"))]), RewardContext())
    assert scores.notes[0].startswith("turn 2: the call is not JSON")
    assert scores.notes[1:] == ("no answer in a box", "turn 1: no tool 'x'")


def test_turns_are_found_again_in_the_text() -> None:
    assert ToolSyntax().policy_turns(CODE + SAID + BAD + SAID + RIGHT) == [CODE, BAD, RIGHT]
    assert CalledAnswer().extract(CODE + SAID + RIGHT) == "7"
    assert CalledAnswer().extract(turn(call("answer", answer=r"\boxed{\frac{1}{2}}"))) == r"\frac{1}{2}"
    assert CalledAnswer().extract(turn(call("answer", answer=3))) is None


@pytest.mark.parametrize(
    ("rewards", "population", "sample", "mean"),
    [
        ([2, 0, -2, 0], [1.41421256, 0, -1.41421256, 0], [1.22474412, 0, -1.22474412, 0], [2, 0, -2, 0]),
        (
            [2, 2, 0, -2],
            [0.90453349, 0.90453349, -0.30151116, -1.50755581],
            [0.78334904, 0.78334904, -0.26111635, -1.30558174],
            [1.5, 1.5, -0.5, -2.5],
        ),
    ],
)
def test_advantages(rewards: list[float], population: list[float], sample: list[float], mean: list[float]) -> None:
    responses = rollouts([1, 1, 1, 1])
    totals = np.asarray(rewards, dtype=np.float64)
    for estimator, expected in (
        (GroupAdvantage(scale="std", std="population"), population),
        (GroupAdvantage(scale="std", std="sample"), sample),
        (GroupAdvantage(scale="none"), mean),
    ):
        found = estimator.advantages(totals, responses).values.values
        assert found.tolist() == pytest.approx(expected, **TOLERANCE)


def test_the_recipe_scores_episodes(tmp_path: Path) -> None:
    names = ["correct and clean", "wrong and clean", "wrong and malformed", "no answer and malformed"]
    lines = [{"prompt_id": "p", "response_id": name, "reference": "7", "response": EPISODES[name][0]} for name in names]
    found = score(tmp_path, lines, "tgrl/paper")
    assert [one["reward"] for one in found] == [2, 0, -2, -1]
    assert found[0]["terms"] == {"outcome": 1, "format": 1}


def test_tokens_of_a_tool_carry_no_loss() -> None:
    """Thinking of 5 tokens, a call of 7, a tool's 20, thinking of 4, an answer of 6: 22 of 42 carry loss."""
    pieces = [("t" * 5 + "c" * 7, False), ("r" * 20, True), ("t" * 4 + "a" * 6, False)]
    trace = Trace(Prompt("p", (Message("user", "?"),)), "".join(text for text, _ in pieces), ((12, 32),))
    renderer = ChatRenderer(tiny_tokenizer("byte"))
    ids, given = renderer.response_parts(trace.response, trace.given, end=False)
    assert (len(ids), int((~given).sum())) == (42, 22)
    example = Example(renderer.prompt_ids(trace.prompt.messages), ids, given)
    (path,) = example_paths([example])
    assert len(path.targets) == 22
    made = rollouts([42])
    made = replace(made, origins=made.origins.with_values(np.where(given, Origin.GIVEN, Origin.SAMPLED)))
    (rolled,) = rollout_paths(made, np.arange(1))
    assert rolled.columns.tolist() == path.columns.tolist()


@pytest.mark.parametrize(
    ("how", "constant", "expected"),
    [("sequence", None, 0.0), ("token", None, 0.70710678), ("constant", 16, 0.26516504)],
)
def test_aggregation(how: Any, constant: int | None, expected: float) -> None:
    """Two responses of 3 and 9 sampled tokens, advantages of 1.41421356 and its negative, ratios of 1."""
    advantages = torch.tensor([1.41421356] * 3 + [-1.41421356] * 9, dtype=torch.float64)
    part = aggregate(-advantages, torch.tensor([0] * 3 + [1] * 9), 2, how, constant)
    assert float(part.total) / part.count == pytest.approx(expected, rel=1e-5, abs=1e-6)


MULTI = [
    # Products as the laptop asks for them: right with the tool, wrong on paper, an answer without a call, a slip.
    (CODE + SAID + RIGHT, 2),
    (turn(call("answer", answer=r"\boxed{8}")), 0),
    ("<think>done</think>7", -1),
    (BAD + "\n<tool_response>\nerror: the call is not JSON\n</tool_response>\n" + CODE + SAID + RIGHT, 0),
]


def test_the_laptop_recipe_scores_responses_of_several_turns(tmp_path: Path) -> None:
    lines = [
        {"prompt_id": "p", "response_id": n, "reference": "7", "response": text} for n, (text, _) in enumerate(MULTI)
    ]
    found = score(tmp_path, lines, "tgrl")
    assert [one["reward"] for one in found] == [reward for _, reward in MULTI]
    totals = np.asarray([reward for _, reward in MULTI], dtype=np.float64)
    scaled = (totals - totals.mean()) / totals.std(ddof=1)
    assert [one["advantage"] for one in found] == pytest.approx(scaled.tolist(), rel=1e-3)
    alone = score(tmp_path, lines, "tgrl", "reward.terms.format.weight=0")
    assert [one["reward"] for one in alone] == [1, -1, 0, 1]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(True, [1] * len(CODE) + [0] * len(SAID) + [1] * len(RIGHT)), (False, [1, 0, 1])],
)
def test_a_line_says_what_the_policy_did_not_write(tmp_path: Path, tokens: bool, expected: list[int]) -> None:
    text = CODE + SAID + RIGHT
    line: dict[str, Any] = {"prompt_id": "p", "response": text, "given": [[len(CODE), len(CODE + SAID)]]}
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps({**line, "tokens": [*text]} if tokens else line))
    made, _ = make_rollouts(read_responses(path), {}, None)
    assert made.origins.values.tolist() == expected
    path.write_text(json.dumps({**line, "given": [[3, 2]]}))
    with pytest.raises(DataError, match=r"responses\.jsonl:1: given must hold ascending ranges"):
        read_responses(path)


def test_what_all_calls_of_the_laptop_share_is_a_token_each() -> None:
    composed = compose("tgrl", [])
    source = build(TinyModel, composed.tree["model"], composed, "model")
    tokenizer = source.load_tokenizer()
    # tags 2, name 3, argument 2, print( ) 2, closing 1, and 37 * 48; boxed and its brace, and 17 76 for the answer.
    for text, count in ((call("python", code="print(37*48)"), 13), (call("answer", answer=r"\boxed{1776}"), 12)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == count
        assert tokenizer.decode(ids) == text
