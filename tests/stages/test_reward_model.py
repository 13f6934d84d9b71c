"""Reward models: losses by hand, no prompt on both sides, training that separates right from wrong, exact resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_stage_reuse import rows_of

from thinkrl.algorithms.score_loss import ScoreLoss, area_under_curve
from thinkrl.companions.reward_model import RewardModel
from thinkrl.config.composed import Composed
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.judged import FileJudged, JudgedResponse, JudgedText, pairs_of
from thinkrl.data.rows import RowSchema
from thinkrl.data.source import DataError
from thinkrl.grading.verdict import Verdict
from thinkrl.learning.score_model import learn_scores, score_texts
from thinkrl.learning.value_model import ValueLearner
from thinkrl.models.heads import HEAD, scalar_model
from thinkrl.models.tiny import TinyModel, tiny_tokenizer
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.reward_model import TrainRewardModel
from thinkrl.stages.runner import Run, run_experiment

TINY = TinyModel(hidden=32, intermediate=64, layers=2, heads=2, kv_heads=2, tokenizer="character", device="cpu")
RENDERER = ChatRenderer(tiny_tokenizer("character", ("<think>", "</think>", "<answer>", "</answer>")))
CROSS, SQUARED, PAIRS = ScoreLoss(), ScoreLoss("squared"), ScoreLoss("bradley_terry")


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_cross_entropy_on_log_odds() -> None:
    """Cooper's card (arXiv 2508.05613): (2, 1), (2, 0), and the mean over (2, 1), (-1, 0), (0.5, 0)."""
    assert CROSS.losses(numbers(2.0, 2.0), numbers(1.0, 0.0)).tolist() == pytest.approx([0.12692801, 2.12692801])
    assert float(CROSS.losses(numbers(2.0, -1.0, 0.5), numbers(1.0, 0.0, 0.0)).mean()) == pytest.approx(0.47142223)


def test_pairs_by_their_margins() -> None:
    found = PAIRS.losses(numbers(1.5, 0.0, 1.0, -1.0), numbers(1.0, 0.0, 1.0, 0.0))
    assert found.tolist() == pytest.approx([0.20141328, 0.12692801])
    assert PAIRS.losses(numbers(800.0, -800.0), numbers(1.0, 0.0)).tolist() == [0.0]


def test_squares_and_what_counts_as_judged_rightly() -> None:
    assert SQUARED.losses(numbers(0.25, -1.0), numbers(1.0, 0.0)).tolist() == [0.5625, 1.0]
    worth = numbers(1.0, 1.0, 0.0, 0.0)
    assert SQUARED.correct(numbers(0.6, 0.4, 0.5, 0.1), worth).tolist() == [1.0, 0.0, 0.5, 1.0]
    assert CROSS.correct(numbers(0.1, -0.1, 0.0, -2.0), worth).tolist() == [1.0, 0.0, 0.5, 1.0]
    assert PAIRS.correct(numbers(2.0, 1.0, 0.0, 0.0), numbers(1, 0, 1, 0)).tolist() == [1.0, 0.5]


def test_area_under_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[right] for b in scores[~right]]
    assert area_under_curve(scores, right) == pytest.approx(float(np.mean(pairs)), rel=1e-12)
    assert math.isnan(area_under_curve(scores, np.ones(60, dtype=np.bool_)))


def judged(*worth: float, prompt: str = "p") -> list[JudgedResponse]:
    asked = Prompt(prompt, (Message("user", prompt),))
    return [JudgedResponse(asked, f"r{place}", value) for place, value in enumerate(worth)]


def test_the_best_is_paired_with_the_worst_and_equals_are_not() -> None:
    assert pairs_of(judged(0.0, 1.0, 0.5, 0.0)) == [(1, 3), (2, 0)]
    assert pairs_of([*judged(1.0, 1.0, 0.0), *judged(0.0, 0.0, prompt="q")]) == [(0, 2)]
    assert pairs_of(judged(1.0)) == []


def test_what_is_read_is_a_conversation_or_a_text_and_ends_with_the_judged_token() -> None:
    prompt = Prompt("p", (Message("user", "3+4"),), reference=7)
    text = "<think>3+4=7</think><answer> 7 </answer>"
    shown = RENDERER.tokenizer.decode
    whole = JudgedText().token_ids(prompt, text, RENDERER)
    assert whole is not None
    assert shown(whole.tolist()) == f"<|im_start|>user\n3+4<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>"
    answer = JudgedText("answer").token_ids(prompt, text, RENDERER)
    assert answer is not None
    assert shown(answer.tolist()).endswith("assistant\n7<|im_end|>")
    assert JudgedText("answer").token_ids(prompt, "<think>3+4=7</think> 7", RENDERER) is None
    written = JudgedText(template="{question} ({reference}): {response}").token_ids(prompt, "7", RENDERER)
    assert written is not None
    assert shown(written.tolist()) == "3+4 (7): 7"
    with pytest.raises(ValueError, match=r"template must contain \{response\}"):
        JudgedText(template="{question}")


def test_files_of_judged_responses_and_of_pairs(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "x", "worth": True}, {"prompt": "a", "completion": "y", "worth": 0.25}]
    path = tmp_path / "judged.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = FileJudged(str(path)).judged()
    assert [(one.response, one.worth) for one in found] == [("x", 1.0), ("y", 0.25)]
    assert pairs_of(found) == [(0, 1)]
    path.write_text(json.dumps({"prompt": "a", "chosen": "good", "rejected": "bad"}) + "\n")
    pair = FileJudged(str(path), schema=RowSchema(completion="chosen"), worse="rejected").judged()
    assert [(one.response, one.worth) for one in pair] == [("good", 1.0), ("bad", 0.0)]
    for row, message in (
        ({"prompt": "a", "completion": "x"}, "row 0 must have a number from 0 to 1"),
        ({"prompt": "a", "completion": "x", "worth": 2}, "got 2"),
        ({"prompt": "a", "worth": 1}, "row 0 has no response"),
    ):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=message):
            FileJudged(str(path)).judged()
    path.write_text(json.dumps({"prompt": "a", "completion": "x"}) + "\n")
    with pytest.raises(DataError, match="no text in column 'rejected'"):
        FileJudged(str(path), worse="rejected").judged()


def opened(micro_batch_tokens: int = 2048) -> Any:
    """A reward model whose head is drawn, so that every weight has a gradient."""
    model = scalar_model(TINY.load(for_training=True, seed=1), for_training=True)
    assert model.masters is not None
    drawn = torch.randn(model.masters[HEAD].shape, generator=torch.Generator().manual_seed(3))
    model.masters[HEAD].copy_(drawn)
    learner = ValueLearner(row_tokens=micro_batch_tokens, micro_batch_tokens=micro_batch_tokens)
    return learner.open(model, total_steps=4)


def texts(*pieces: str) -> list[Any]:
    return [JudgedText(template="{response}").token_ids(judged(1.0)[0].prompt, piece, RENDERER) for piece in pieces]


def test_scores_are_those_of_the_last_token_alone() -> None:
    model, read = opened(), texts("4+3=7", "2", "4+3=8")
    found = score_texts(model, read)
    for score, ids in zip(found, read, strict=True):
        logits = model.model.module(torch.from_numpy(ids.astype(np.int64))[None]).logits
        assert score == pytest.approx(float(logits[0, 0].detach()), abs=2e-5)
    assert len(score_texts(model, [])) == 0


@pytest.mark.parametrize("loss", [CROSS, SQUARED, PAIRS], ids=lambda loss: loss.kind)
def test_a_step_is_that_of_plain_autograd_however_texts_are_batched(loss: ScoreLoss) -> None:
    read, worth = texts("4+3=7", "4+3=8", "1+1=2", "1+1=20"), np.asarray([1.0, 0.0, 1.0, 0.0])
    norms = []
    for tokens in (2048, 8):  # in one pass, and every text in a pass of its own
        model = opened(tokens)
        report = learn_scores(model, read, worth, loss)
        norms.append(report.gradient_norm)
    plain = opened().model.module
    scores = torch.cat([plain(torch.from_numpy(ids.astype(np.int64))[None]).logits[0] for ids in read])
    total = loss.losses(scores, torch.from_numpy(worth).float()).mean()
    total.backward()
    gradients = [parameter.grad.flatten() for parameter in plain.parameters() if parameter.grad is not None]
    assert norms == pytest.approx([float(torch.cat(gradients).norm())] * 2, rel=1e-4)
    assert report.loss == pytest.approx(float(total.detach()), rel=1e-4)
    assert 0.0 <= report.metrics["accuracy"] <= 1.0


class Given:
    """Answers of yes and no, of which yes is right."""

    def judged(self) -> list[JudgedResponse]:
        return [
            JudgedResponse(Prompt(f"p{n}", (Message("user", f"is it {n}"),)), f"{said}{place}", float(said == "yes"))
            for n in range(12)
            for place in range(5)
            for said in ("yes", "no")
        ]


def stage(**changes: Any) -> TrainRewardModel:
    given: Any = Given()
    learner = ValueLearner(learning_rate=1e-2)
    sizes: dict[str, Any] = {"epochs": 6, "batch_size": 24, "measure_every": 2, "checkpoint_every": 1, "held_out": 0.25}
    return TrainRewardModel(**({"responses": given, "learner": learner, "model_from": "base", **sizes} | changes))


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Run]:
    """Runs a reward model stage on the tiny model, or goes on with it."""

    def run(directory: str, **changes: Any) -> Run:
        stages = {"reward_model": stage(**changes)}
        tree = {"model": {"source": "tiny"}, "seed": 0, "stages": {"reward_model": {"n": 1}}}
        experiment = Experiment(name="judging", model=TINY, stages=stages, reuse=False)
        return run_experiment(experiment, Composed(tree, {}, "judging", tmp_path / "j.yaml"), tmp_path / directory)

    return run


@pytest.mark.parametrize("kind", ["cross_entropy", "squared", "bradley_terry"])
def test_right_and_wrong_are_told_apart_on_prompts_that_were_not_seen(train: Any, kind: Any) -> None:
    run = train("a", loss=ScoreLoss(kind))
    rows = rows_of(run)
    assert rows[-1]["held_out/auc"] > 0.9
    assert rows[-1]["held_out/accuracy"] > 0.8
    assert rows[0]["loss"] > rows[-1]["loss"]
    assert rows[-1]["held_out/responses"] == 30  # 3 of 12 prompts with 10 responses, or 5 pairs of them
    assert ("held_out/auc" in rows[0], "held_out/auc" in rows[1]) == (False, True)


def test_a_killed_stage_comes_to_the_same_weights(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("whole")
    weights = load_file(whole.produced["reward_model"]["reward_model"].path / "model.safetensors")
    from thinkrl.stages import reward_model

    calls = []

    def failing(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("killed")
        return learn_scores(*arguments)

    monkeypatch.setattr(reward_model, "learn_scores", failing)
    with pytest.raises(RuntimeError, match="killed"):
        train("parted")
    monkeypatch.setattr(reward_model, "learn_scores", learn_scores)
    parted = train("parted")
    again = load_file(parted.produced["reward_model"]["reward_model"].path / "model.safetensors")
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    times = ("seconds", "time")
    clean = [[{k: v for k, v in row.items() if not k.startswith(times)} for row in rows_of(r)] for r in (whole, parted)]
    assert clean[0] == clean[1]


def test_it_ends_where_it_is_good_enough(train: Any) -> None:
    rows = rows_of(train("a", stop_at_accuracy=0.9, measure_every=1, epochs=8))
    assert rows[-1]["held_out/accuracy"] >= 0.9
    assert all(row["held_out/accuracy"] < 0.9 for row in rows[:-1])
    assert len(rows) < 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"measure_every": 0}, "measure_every must be at least 1"),
        ({"held_out": 0.0}, "held_out must be between 0 and 1"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1"),
        ({"stop_at_accuracy": 0.0}, "stop_at_accuracy must be above 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**changes)


def answers(*said: str) -> Rollouts:
    asked = Group("g", Prompt("p", (Message("user", "is it 3"),)), np.zeros(1, np.int32))
    blank = np.zeros(1, np.float32)
    responses = [
        Response(f"r{n}", "g", text, FinishReason.STOP, np.zeros(1, np.int32), np.ones(1, np.uint8), blank, blank,
                 np.zeros(1, np.int32), np.asarray([len(text)], np.int32))
        for n, text in enumerate(said)
    ]  # fmt: skip
    return Rollouts.from_responses([asked], responses)


def test_the_companion_supplies_what_the_stage_trained(train: Any) -> None:
    folder = train("a").produced["reward_model"]["reward_model"].path
    asked: list[str] = []
    source = RewardModel(model_from="reward_model", dtype="float32", device="cpu")
    start: Any = SimpleNamespace(weights=lambda name: asked.append(name) or folder)
    companion: Any = source.open(start)
    assert (asked, source.needs()) == (["reward_model"], (("reward_model", "reward_model"),))
    batch = answers("yes4", "no4")
    said = companion.signals(batch)["model_score"]
    assert said[0] > said[1]
    verdicts = (Verdict.CORRECT, Verdict.WRONG)
    metrics = companion.learn(batch, RewardResult(np.zeros(2), verdicts=verdicts), None)
    assert metrics["auc"] == 1.0
    assert metrics["score"] == pytest.approx(float(said.mean()))
    by_path: Any = RewardModel(source=str(folder), dtype="float32", device="cpu").open(start)
    assert by_path.signals(batch)["model_score"].tolist() == said.tolist()
    assert companion.state().tensors == {}


def test_nothing_read_is_no_score(train: Any) -> None:
    folder = train("a").produced["reward_model"]["reward_model"].path
    source = RewardModel(source=str(folder), reads=JudgedText("answer"), dtype="float32", device="cpu")
    companion: Any = source.open(SimpleNamespace())  # type: ignore[arg-type]
    said = companion.signals(answers("yes", "<answer>yes</answer>"))["model_score"]
    assert np.isnan(said).tolist() == [True, False]
    only: Any = companion.signals(answers("yes"))["model_score"]
    assert np.isnan(only).all()
    assert companion.learn(answers("yes"), RewardResult(np.zeros(1), verdicts=(None,)), None) == {"unread": 1.0}


@pytest.mark.parametrize("both", [{}, {"source": "a", "model_from": "b"}])
def test_a_reward_model_comes_from_one_place(both: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="source or model_from must be given, and not both"):
        RewardModel(**both)
