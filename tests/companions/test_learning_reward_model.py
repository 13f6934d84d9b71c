"""A reward model that learns along: what it learns, that it keeps exactly, and an assistant that rewrites."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.companions.pair_update import PairUpdate
from thinkrl.companions.reward_model import RewardModel
from thinkrl.companions.rewriting import AssistantRewriting, CarriedSlip, Original
from thinkrl.config.component import UserError
from thinkrl.data.judged import JudgedText
from thinkrl.data.templates import PromptTemplate
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.verdict import Verdict
from thinkrl.judges.chat_server import ChatServer
from thinkrl.learning.value_model import ValueLearner
from thinkrl.models.heads import load_scalar_model, scalar_model
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts

sys.path.append(str(Path(__file__).parents[1] / "judges"))
from chat_double import Answering, serving

TINY = TinyModel(hidden=32, intermediate=64, layers=2, heads=2, kv_heads=2, tokenizer="character", device="cpu")
READS = JudgedText(template="{question} {reference} {response}")
NOTHING: Any = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model that says 0 of everything."""
    model = scalar_model(TINY.load(for_training=True, seed=1), for_training=True)
    assert model.masters is not None
    return save_policy(model, tmp_path_factory.mktemp("models") / "start", model.masters)


def opened(folder: Path, update: bool = True, **settings: Any) -> Any:
    learner = ValueLearner(**{"learning_rate": 5e-3, **settings})
    pairs = PairUpdate(rewriting=CarriedSlip(), grader=NumberGrader(), learner=learner)
    source = RewardModel(
        source=str(folder), reads=READS, dtype="float32", device="cpu", update=pairs if update else None
    )
    source.check()
    start: Any = SimpleNamespace(seed=0, total_steps=40)
    return source.open(start)


def batch(step: int = 0, right: int = 1) -> Rollouts:
    """Four prompts with two responses, of which the first `right` are right."""
    groups, responses = [], []
    for n in range(4):
        a, b = (step + n) % 5, (2 * step + 3 * n) % 5
        groups.append(
            Group(f"{step}/{n}", Prompt(f"p{n}", (Message("user", f"{a}+{b}"),), str(a + b)), np.zeros(1, np.int32))
        )
        for place in range(2):
            result = a + b + (0 if place < right else 3)
            text = f"<think>{a}+{b}={result}</think><answer>{result}</answer>"
            blank = np.zeros(1, np.float32)
            responses.append(
                Response(f"{step}/{n}/{place}", f"{step}/{n}", text, FinishReason.STOP, np.zeros(1, np.int32),
                         np.ones(1, np.uint8), blank, blank, np.zeros(1, np.int32), np.asarray([len(text)], np.int32))
            )  # fmt: skip
    return Rollouts.from_responses(groups, responses)


def judged(right: int = 1, totals: float = 0.5) -> RewardResult:
    verdicts = tuple(Verdict.CORRECT if place < right else Verdict.WRONG for _ in range(4) for place in range(2))
    return RewardResult(np.full(8, totals), verdicts=verdicts)


def test_right_responses_rise_above_their_slips_and_the_batch_was_scored_before(folder: Path) -> None:
    model = opened(folder)
    first = model.signals(batch())["model_score"]
    metrics = [model.learn(batch(), judged(), NOTHING)]
    assert first.tolist() == [0.0] * 8  # what was said stays said
    assert metrics[0]["loss"] == pytest.approx(np.log(2))
    assert (metrics[0]["pair_accuracy"], metrics[0]["without_pair"], metrics[0]["auc"]) == (0.5, 0.0, 0.5)
    for _ in range(30):
        model.signals(batch())
        metrics.append(model.learn(batch(), judged(), NOTHING))
    assert metrics[-1]["loss"] < 0.3 * np.log(2)
    assert metrics[-1]["pair_accuracy"] == 1.0


def test_without_a_right_response_nothing_is_learned(folder: Path) -> None:
    model = opened(folder, weight_decay=0.5)
    before = model.state()
    model.signals(batch())
    metrics = model.learn(batch(), judged(right=0), NOTHING)
    assert metrics["without_pair"] == 1.0
    assert "loss" not in metrics
    after = model.state()
    assert all(torch.equal(data, after.tensors[name]) for name, data in before.tensors.items() if "weight" in name)


def test_what_is_paid_beyond_what_is_right(folder: Path) -> None:
    model = opened(folder, update=False)
    model.signals(batch())
    assert model.learn(batch(), judged(totals=0.9), NOTHING)["overpaid"] == pytest.approx(0.4)
    assert model.learn(batch(), judged(totals=np.nan), NOTHING).keys() == {"auc", "unread", "score", "variance"}


def test_it_goes_on_from_its_state_bit_for_bit_and_what_it_saves_loads(folder: Path, tmp_path: Path) -> None:
    one, other = opened(folder), opened(folder)
    one.signals(batch())
    one.learn(batch(), judged(), NOTHING)
    other.load_state(one.state())
    for model in (one, other):
        model.signals(batch(1))
        model.learn(batch(1), judged(), NOTHING)
    said = [model.signals(batch(2))["model_score"] for model in (one, other)]
    assert said[0].tolist() == said[1].tolist()
    assert said[0].any()
    one.save(tmp_path / "saved")
    load_scalar_model(tmp_path / "saved", dtype="float32", for_training=False, device="cpu")
    again = opened(tmp_path / "saved", update=False)
    assert again.signals(batch(2))["model_score"].tolist() == said[0].tolist()
    again.save(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    assert again.state().tensors == {}


def test_it_learns_the_same_however_texts_are_batched(folder: Path) -> None:
    found = []
    for tokens in (8, 2048):
        model = opened(folder, row_tokens=tokens, micro_batch_tokens=tokens)
        for step in range(3):
            model.signals(batch(step))
            metrics = model.learn(batch(step), judged(), NOTHING)
        found.append(metrics["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


PROMPT = PromptTemplate(user="{question} is answered by {response}. Err.")


def rewriting(url: str) -> AssistantRewriting:
    backend = ChatServer(url=url, model="m", attempts=1, call_seconds=5.0)
    return AssistantRewriting(prompt=PROMPT, backend=backend)


def test_an_assistant_is_shown_problem_and_response_and_asked_anew_each_time(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def behave(handler: Answering, body: dict[str, Any], before: int) -> None:
        seen.append((body["messages"][-1]["content"], body["seed"]))
        if "1+1" in body["messages"][-1]["content"]:
            handler.say("it is 3, surely", finish="length")
        else:
            handler.say(f" wrong {before} ")

    from contextlib import ExitStack

    originals = [
        Original(name, Prompt(name, (Message("user", question),), "9"), answer)
        for name, question, answer in (("a", "4+5", "9"), ("b", "1+1", "2"))
    ]
    with serving(behave) as server, ExitStack() as closing:
        start: Any = SimpleNamespace(
            model=None, weights=lambda name: None, folder=tmp_path, seed=3, closing=closing, total_steps=1
        )
        source = rewriting(server.url)
        source.check()
        open_one = source.open(start)
        assert open_one.rewrite(originals, 1) == ["wrong 0", None]  # what was cut off is no rewriting
        assert open_one.rewrite(originals[:1], 2) == ["wrong 1"]
        assert open_one.rewrite(originals[:1], 1) == ["wrong 0"]  # looked up: a run that goes on has the same
    assert sorted({text for text, _ in seen}) == ["1+1 is answered by 2. Err.", "4+5 is answered by 9. Err."]
    assert len({seed for text, seed in seen if text.startswith("4+5")}) == 2
    assert (tmp_path / "rewriting_transcript.jsonl").exists()


def test_a_prompt_that_does_not_show_the_response_is_refused() -> None:
    source = AssistantRewriting(prompt=PromptTemplate(user="{question}"), backend=ChatServer(url="http://x", model="m"))
    with pytest.raises(UserError, match=r"must have the place \{response\}"):
        source.check()


def test_tries_must_be_some() -> None:
    with pytest.raises(ValueError, match="tries must be at least 1"):
        PairUpdate(rewriting=CarriedSlip(), grader=NumberGrader(), tries=0)
