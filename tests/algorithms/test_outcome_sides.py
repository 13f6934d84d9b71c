"""Sides by outcome, the selection of responses, and cloning, whatever the recipe."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.cloning import CloningObjective
from thinkrl.algorithms.kl import KLLoss
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.selection import RandomOfEachOutcome
from thinkrl.algorithms.sides import OutcomeSides, SidesAdded
from thinkrl.algorithms.types import LossInputs
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts


def batch(lengths: list[int], groups: list[int], order: list[int] | None = None) -> Rollouts:
    """Responses `r0`, `r1` ... of so many tokens, in `order`."""
    made = [
        Response(f"r{row}", str(group), "", FinishReason.STOP, np.zeros(n, np.int32), np.ones(n, np.uint8),
                 np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int32), np.zeros(n, np.int32))
        for row, (n, group) in enumerate(zip(lengths, groups, strict=True))
    ]  # fmt: skip
    prompt = Prompt("p", (Message("user", "?"),))
    names = [Group(name, prompt, np.zeros(1, np.int32)) for name in sorted({str(group) for group in groups})]
    return Rollouts.from_responses(names, [made[row] for row in order or range(len(made))])


def test_each_outcome_is_divided_by_its_own_tokens_and_has_its_own_factor() -> None:
    rollouts = batch([5, 2, 3, 4], [0, 0, 0, 0])
    totals = np.asarray([1.0, 0.0, -1.0, math.nan])
    found = SidesAdded(GroupAdvantage(), OutcomeSides(2.0, 0.5)).advantages(totals, rollouts)
    assert found.weights is not None
    per_row = [set(row.tolist()) for row in found.weights]
    assert per_row[:3] == [{2.0 * 10 / 5}, {0.5 * 10 / 5}, {0.5 * 10 / 5}]  # 5 tokens on either side, NaN on none
    # Weighted losses of 1 over all 10 tokens are the sum of the factors.
    kept = found.kept[rollouts.token_ids.row_ids]
    assert found.weights.values[kept].sum() / 10 == pytest.approx(2.5)


def test_one_outcome_alone_keeps_its_factor_and_nobody_divides_by_nothing() -> None:
    found = SidesAdded(GroupAdvantage(), OutcomeSides(1.0, 0.5)).advantages(np.ones(2), batch([3, 1], [0, 0]))
    assert found.weights is not None
    assert found.weights.values.tolist() == [1.0] * 4
    nothing = SidesAdded(GroupAdvantage(), OutcomeSides()).advantages(np.full(2, math.nan), batch([3, 1], [0, 0]))
    assert nothing.weights is not None
    assert nothing.weights.values.tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="negative must be 0 or more"):
        OutcomeSides(negative=-0.5)


def kept(totals: list[float], groups: list[int], order: list[int] | None = None, **fields: Any) -> set[str]:
    order = list(range(len(totals))) if order is None else order
    rollouts = batch([1] * len(totals), groups, order)
    values = np.asarray(totals)[order]
    found = RandomOfEachOutcome(GroupAdvantage(center="leave_one_out", scale="none"), **fields).advantages(
        values, rollouts
    )
    plain = GroupAdvantage(center="leave_one_out", scale="none").advantages(values, rollouts)
    assert np.array_equal(found.values.values, plain.values.values, equal_nan=True)  # of whole groups
    return {name for name, stays in zip(rollouts.response_ids, found.kept, strict=True) if stays}


def test_mixed_groups_keep_as_many_of_each_outcome_and_others_none() -> None:
    totals, groups = [1, -1, -1, 1, -1, 1, 1, -1, -1], [0, 0, 0, 0, 0, 1, 1, 2, 2]
    one = kept(totals, groups)
    assert len(one) == 2
    assert len(one & {"r0", "r3"}) == 1
    two = kept(totals, groups, each=2)
    assert two >= one | {"r0", "r3"}
    assert len(two) == 4
    assert kept(totals, groups, each=9) == two  # no more wrong ones than there are right ones
    with pytest.raises(ValueError, match="each must be at least 1"):
        RandomOfEachOutcome(GroupAdvantage(), each=0)


def test_ungradable_responses_are_of_no_outcome() -> None:
    assert kept([1, math.nan, math.nan], [0, 0, 0]) == set()
    assert kept([1, math.nan, -1], [0, 0, 0]) == {"r0", "r2"}


def test_a_reward_of_0_is_wrong_and_any_above_is_right() -> None:
    assert kept([0.1, 0.0], [0, 0]) == {"r0", "r1"}
    assert kept([0.1, 0.2], [0, 0]) == set()


def test_draws_are_even_and_do_not_depend_on_the_order() -> None:
    totals, groups = [1.0] * 4 + [-1.0] * 4, [0] * 8
    drawn = [kept(totals, groups, seed=seed) for seed in range(200)]
    for row in range(8):
        assert 25 < sum(f"r{row}" in names for names in drawn) < 75  # 50 of 200 each
    assert kept(totals, groups, order=[7, 2, 5, 0, 1, 6, 3, 4], seed=3) == drawn[3]


def inputs(logprobs: torch.Tensor, old: torch.Tensor, advantages: list[float], **more: Any) -> LossInputs:
    count = len(advantages)
    return LossInputs(
        logprobs, old, torch.tensor(advantages, dtype=torch.float64),
        more.pop("weights", torch.ones(count, dtype=torch.float64)), torch.zeros(count, dtype=torch.int64), 1, **more,
    )  # fmt: skip


def test_on_policy_the_gradient_of_cloning_is_that_of_the_surrogate() -> None:
    gradients = []
    for objective in (CloningObjective(), ClippedObjective()):
        logprobs = torch.tensor([-0.5, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
        objective(inputs(logprobs, logprobs.detach(), [1.5, -0.5, 0.0])).loss.total.backward()
        assert logprobs.grad is not None
        gradients.append(logprobs.grad.tolist())
    assert gradients[0] == pytest.approx(gradients[1])
    assert gradients[0] == pytest.approx([-1.5, 0.5, 0.0])


def test_neither_ratio_nor_clip_holds_cloned_tokens_back() -> None:
    logprobs = torch.tensor([-0.5, -0.5], dtype=torch.float64, requires_grad=True)
    outputs = CloningObjective()(inputs(logprobs, logprobs.detach() - 1, [2.0, -1.0]))
    outputs.loss.total.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2.0, math.e])
    assert float(outputs.metrics["clip/high"].total) == 0.0
    assert float(outputs.metrics["loss/cloned"].total) == pytest.approx(1.0)
    assert float(outputs.metrics["loss/pushed"].total) == pytest.approx(math.e)


@pytest.mark.parametrize("weighted", [True, False])
def test_token_weights_multiply_the_divergence_only_where_asked(weighted: bool) -> None:
    logprobs = torch.tensor([-0.5, -0.7], dtype=torch.float64)
    weights, reference = torch.tensor([3.0, 0.0], dtype=torch.float64), torch.tensor([-0.4, -1.0], dtype=torch.float64)
    objective = ClippedObjective(kl=KLLoss(0.5, "k3", weighted))
    outputs = objective(inputs(logprobs, logprobs, [1.0, 1.0], weights=weights, reference_logprobs=reference))
    k3 = [math.exp(d) - 1 - d for d in (0.1, -0.3)]
    divergence = 3 * k3[0] if weighted else sum(k3)
    assert float(outputs.loss.total) == pytest.approx(-3.0 + 0.5 * divergence)
    assert outputs.loss.count == 2.0
