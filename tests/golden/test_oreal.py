"""OREAL (arXiv 2502.06781): leave-one-out advantages, pairs, token weights, a whole step through the real learner."""

import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.algorithms.evidence import Margin, TopShare, right_probabilities
from thinkrl.algorithms.types import Advantages
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.learning.scorer import Scored
from thinkrl.learning.torch_learner import OpenTorchLearner, TorchLearner
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.grpo import GRPO

LOGITS = [2.0, -1.0, 0.5, -3.0, 4.0]
WRONG_LOGITS = [-2.0, 1.0, -0.5, 3.0]
RIGHT_WEIGHTS = [0.7615941560, 0.2449186624, 0.2449186624, 0.0, 0.2449186624]
WRONG_WEIGHTS = [0.7615941560, 0.2449186624, 0.2449186624, 0.0]
RIGHT, WRONG = 1.6, -0.5333333333
"""Advantages of 4 right responses of 16."""


def test_probabilities_follow_the_running_mean_of_the_logits() -> None:
    means = np.cumsum(LOGITS) / np.arange(1, 6)
    assert means.tolist() == [2.0, 0.5, 0.5, -0.375, 0.5]
    p = right_probabilities(numbers(*LOGITS))
    assert p == pytest.approx([0.8807970780, 0.6224593312, 0.6224593312, 0.4073334000, 0.6224593312], **TOLERANCE)
    assert Margin().weights(p) == pytest.approx(RIGHT_WEIGHTS, **TOLERANCE)
    assert Margin().weights(1 - p) == pytest.approx([0.0, 0.0, 0.0, 0.1853331999, 0.0], **TOLERANCE)
    assert right_probabilities(numbers(1e6, -3e6)).tolist() == [1.0, 0.0]


def test_another_threshold_is_where_the_margin_begins() -> None:
    assert Margin(0.6).weights(numbers(0.5, 0.6, 0.8, 1.0)) == pytest.approx([0.0, 0.0, 0.5, 1.0])
    with pytest.raises(ValueError, match="threshold must be at least 0 and below 1"):
        Margin(1.0)


def test_the_top_share_is_stretched_over_0_to_1_and_its_last_token_has_none() -> None:
    p = numbers(0.1, 0.9, 0.5, 0.7, 0.3, 0.2, 0.6, 0.4)
    assert TopShare(0.5).weights(p) == pytest.approx([0, 1, 0, 0.5, 0, 0, 0.25, 0])  # 0.9, 0.7, 0.6 and 0.5
    assert TopShare(0.25).weights(p).tolist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert TopShare(0.1).weights(p).tolist() == [0, 1, 0, 0, 0, 0, 0, 0]  # fewer than one is one
    assert TopShare(0.5).weights(numbers(0.4, 0.4, 0.4, 0.4)).tolist() == [1, 1, 0, 0]  # all alike: 1
    assert TopShare(0.5).weights(numbers()).tolist() == []
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        TopShare(0.0)


@pytest.mark.parametrize(
    ("right", "up", "down"), [(4, RIGHT, WRONG), (12, 0.5333333333, -1.6), (1, 2.0, -0.1333333333)]
)
def test_leave_one_out_advantages_of_sixteen(right: int, up: float, down: float) -> None:
    totals = np.where(np.arange(16) < right, 1.0, -1.0)
    found = GroupAdvantage(center="leave_one_out", scale="none").advantages(totals, rollouts([1] * 16)).per_response()
    assert found == pytest.approx(np.where(totals > 0, up, down), **TOLERANCE)
    assert up == pytest.approx(2 * (16 - right) / 15)
    assert down == pytest.approx(-2 * right / 15)


def test_the_grpo_option() -> None:
    totals = np.where(np.arange(16) < 4, 1.0, -1.0)
    found = GroupAdvantage(std="sample", epsilon=1e-8).advantages(totals, rollouts([1] * 16)).per_response()
    assert found[[0, 15]] == pytest.approx([1.6770509, -0.5590170], **TOLERANCE)


# A whole step: 16 responses, 4 right, all right ones alike and all wrong ones alike, so that any pair will do.

RIGHT_LOGPROBS, WRONG_LOGPROBS = [-0.5, -1.0, -0.2, -2.0, -0.1], [-0.3, -0.7, -1.2, -0.4]
CLONED, PUSHED, DIVERGED, TOTAL = 0.2237412285, 0.0834287654, 3.419143e-05, 0.3072041853


@cache
def algorithm(recipe: str = "oreal/paper", *overrides: str) -> Algorithm:
    composed = compose(recipe, overrides)
    stage = build(Experiment, composed.tree, composed).stages["grpo"]
    assert isinstance(stage, GRPO)
    return stage.algorithm


def sixteen(right: int = 4, groups: int = 1) -> tuple[Rollouts, Any, Ragged, Ragged]:
    """Responses, totals, log-probabilities and token logits."""
    outcomes = [row < right for _ in range(groups) for row in range(16)]
    batch = rollouts([5 if good else 4 for good in outcomes], [str(row // 16) for row in range(16 * groups)])
    logprobs = Ragged.from_rows([RIGHT_LOGPROBS if good else WRONG_LOGPROBS for good in outcomes], np.float64)
    logits = Ragged.from_rows([LOGITS if good else WRONG_LOGITS for good in outcomes], np.float64)
    return batch, np.where(outcomes, 1.0, -1.0), logprobs, logits


class Known:
    """Stands for a scorer: log-probabilities that are known, with a gradient."""

    joins = False

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        self.module = SimpleNamespace(train=lambda mode: None)

    def sharing_pays(self, paths: Any, row_tokens: int) -> bool:
        return False

    def __call__(self, rows: Any, spec: SamplingSpec, *, with_entropy: bool = False) -> Scored:
        columns = np.concatenate([row.columns for row in rows])
        return Scored(self.values[torch.from_numpy(columns)], None, columns)


class Dividing:
    """Stands for an optimizer: the gradient of the quotient, and no step."""

    steps = 0

    def backward(self, total: torch.Tensor, count: float) -> None:
        (total / count).backward()

    def step(self, count: float, learning_rate: float, max_norm: float | None) -> float:
        self.steps += 1
        return 0.0

    def discard(self) -> None:
        """There is nothing to forget where no backward pass was made."""


def learner(batch: Rollouts, logprobs: Ragged, micro_batch: int = 2048) -> tuple[OpenTorchLearner, Known, Dividing]:
    shift = np.where(batch.token_ids.lengths == 5, 0.1, -0.05)[batch.token_ids.row_ids]
    scorer, reference, optimizer = Known(logprobs.values), Known(logprobs.values + shift), Dividing()
    config: Any = TorchLearner(micro_batch_tokens=micro_batch)
    policy: Any = SimpleNamespace(device=torch.device("cpu"))
    stand_ins: tuple[Any, Any, Any] = (scorer, reference, optimizer)
    return OpenTorchLearner(config, policy, 80, *stand_ins), scorer, optimizer


@pytest.mark.parametrize("micro_batch", [1, 2048])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_whole_step_through_the_real_objective_and_division(micro_batch: int, groups: int) -> None:
    """Three equal groups give the loss of one: sums and counts grow alike."""
    batch, totals, logprobs, logits = sixteen(groups=groups)
    oreal = algorithm()
    advantages = oreal.advantages(totals, batch, signals={"token_logits": logits})
    assert advantages.kept.sum() == 2 * groups
    opened, scorer, optimizer = learner(batch, logprobs, micro_batch)
    report = oreal.update(opened, batch, advantages, SamplingSpec())
    assert report.loss == pytest.approx(TOTAL, **TOLERANCE)
    assert report.metrics["loss/cloned"] == pytest.approx(CLONED, **TOLERANCE)
    assert report.metrics["loss/pushed"] == pytest.approx(PUSHED, **TOLERANCE)
    assert 0.01 * report.metrics["kl/reference"] == pytest.approx(DIVERGED, rel=1e-3)
    assert optimizer.steps == 1
    check_gradient(scorer, batch, advantages, groups)


def check_gradient(scorer: Known, batch: Rollouts, advantages: Advantages, groups: int) -> None:
    """dL/dlogp by hand: -A w / N+ of the right, -0.5 A w / N- of the wrong, 0.01 (1 - e^d) / N of the KL on all."""
    assert scorer.values.grad is not None
    gradient = batch.token_ids.with_values(scorer.values.grad.numpy())
    for row in range(len(batch)):
        if not advantages.kept[row]:
            assert not gradient[row].any()
            continue
        up = len(gradient[row]) == 5
        weights, advantage = (RIGHT_WEIGHTS, RIGHT) if up else (WRONG_WEIGHTS, WRONG)
        own, factor, d = (5, 1.0, 0.1) if up else (4, 0.5, -0.05)
        kl = 0.01 * (1 - math.exp(d)) / (9 * groups)
        wanted = [-factor * advantage * w / (own * groups) + kl for w in weights]
        assert gradient[row] == pytest.approx(wanted, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("right", [0, 16])
def test_where_no_group_has_both_outcomes_a_step_has_no_loss(right: int) -> None:
    batch, totals, logprobs, logits = sixteen(right)
    oreal = algorithm()
    advantages = oreal.advantages(totals, batch, signals={"token_logits": logits})
    assert not advantages.kept.any()
    assert advantages.metrics["selection/mixed_groups"] == 0.0
    opened, scorer, optimizer = learner(batch, logprobs)
    report = oreal.update(opened, batch, advantages, SamplingSpec())
    assert (report.loss, report.gradient_norm, report.version, optimizer.steps) == (0.0, 0.0, 1, 0)
    assert scorer.values.grad is None


def test_without_a_token_level_reward_model_every_response_counts_and_every_token_alike() -> None:
    """Also those of groups that are all right: they add to N+, and to the KL, and to nothing else."""
    batch, totals, logprobs, _ = sixteen(groups=2)
    totals = np.where(batch.group_index == 1, 1.0, totals)
    plain = algorithm("oreal/paper", "algorithm=oreal_outcome", "~stages.grpo.companions.token_reward_model",
                      "stages.grpo.companion_steps=0")  # fmt: skip
    opened, _, _ = learner(batch, logprobs)
    report = plain.update(opened, batch, plain.advantages(totals, batch), SamplingSpec())
    positive, negative = 4 * 5 + 4 * 5 + 12 * 4, 12 * 4  # tokens
    cloned = 4 * RIGHT * -sum(RIGHT_LOGPROBS) / positive
    assert report.metrics["loss/cloned"] == pytest.approx(cloned, **TOLERANCE)
    assert report.metrics["loss/pushed"] == pytest.approx(0.5 * 12 * 4 * -WRONG / negative, **TOLERANCE)


# Through the command line.


def lines(right: int, count: int = 16, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt_id": "a", "prompt": "2 + 2 = ?", "reference": "4",
            "response": f"so \\boxed{{{4 if row < right else 5}}}",
            "signals": {"token_logits": LOGITS if row < right else WRONG_LOGITS},
            **more,
        }
        for row in range(count)
    ]  # fmt: skip


def test_score_shows_an_advantage_a_token_of_one_right_and_one_wrong_response(tmp_path: Path) -> None:
    found = score(tmp_path, lines(4), "oreal/paper")
    assert [row["reward"] for row in found] == [1.0] * 4 + [-1.0] * 12
    kept = [row for row in found if row["advantage"] is not None]
    assert [row["verdict"] for row in kept] == ["correct", "wrong"]
    assert kept[0]["advantage"] == pytest.approx([RIGHT * w for w in RIGHT_WEIGHTS], **TOLERANCE)
    assert kept[1]["advantage"] == pytest.approx([WRONG * w for w in WRONG_WEIGHTS], **TOLERANCE)


def test_the_draw_depends_on_seed_and_names_alone(tmp_path: Path) -> None:
    def kept(given: list[dict[str, Any]], *overrides: str) -> set[str]:
        found = score(tmp_path, given, "oreal/paper", *overrides)
        return {row["response_id"] for row in found if row["advantage"] is not None}

    named = [line | {"response_id": f"r{row}"} for row, line in enumerate(lines(4))]
    assert len(kept(named)) == 2
    assert kept(named) == kept(named[::-1])
    assert len(set().union(*(kept(named, f"seed={seed}") for seed in range(6)))) > 3


def test_score_of_groups_that_are_all_right_or_all_wrong(tmp_path: Path) -> None:
    for right in (0, 16):
        assert [row["advantage"] for row in score(tmp_path, lines(right), "oreal/paper")] == [None] * 16


def test_a_response_that_was_cut_off_is_wrong(tmp_path: Path) -> None:
    cut = lines(2, 2)
    cut[1]["finish_reason"] = "length"
    found = score(tmp_path, cut, "oreal/paper")
    assert [row["reward"] for row in found] == [1.0, -1.0]
    assert found[1]["notes"] == ["outcome: cut off"]
    assert found[0]["advantage"] == pytest.approx([2.0 * w for w in RIGHT_WEIGHTS], **TOLERANCE)


def test_a_kept_response_without_logits_is_refused_with_its_name() -> None:
    batch, totals, _, logits = sixteen()
    with pytest.raises(ValueError, match="token_logits must be numbers at every sampled token of 'r"):
        algorithm().advantages(totals, batch, signals={"token_logits": logits.with_values(logits.values * np.nan)})


def test_score_with_the_top_share_and_without_token_weights(tmp_path: Path) -> None:
    top = "algorithm.advantage.advantage.form={_target_: thinkrl.algorithms.evidence.TopShare, share: 0.4}"
    found = [row["advantage"] for row in score(tmp_path, lines(1, 2), "oreal/paper", top)]
    assert found[0] == pytest.approx([2.0, 0, 0, 0, 0])  # two of five tokens, of which the lesser has 0
    assert found[1] == pytest.approx([-2.0, 0, 0, 0])  # one of four
    plain = score(tmp_path, lines(4), "oreal/paper", "algorithm=oreal_outcome")
    assert [row["advantage"] for row in plain] == pytest.approx([RIGHT] * 4 + [WRONG] * 12, **TOLERANCE)


def test_a_judge_is_heard_where_the_rule_finds_nothing_right(tmp_path: Path) -> None:
    words = [0, 1, 0, None]
    given = [line | {"signals": {**line["signals"], "judged_right": word}}
             for line, word in zip(lines(1, 4), words, strict=True)]  # fmt: skip
    found = score(tmp_path, given, "oreal/paper", "reward=signed_outcome_judged")
    assert [row["reward"] for row in found] == [1.0, 1.0, -1.0, -1.0]
    assert [row["verdict"] for row in found] == ["correct", "correct", "wrong", "wrong"]
    assert found[1]["notes"] == ["outcome: right, says the judge"]


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("<think>\\boxed{4}</think>no: \\boxed{5}", -1.0),
        ("<think>\\boxed{5}</think>**Final Answer** The answer is 4.", 1.0),
        ("it is 7 <conclude> 4", 1.0),
        ("\\boxed{x = 4}", 1.0),
        ("I do not know", -1.0),
    ],
)
def test_the_conclusion_is_judged(tmp_path: Path, response: str, reward: float) -> None:
    line = lines(1, 1)[0] | {"response": response}
    assert score(tmp_path, [line], "oreal/paper")[0]["reward"] == reward


def test_the_paper_form_repeats_prompts_by_their_stored_pass_rate(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    rates = [0.0, 0.2, 0.59, 0.79, 0.8]
    rows = [{"question": str(rate), "gold_answer": "4", "pass_rate": rate} for rate in rates]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"data={{_target_: thinkrl.data.files.FilePrompts, path: {file}, schema: {{answer: gold_answer}}}}"
    composed = compose("oreal/paper", [data])
    stage = build(Experiment, composed.tree, composed).stages["grpo"]
    assert isinstance(stage, GRPO)
    asked = [prompt.messages[-1].content for prompt in stage.prompts.prompts()]
    assert [asked.count(str(rate)) for rate in rates] == [6, 4, 4, 2, 0]
    assert (stage.steps, stage.companion_steps, stage.algorithm.needs_reference) == (90, 10, True)
