"""Clipping, entropy and coins for rewards (arXiv 2512.16912): moments, the law of the entropy, clipping, damage."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.types import LossInputs
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.probes.action_entropy import entropy, exact_entropy_change, phi, predicted_entropy_change
from thinkrl.probes.coin_advantages import Deviation, coin_advantages, coin_moment, largest_coin_advantage
from thinkrl.rewards.misalignment import Misalignment, coin_damage, damage
from thinkrl.rewards.random_reward import RandomReward
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.grpo import GRPO

SAMPLE, POPULATION = "sample", "population"
EVEN, SKEWED, SURE, THREE = [0.5, 0.5], [0.9, 0.1], [0.97, 0.03], [0.5, 0.3, 0.2]


@pytest.mark.parametrize(
    ("std", "size", "absolute", "second", "fourth", "largest"),
    [
        (SAMPLE, 4, 0.69975953, 0.65625, 0.8671875, 1.5),
        (SAMPLE, 8, 0.86790360, 0.86816406, 1.31836751, 2.47487373),
        (SAMPLE, 16, 0.93635308, 0.93747139, 1.15808784, 3.75),
        (POPULATION, 4, 0.80801270, 0.875, 1.54166667, 1.73205081),
        (POPULATION, 8, 0.92782797, 0.9921875, 1.72194940, 2.64575131),
        (POPULATION, 16, 0.96706130, 0.99996948, 1.31764661, 3.87298335),
    ],
)
def test_moments_of_advantages(
    std: Deviation, size: int, absolute: float, second: float, fourth: float, largest: float
) -> None:
    assert coin_moment(1, size, std, absolute=True) == pytest.approx(absolute, **TOLERANCE)
    assert coin_moment(2, size, std) == pytest.approx(second, **TOLERANCE)
    assert coin_moment(4, size, std) == pytest.approx(fourth, **TOLERANCE)
    assert largest_coin_advantage(size, std) == pytest.approx(largest, **TOLERANCE)
    for odd in (1, 3, 5):
        assert coin_moment(odd, size, std) == pytest.approx(0.0, abs=1e-12)
    spread = (1 - 2.0 ** (1 - size)) * (1 - 1 / size if std == SAMPLE else 1.0)
    assert coin_moment(2, size, std) == pytest.approx(spread, rel=1e-12)
    assert largest == pytest.approx(size**0.5 - size**-0.5 if std == SAMPLE else (size - 1) ** 0.5, **TOLERANCE)


@pytest.mark.parametrize("std", [SAMPLE, POPULATION])
def test_the_estimator_gives_those_advantages(std: Deviation) -> None:
    """All 2^4 outcomes as 16 groups of one batch."""
    outcomes = np.asarray(list(product((0.0, 1.0), repeat=4)))
    batch = rollouts([1] * 64, [str(group) for group in range(16) for _ in range(4)])
    found = GroupAdvantage(std=std, epsilon=0.0).advantages(outcomes.ravel(), batch)
    values = found.per_response().reshape(16, 4)
    assert values == pytest.approx(coin_advantages(4, std), abs=1e-12)
    assert np.mean(values**2) == pytest.approx(coin_moment(2, 4, std), rel=1e-12)
    # Two of sixteen groups are all alike, 2^(1-G): advantage 0 and not NaN.
    assert found.metrics["advantage/flat_groups"] == 2 / 16
    assert values[0].tolist() == values[15].tolist() == [0.0] * 4
    pairs = np.mean([values[:, i] * values[:, j] for i in range(4) for j in range(4) if i != j])
    assert pairs == pytest.approx(-np.mean(values**2) / 3, rel=1e-12)


def test_a_group_too_large_to_write_out_is_refused() -> None:
    with pytest.raises(ValueError, match="group_size must be from 1 to 20, got 21"):
        coin_advantages(21, SAMPLE)


@pytest.mark.parametrize(
    ("p", "wanted"), [(EVEN, 1.0), (SKEWED, -0.75777966), (SURE, -2.26753277), (THREE, 1.58240114)]
)
def test_phi(p: list[float], wanted: float) -> None:
    found, count = phi(p)
    assert float(found) == pytest.approx(wanted, **TOLERANCE)
    assert count == len(p)


def test_phi_of_even_certain_and_truncated_choices() -> None:
    for actions in (2, 3, 10):
        assert float(phi(np.full(actions, 1 / actions))[0]) == pytest.approx(actions - 1, rel=1e-12)
    assert float(phi([1.0, 0.0])[0]) == 0.0
    found, count = phi([[0.9, 0.1 - 1e-7, 1e-7], [0.5, 0.5, 0.0]])
    assert found == pytest.approx([-0.75777966, 1.0], **TOLERANCE)
    assert count.tolist() == [2.0, 2.0]
    assert float(entropy([0.25] * 4)) == pytest.approx(math.log(4), rel=1e-12)


def test_two_actions_change_sign_at_the_threshold() -> None:
    threshold = 0.8239591145
    assert float(phi([threshold, 1 - threshold])[0]) == pytest.approx(0.0, abs=1e-8)
    assert (
        float(phi([threshold - 1e-4, 1 - threshold + 1e-4])[0])
        > 0
        > float(phi([threshold + 1e-4, 1 - threshold - 1e-4])[0])
    )
    for p in (0.6, 0.9):
        assert float(phi([p, 1 - p])[0]) == pytest.approx(1 - (2 * p - 1) * math.log(p / (1 - p)), rel=1e-12)


# Changes of entropy are 1e-5 and less: they are compared relative to their size alone.
CHANGE: Any = {"rel": 1e-5, "abs": 1e-12}


@pytest.mark.parametrize(
    ("std", "size", "eta", "p", "predicted", "exact"),
    [
        (SAMPLE, 4, 0.02, EVEN, -3.28125000e-05, -3.28098928e-05),
        (SAMPLE, 4, 0.02, SKEWED, 2.48646452e-05, 2.48464520e-05),
        (SAMPLE, 4, 0.02, SURE, 7.44034190e-05, 7.43647157e-05),
        (SAMPLE, 3, 0.05, THREE, -3.29666905e-04, -3.29607039e-04),
        (POPULATION, 4, 0.02, EVEN, -4.37500000e-05, -4.37453652e-05),
        (POPULATION, 4, 0.02, SKEWED, 3.31528602e-05, 3.31205183e-05),
        (POPULATION, 4, 0.02, SURE, 9.92045586e-05, 9.91354447e-05),
        (POPULATION, 3, 0.05, THREE, -4.94500358e-04, -4.94365421e-04),
    ],
)
def test_the_law_of_the_entropy(
    std: Deviation, size: int, eta: float, p: list[float], predicted: float, exact: float
) -> None:
    assert predicted_entropy_change(p, eta, size, std) == pytest.approx(predicted, **CHANGE)
    assert exact_entropy_change(p, eta, size, std) == pytest.approx(exact, **CHANGE)


def test_what_the_law_leaves_out_is_of_fourth_order() -> None:
    rest = [
        exact_entropy_change(SKEWED, eta, 4, SAMPLE) - predicted_entropy_change(SKEWED, eta, 4, SAMPLE)
        for eta in (0.04, 0.02)
    ]
    assert rest[0] / rest[1] == pytest.approx(16.0, rel=0.02)


@pytest.mark.parametrize(
    ("std", "p", "unclipped", "clipped"),
    [
        (SAMPLE, SKEWED, 6.10284028e-04, -1.29926935e-04),
        (SAMPLE, SURE, 1.82824097e-03, 5.16076816e-05),
        (SAMPLE, EVEN, -8.18686752e-04, -8.18686752e-04),
        (POPULATION, SKEWED, 8.08700311e-04, -8.65685527e-05),
        (POPULATION, SURE, 2.41894739e-03, 9.12434950e-05),
        (POPULATION, EVEN, -1.09086208e-03, -1.09086208e-03),
    ],
)
def test_clipped_and_normalised_again(std: Deviation, p: list[float], unclipped: float, clipped: float) -> None:
    assert exact_entropy_change(p, 0.1, 4, std) == pytest.approx(unclipped, **CHANGE)
    assert exact_entropy_change(p, 0.1, 4, std, clip=0.2) == pytest.approx(clipped, **CHANGE)


@pytest.mark.parametrize(
    ("size", "right", "mean", "variance"), [(8, 6, 1.5, 0.375), (8, 4, 2.0, 0.5), (16, 15, 0.9375, 0.234375)]
)
def test_damage_by_coins(size: int, right: int, mean: float, variance: float) -> None:
    assert coin_damage(right, size) == pytest.approx((mean, variance), **TOLERANCE)
    # Over all counts of wrong labels, with their chances.
    chances = [
        (math.comb(right, g) * math.comb(size - right, f) / 2.0**size, damage(right, size, g, f))
        for g in range(right + 1)
        for f in range(size - right + 1)
    ]
    average = sum(chance * value for chance, value in chances)
    assert average == pytest.approx(mean, rel=1e-9)
    assert sum(chance * (value - average) ** 2 for chance, value in chances) == pytest.approx(variance, rel=1e-9)


def test_damage_is_what_right_answers_lose_in_advantage() -> None:
    assert damage(6, 8, unpaid_right=2, paid_wrong=1) == pytest.approx(1.25, **TOLERANCE)
    truth = numbers(1, 1, 1, 1, 1, 1, 0, 0)
    labels = numbers(0, 1, 0, 1, 1, 1, 1, 0)
    plain = GroupAdvantage(scale="none")
    batch = rollouts([1] * 8)
    lost = plain.advantages(truth, batch).per_response() - plain.advantages(labels, batch).per_response()
    assert float(lost[truth == 1].sum()) == pytest.approx(1.25, rel=1e-12)
    context = RewardContext(scores={"coin": Scores(labels), "correctness": Scores(truth)})
    found = Misalignment("coin").score(batch, context)
    assert found.values.tolist() == [1.25] * 8
    assert found.metrics["whole"] == 1.5
    nothing = RewardContext(scores={"coin": Scores(labels), "correctness": Scores(np.full(8, math.nan))})
    assert Misalignment("coin").score(batch, nothing).values.tolist() == [0.0] * 8


def test_coins_are_fair_independent_and_keyed_by_response_and_seed() -> None:
    count = 20_000
    batch = rollouts([1] * count, [str(row // 16) for row in range(count)])
    found = RandomReward().score(batch, RewardContext()).values
    assert set(found.tolist()) == {0.0, 1.0}
    assert abs(found.mean() - 0.5) < 4 * 0.5 / count**0.5
    groups = found.reshape(-1, 16)
    assert abs(np.corrcoef(groups[:, 0], groups[:, 1])[0, 1]) < 4 / len(groups) ** 0.5
    # The moments of the drawn advantages are those of all outcomes, to 4 standard errors.
    drawn = GroupAdvantage(epsilon=0.0).advantages(found, batch).per_response()
    error = ((coin_moment(4, 16, SAMPLE) - coin_moment(2, 16, SAMPLE) ** 2) / count) ** 0.5
    assert abs(np.mean(drawn**2) - coin_moment(2, 16, SAMPLE)) < 4 * error
    assert RandomReward().score(batch.select([7, 3]), RewardContext()).values.tolist() == [found[7], found[3]]
    assert np.mean(RandomReward(seed=1).score(batch, RewardContext()).values == found) == pytest.approx(0.5, abs=0.02)


def inputs(logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, ids: list[int]) -> LossInputs:
    return LossInputs(logprobs, old, advantages, torch.ones_like(old), torch.tensor(ids), max(ids) + 1)


RATIOS = torch.tensor([1.5, 1.1, 0.5, 0.9, 1.3, 0.7], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.5, 1.5, 1.5, -0.5, -0.5, -0.5], dtype=torch.float64)
IDS = [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("clip", [0.2, None])
def test_the_objective_sums_tokens_and_averages_responses(clip: float | None) -> None:
    objective = ClippedObjective(clip, clip, aggregation="constant", constant_length=1)
    logprobs = RATIOS.log().requires_grad_()
    outputs = objective(inputs(logprobs, torch.zeros(6, dtype=torch.float64), ADVANTAGES, IDS))
    clipped = [1.2 * 1.5, 1.1 * 1.5, 0.5 * 1.5, 0.9 * -0.5, 1.3 * -0.5, 0.8 * -0.5]
    plain = [1.5 * 1.5, *clipped[1:5], 0.7 * -0.5]
    assert outputs.loss.count == 2.0
    assert outputs.loss.total.item() == pytest.approx(-sum(plain if clip is None else clipped), rel=1e-9)
    outputs.loss.total.backward()
    assert logprobs.grad is not None
    # Without clipping every token pulls; with it those beyond the bounds do not.
    assert (logprobs.grad != 0).tolist() == [clip is None, True, True, True, True, clip is None]


def test_clip_fractions_and_the_size_of_the_correction() -> None:
    found = ClippedObjective()(inputs(RATIOS.log(), torch.zeros(6, dtype=torch.float64), ADVANTAGES, IDS)).metrics
    means = {name: float(part.total) / part.count for name, part in found.items()}
    assert (means["clip/high"], means["clip/low"]) == pytest.approx((1 / 6, 1 / 6), rel=1e-9)
    # Responses: |1.5 (1.5 + 1.1 + 0.5)| and |-0.5 (0.9 + 1.3 + 0.7)|; only the first is cut above, by (1.2 - 1.5) 1.5.
    assert means["clip/raw"] == pytest.approx((4.65 + 1.45) / 2, rel=1e-6)
    assert means["clip/correction"] == pytest.approx(0.45 / 2, rel=1e-6)
    without = ClippedObjective(None, None)(inputs(RATIOS.log(), torch.zeros(6), ADVANTAGES, IDS)).metrics
    assert (float(without["clip/high"].total), float(without["clip/low"].total)) == (0.0, 0.0)
    assert "clip/correction" not in without


def test_with_one_step_a_batch_clipping_would_do_nothing() -> None:
    """The ratio is 1 then: the same gradient with bounds as without. More steps need old log-probabilities."""
    gradients = []
    for clip in (0.2, None):
        logprobs = torch.full((6,), -0.5, dtype=torch.float64, requires_grad=True)
        ClippedObjective(clip, clip)(inputs(logprobs, logprobs.detach(), ADVANTAGES, IDS)).loss.total.backward()
        assert logprobs.grad is not None
        gradients.append(logprobs.grad)
    assert torch.equal(*gradients)
    with pytest.raises(ValueError, match="old_logprobs must be 'recompute' or 'sampler'"):
        Algorithm(GroupAdvantage(), ClippedObjective(), minibatches=4)


@pytest.mark.parametrize("recipe", ["rlvr_clipping", "rlvr_clipping/paper"])
def test_both_forms_make_four_updates_a_batch_with_and_without_bounds(recipe: str) -> None:
    for bound in ("0.2", "null"):
        composed = compose(recipe, [f"algorithm.objective.clip_{side}={bound}" for side in ("low", "high")])
        stage = build(Experiment, composed.tree, composed).stages["grpo"]
        assert isinstance(stage, GRPO)
        assert stage.algorithm.updates_per_batch >= 4
        assert stage.algorithm.objective == ClippedObjective(
            *((None, None) if bound == "null" else (0.2, 0.2)), aggregation="constant", constant_length=1
        )


def group(size: int, right: int) -> list[dict[str, Any]]:
    return [
        {"prompt_id": "q", "prompt": "?", "reference": 7, "response": f"\\boxed{{{7 if row < right else 8}}}"}
        for row in range(size)
    ]


def test_coins_through_score(tmp_path: Path) -> None:
    found = score(tmp_path, group(16, 15), "rlvr_clipping/paper")
    rewards = numbers(*(row["terms"]["coin"] for row in found))
    assert [row["reward"] for row in found] == rewards.tolist()  # correctness and damage weigh nothing
    wanted = (rewards - rewards.mean()) / rewards.std(ddof=1)
    assert [row["advantage"] for row in found] == pytest.approx(wanted.tolist(), **TOLERANCE)
    unpaid_right, paid_wrong = int(np.sum(rewards[:15] == 0)), int(rewards[15])
    assert {row["terms"]["damage"] for row in found} == {(unpaid_right * 1 + paid_wrong * 15) / 16}
    assert [row["verdict"] for row in found] == ["correct"] * 15 + ["wrong"]
    again = score(tmp_path, group(16, 15), "rlvr_clipping/paper")
    assert [row["reward"] for row in again] == rewards.tolist()
    other = score(tmp_path, group(16, 15), "rlvr_clipping/paper", "seed=1")
    assert [row["reward"] for row in other] != rewards.tolist()


@pytest.mark.parametrize(("std", "largest"), [(SAMPLE, 3.75), (POPULATION, 3.87298335)])
def test_true_rewards_through_score(tmp_path: Path, std: str, largest: float) -> None:
    overrides = ("reward.terms.coin.weight=0", "reward.terms.correctness.weight=1", f"algorithm.advantage.std={std}")
    one = score(tmp_path, group(16, 1), "rlvr_clipping/paper", *overrides)
    assert one[0]["advantage"] == pytest.approx(largest, **TOLERANCE)  # the bound, reached
    every = score(tmp_path, group(16, 16), "rlvr_clipping/paper", *overrides)
    assert [row["advantage"] for row in every] == [0.0] * 16


@pytest.mark.parametrize("alike", ["probability=0.0", "probability=1.0"])
def test_a_group_of_equal_coins_gives_nothing(tmp_path: Path, alike: str) -> None:
    found = score(tmp_path, group(4, 2), "rlvr_clipping/paper", f"reward.terms.coin.term.{alike}")
    assert [row["advantage"] for row in found] == [0.0] * 4
