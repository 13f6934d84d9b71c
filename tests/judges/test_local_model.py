"""A judge in this process, and a judge as a companion."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.companions.judge import JudgedResponses
from thinkrl.config.component import UserError
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.templates import PromptTemplate
from thinkrl.judges.backend import Arrived, Surroundings
from thinkrl.judges.judge import Judge
from thinkrl.judges.judgement import Call, Case, Reply
from thinkrl.judges.local_model import LocalModel
from thinkrl.judges.readings import NumberInText, OptionProbability, VerdictInText
from thinkrl.judges.scorers import Pairwise, Pointwise, Scorer
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec

MODEL = TinyModel(hidden=32, intermediate=48, layers=1, heads=2, kv_heads=2, tokenizer="character", init_seed=3)
SPEC = SamplingSpec(temperature=1.0, max_new_tokens=8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def call(text: str, options: tuple[str, ...] = (), key: int = 5) -> Call:
    return Call(text, (Message("user", text),), options, key)


def nothing(place: int, reply: Reply) -> None:
    return


def test_replies_are_what_the_sampler_draws_for_the_same_key() -> None:
    backend = LocalModel(model=MODEL, at_once=2).open(Surroundings())
    replies = backend.ask([call("a"), call("b"), call("a", key=6)], SPEC, nothing)
    policy = MODEL.load()
    renderer = ChatRenderer(policy.tokenizer)
    sampler = LocalModel().sampler.open(policy)
    for reply, (text, key) in zip(replies, (("a", 5), ("b", 5), ("a", 6)), strict=True):
        ((sample,),) = sampler.sample([SampleRequest(renderer.prompt_ids((Message("user", text),)), (key,))], SPEC)
        assert reply.cut == (sample.finish_reason is FinishReason.LENGTH)
        ids = [i for i in sample.token_ids.tolist() if i not in policy.stop_ids]
        assert reply.text == policy.tokenizer.decode(ids)
    assert replies[0].text != replies[2].text


def test_option_probabilities_are_those_of_the_whole_text() -> None:
    options = ("Yes", "No", "<think>")
    (reply,) = LocalModel(model=MODEL).open(Surroundings()).ask([call("a", options)], SPEC, nothing)
    policy = MODEL.load()
    prompt = ChatRenderer(policy.tokenizer).prompt_ids((Message("user", "a"),)).tolist()
    for option in options:
        ids = policy.tokenizer.encode(option, add_special_tokens=False)
        with torch.no_grad():
            logits = policy.module(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        wanted = sum(float(row.log_softmax(-1)[token]) for row, token in zip(logits, ids, strict=True))
        assert reply.options[option] == pytest.approx(wanted, rel=1e-4)


def test_a_prompt_that_does_not_fit_stops_no_other() -> None:
    backend = LocalModel(model=MODEL).open(Surroundings())
    seen: dict[int, Reply] = {}
    replies = backend.ask([call("a"), call("b" * 3000), call("c")], SPEC, seen.__setitem__)
    assert [bool(reply.fault) for reply in replies] == [False, True, False]
    assert "do not fit 2048 positions" in replies[1].fault
    assert [seen[place] for place in range(3)] == replies


def test_weights_of_an_earlier_stage_are_another_judge(tmp_path: Path) -> None:
    policy = TinyModel(hidden=32, intermediate=48, layers=1, heads=2, kv_heads=2, init_seed=9).load()
    folder = save_policy(policy, tmp_path / "model", dict(policy.named_weights()))
    made = Surroundings(model=MODEL, weights=lambda stage: folder if stage == "training" else None)
    base, trained = (LocalModel(model_from=name).open(made).identity for name in ("base", "training"))
    assert base != trained
    assert base == LocalModel(model=MODEL).open(Surroundings()).identity


def test_judged_by_option_with_answers_kept(tmp_path: Path) -> None:
    scorer = Pointwise(OptionProbability({"Yes": 1.0, "No": 0.0}, least_mass=0.0))
    judge = Judge(prompt=PromptTemplate("{response}"), backend=LocalModel(model=MODEL), scorer=scorer)
    cases = [Case(name, {"response": name}) for name in "abc"]
    first = judge.open(Surroundings(folder=tmp_path)).judge(cases)
    assert all(one.score is not None and 0 < one.score < 1 for one in first)
    again = judge.open(Surroundings(folder=tmp_path)).judge(cases)
    assert [one.score for one in again] == [one.score for one in first]


class Scripted:
    """A backend that answers by a rule on the last turn."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "scripted"}

    def check(self, sampling: SamplingSpec) -> None:
        return

    def open(self, surroundings: Surroundings) -> "Scripted":
        return self

    def ask(self, calls: Sequence[Call], sampling: SamplingSpec, arrived: Arrived) -> list[Reply]:
        return [self.rule(one.messages[-1].content) for one in calls]


def rollouts(*texts: str) -> Rollouts:
    """Responses in two groups, by turns."""
    groups = [
        Group(name, Prompt(name, (Message("user", f"q{name}"),), f"gold {name}"), np.zeros(1, np.int32))
        for name in "xy"
    ]
    blank: Any = np.zeros(1, np.float32)
    ids: Any = np.zeros(1, np.int32)
    return Rollouts.from_responses(
        groups,
        [
            Response(
                f"r{row}", "xy"[row % 2], text, FinishReason.STOP, ids, np.ones(1, np.uint8), blank, blank, ids, ids
            )
            for row, text in enumerate(texts)
        ],
    )


def opened(tmp_path: Path, scorer: Scorer, prompt: str, rule: Any, **fields: Any) -> Any:
    judge = Judge(prompt=PromptTemplate(prompt), backend=Scripted(rule), scorer=scorer)
    source = JudgedResponses(judge=judge, **fields)
    source.check()
    start: Any = SimpleNamespace(
        model=None, weights=lambda stage: None, folder=tmp_path, seed=0, closing=Surroundings().closing
    )
    return source.open(start)


def test_scores_become_a_signal_and_failures_are_no_number(tmp_path: Path) -> None:
    def rule(text: str) -> Reply:
        return Reply(fault="late") if "bad" in text else Reply(f"Score: {len(text)}")

    companion = opened(
        tmp_path, Pointwise(NumberInText(high=99)), "{question}: {response}", rule, show="after_thinking"
    )
    found = companion.signals(rollouts("<think>long</think>ab", "bad", "abcd"))["judgement"]
    np.testing.assert_array_equal(found, [len("qx: ab"), np.nan, len("qx: abcd")])
    assert companion.learn(None, None, None) == {"score": 7.0, "ungradable": pytest.approx(1 / 3)}
    assert companion.state().values == {}
    assert "late" in (tmp_path / "judgement_transcript.jsonl").read_text()


def longer_wins(text: str) -> Reply:
    first, second = text.split("|")
    if "none" in text:
        return Reply("I cannot say")
    return Reply("[[A]]" if len(first) > len(second) else "[[B]]")


def test_responses_of_a_group_are_compared_with_each_other_only(tmp_path: Path) -> None:
    companion = opened(
        tmp_path, Pairwise(VerdictInText()), "{first}|{second}", longer_wins, against="group", opponents=2
    )
    batch = rollouts("aaa", "b", "aa", "bb", "a", "bbb")
    np.testing.assert_array_equal(companion.signals(batch)["judgement"], [1.0, 0.0, 0.5, 0.5, 0.0, 1.0])
    assert companion.learn(None, None, None)["order_agreement"] == 1.0


def test_one_opponent_each_is_a_ring_and_a_failed_comparison_is_left_out(tmp_path: Path) -> None:
    companion = opened(tmp_path, Pairwise(VerdictInText()), "{first}|{second}", longer_wins, against="group")
    batch = rollouts("aaaaaa", "b", "none", "bb", "a", "none")  # of the first: 6 and none, none and 1, 1 and 6
    np.testing.assert_array_equal(companion.signals(batch)["judgement"], [1.0, 0.0, np.nan, 1.0, 0.0, np.nan])


def test_a_response_is_compared_with_the_reference(tmp_path: Path) -> None:
    companion = opened(tmp_path, Pairwise(VerdictInText()), "{first}|{second}", longer_wins, against="reference")
    np.testing.assert_array_equal(companion.signals(rollouts("longer than gold", "b"))["judgement"], [1.0, 0.0])


def test_a_judge_of_pairs_with_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs an opponent"):
        opened(tmp_path, Pairwise(VerdictInText()), "{first}|{second}", longer_wins)
    with pytest.raises(UserError, match=r"\{opponent\}"):
        opened(tmp_path, Pointwise(NumberInText()), "{response} {opponent}", longer_wins)
