"""Trajectory balance: what it converges to, against what maximising converges to, and what it must refuse."""

import math

import numpy as np
import pytest
import torch

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.trajectory_balance import BalanceAlgorithm, BalanceResidual, SquaredResidual
from thinkrl.algorithms.types import LossInputs
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts


def singles(tokens: list[int]) -> Rollouts:
    """Responses of one token each, in one group."""
    group = Group("g", Prompt("p", ()), np.zeros(1, np.int32))
    ones = np.zeros(1, np.float32)
    made = [
        Response(
            f"r{row}", "g", "x", FinishReason.STOP, np.asarray([token], np.int32), np.ones(1, np.uint8), ones, ones,
            np.zeros(1, np.int32), np.ones(1, np.int32),
        )
        for row, token in enumerate(tokens)
    ]  # fmt: skip
    return Rollouts.from_responses([group], made)


def trained(balance: bool, drawn: list[float] | None = None) -> list[float]:
    """Probabilities of three answers with rewards 3, 1 and 0.001, after learning from samples of the policy, or of
    another one that draws with probabilities `drawn`."""
    torch.manual_seed(0)
    worth = torch.tensor([3.0, 1.0, 0.001], dtype=torch.float64)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        policy = logits.log_softmax(0)
        source = policy.detach().exp() if drawn is None else torch.tensor(drawn, dtype=torch.float64)
        tokens = torch.multinomial(source, 16, replacement=True)
        chosen = policy[tokens]
        batch = singles(tokens.tolist())
        if balance:
            paid = Ragged(-chosen.detach().numpy(), batch.token_ids.offsets)
            found = BalanceResidual().advantages(worth[tokens].log().numpy(), batch, paid)
        else:
            found = GroupAdvantage(scale="none").advantages(worth[tokens].numpy(), batch)
        inputs = LossInputs(
            logprobs=chosen,
            old_logprobs=chosen.detach(),
            advantages=torch.tensor(found.values.values),
            weights=torch.ones(16, dtype=torch.float64),
            response_ids=torch.arange(16),
            response_count=16,
        )
        loss = (SquaredResidual() if balance else ClippedObjective())(inputs).loss
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    return [float(value) for value in logits.softmax(0).detach()]


def test_two_answers_are_drawn_as_their_rewards_are_and_not_the_better_one_alone() -> None:
    good, fair, bad = trained(balance=True)
    assert good / fair == pytest.approx(3.0, rel=0.1)
    assert bad < 0.01
    assert trained(balance=False)[0] > 0.95


def test_it_learns_the_same_from_what_another_policy_drew() -> None:
    good, fair, _ = trained(balance=True, drawn=[0.2, 0.2, 0.6])
    assert good / fair == pytest.approx(3.0, rel=0.1)


def test_a_response_without_a_reward_moves_nothing_and_one_alone_has_no_residual() -> None:
    batch = singles([0, 1, 2])
    paid = Ragged(np.asarray([1.0, 2.0, 50.0]), batch.token_ids.offsets)
    found = BalanceResidual().advantages(np.asarray([1.0, 2.0, math.nan]), batch, paid)
    assert found.kept.tolist() == [True, True, False]
    assert found.values.values[:2].tolist() == [-1.0, 1.0]
    alone = BalanceResidual().advantages(np.asarray([1.0, math.nan, math.nan]), batch, paid)
    assert alone.values.values[0] == 0.0


def test_without_a_pass_of_the_learner_the_samplers_log_probabilities_count() -> None:
    batch = singles([0, 1])
    found = BalanceResidual().advantages(np.asarray([0.0, 2.0]), batch)  # log-probabilities of 0
    assert found.values.values.tolist() == [-1.0, 1.0]


def test_given_tokens_are_no_part_of_the_flow() -> None:
    batch = singles([0, 1])
    given = Rollouts(**{**vars(batch), "origins": batch.origins.with_values(np.asarray([0, 1], np.uint8))})
    paid = Ragged(np.asarray([np.nan, 3.0]), batch.token_ids.offsets)
    found = BalanceResidual().advantages(np.asarray([1.0, 0.0]), given, paid)
    assert np.isnan(found.values.values[0])
    assert found.metrics["balance/phi"] == 2.0


def test_what_has_no_meaning_here_is_refused() -> None:
    batch = singles([0, 1])
    with pytest.raises(ValueError, match="a log R needs a floor"):
        BalanceResidual().advantages(np.asarray([0.0, -math.inf]), batch)
    with pytest.raises(ValueError, match="old_logprobs must be 'current'"):
        BalanceAlgorithm(BalanceResidual(), SquaredResidual(), old_logprobs="sampler")
    with pytest.raises(ValueError, match="old_logprobs must be"):
        BalanceAlgorithm(BalanceResidual(), SquaredResidual(), passes=2)
