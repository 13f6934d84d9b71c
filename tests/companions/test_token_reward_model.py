"""A token-level reward model: its loss by hand, one label a response, and that it finds the tokens that decide."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts, tiny_policy

from thinkrl.algorithms.evidence import TOKEN_LOGITS
from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import CompanionStart
from thinkrl.companions.token_reward_model import OpenTokenRewardModel, TokenRewardModel, _MeanLogitLoss
from thinkrl.learning.value_model import ValueLearner
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec

NOTHING: Any = None
LOGITS = [2.0, -1.0, 0.5, -3.0, 4.0]


def opened(**settings: Any) -> OpenTokenRewardModel:
    decisive = settings.pop("decisive", None)
    source = TokenRewardModel(learner=ValueLearner(**{"learning_rate": 3e-3, **settings}), decisive=decisive)
    assert source.supplies() == (TOKEN_LOGITS,)
    start = CompanionStart(
        policy=tiny_policy(), model=NOTHING, weights=lambda name: None, total_steps=100, seed=0, sampler=NOTHING,
        spec=SamplingSpec(), stage="grpo",
    )  # fmt: skip
    return cast(OpenTokenRewardModel, source.open(start))


def advantages(rollouts: Rollouts, kept: list[bool] | None = None) -> Advantages:
    values = np.where(rollouts.sampled, 1.0, np.nan)
    stays = np.ones(len(rollouts), np.bool_) if kept is None else np.asarray(kept)
    return Advantages(rollouts.token_ids.with_values(values), stays)


def outcomes(*totals: float) -> RewardResult:
    return RewardResult(np.asarray(totals))


def halves(rollouts: Rollouts) -> RewardResult:
    """Right where the first sampled token has an even id."""
    firsts = [int(ids[mask == 1][0]) for ids, mask in zip(rollouts.token_ids, rollouts.origins, strict=True)]
    return outcomes(*[1.0 if first % 2 == 0 else -1.0 for first in firsts])


@pytest.mark.parametrize(("label", "wanted"), [(1.0, 0.4740769842), (0.0, 0.9740769842)])
def test_the_loss_of_one_response_is_that_of_its_mean_logit(label: float, wanted: float) -> None:
    rollouts = make_rollouts()
    row = int(np.flatnonzero(rollouts.token_ids.lengths >= 5)[0])
    columns = rollouts.token_ids.offsets[row] + np.arange(5)  # five tokens of one response
    labels = np.zeros(len(rollouts), np.float32)
    labels[row] = label
    values = torch.tensor(LOGITS, requires_grad=True)
    outputs = _MeanLogitLoss(rollouts, labels)(values, columns)
    assert outputs.loss.total.item() == pytest.approx(wanted, rel=1e-5)
    assert outputs.loss.count == 1.0
    outputs.loss.total.backward()
    assert values.grad is not None
    # One label, one loss: every token has the same gradient, (sigmoid(0.5) - y) / 5, whatever its own logit.
    assert values.grad.tolist() == pytest.approx([(1 / (1 + np.exp(-0.5)) - label) / 5] * 5, rel=1e-5)
    assert float(outputs.metrics["accuracy"].total) == label


def test_an_untrained_model_says_0_and_learns_after_its_signals_were_read() -> None:
    rollouts, model = make_rollouts(), opened()
    before = model.signals(rollouts)[TOKEN_LOGITS.name]
    assert not before.values[rollouts.sampled].any()
    assert np.isnan(before.values[~rollouts.sampled]).all()
    losses = [model.learn(rollouts, halves(rollouts), advantages(rollouts))["loss"] for _ in range(12)]
    assert losses[0] == pytest.approx(np.log(2))  # of logits of 0
    assert losses[-1] < 0.8 * losses[0]
    assert not before.values[rollouts.sampled].any()  # what was said stays said
    after = model.signals(rollouts)[TOKEN_LOGITS.name]
    means = np.asarray([np.nanmean(row) for row in after])
    assert np.corrcoef(means, halves(rollouts).totals)[0, 1] > 0.5


def test_what_is_left_out_teaches_nothing_and_nothing_kept_is_no_step() -> None:
    rollouts = make_rollouts()
    kept = [row % 2 == 0 for row in range(len(rollouts))]
    wrong_elsewhere = np.where(kept, halves(rollouts).totals, -halves(rollouts).totals)
    states = []
    for rewards in (halves(rollouts), outcomes(*wrong_elsewhere)):
        model = opened()
        for _ in range(2):
            model.learn(rollouts, rewards, advantages(rollouts, kept))
        states.append(model.state())
    assert all(torch.equal(tensor, states[1].tensors[name]) for name, tensor in states[0].tensors.items())
    model = opened(decisive=".")
    metrics = model.learn(rollouts, halves(rollouts), advantages(rollouts, [False] * len(rollouts)))
    assert set(metrics) == {"learning_rate"}
    assert not model.signals(rollouts)[TOKEN_LOGITS.name].values[rollouts.sampled].any()


def test_the_loss_is_a_mean_over_responses_however_they_are_batched() -> None:
    rollouts = make_rollouts()
    found = []
    for micro_batch in (1, 2048):
        model = opened(micro_batch_tokens=micro_batch, row_tokens=micro_batch)
        for _ in range(3):
            metrics = model.learn(rollouts, halves(rollouts), advantages(rollouts))
        found.append(metrics)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    rollouts, first, second = make_rollouts(), opened(), opened()
    first.learn(rollouts, halves(rollouts), advantages(rollouts))
    second.load_state(first.state())
    for model in (first, second):
        model.learn(rollouts, halves(rollouts), advantages(rollouts))
    one, two = (model.signals(rollouts)[TOKEN_LOGITS.name].values for model in (first, second))
    assert np.array_equal(one, two, equal_nan=True)


def test_its_rate_rises_and_falls_to_a_share_of_its_peak() -> None:
    model = opened(learning_rate=2e-6, warmup_steps=10, schedule="cosine", final_share=0.2)
    rollouts = make_rollouts((1,))
    rates = [model.learn(rollouts, halves(rollouts), advantages(rollouts))["learning_rate"] for _ in range(12)]
    assert rates[0] == pytest.approx(2e-7)  # not 0, though the schedule begins there
    assert rates[9:11] == pytest.approx([2e-6, 2e-6])
    assert 1.9e-6 < rates[11] < 2e-6


def test_a_model_of_its_own_needs_weights_of_its_own() -> None:
    with pytest.raises(ValueError, match="model_from must be 'base' or a stage where a model is given"):
        TokenRewardModel(model=cast(Any, object()))
