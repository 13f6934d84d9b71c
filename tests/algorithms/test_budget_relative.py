"""BRPO per token: segments, shared thinking, missing rewards, and what the two baselines do to the variance."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.algorithms.budget_relative import BudgetRelativeAdvantage
from thinkrl.algorithms.budgets import Baseline, budget_prior, later_returns, thinking_advantages
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.rollouts.cuts import Cut
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts

S, G = int(Origin.SAMPLED), int(Origin.GIVEN)
BUDGETS = (2, 5, 6)


def answer(name: str, cut: Cut | None, origins: list[int], group: str = "g") -> Response:
    n = len(origins)
    return Response(
        name, group, "x" * n, FinishReason.STOP, np.zeros(n, np.int32), np.asarray(origins, np.uint8),
        np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int32), np.arange(1, n + 1, dtype=np.int32),
        cut,
    )  # fmt: skip


def thought(
    name: str, length: int, answers: int = 1, group: str = "g", prefix: int = 0, budgets: tuple[int, ...] = BUDGETS
) -> list[Response]:
    """The answers to one thinking, as the environment makes them: thinking, an inserted token, an answer of two."""
    kept = [min(budget, length) for budget in budgets]
    owner = kept.index(max(kept))
    return [
        answer(
            f"{name}/{place}/{number}",
            Cut(name, budget, prefix + kept[place]),
            [G] * prefix + [S if (place, number) == (owner, 0) else G] * kept[place] + [G, S, S],
            group,
        )
        for place, budget in enumerate(budgets)
        for number in range(answers)
    ]


def store(*responses: list[Response]) -> Rollouts:
    made = [one for part in responses for one in part]
    names = dict.fromkeys(one.group_id for one in made)
    groups = [Group(name, Prompt(name, (Message("user", "?"),)), np.zeros(1, np.int32)) for name in names]
    return Rollouts.from_responses(groups, made)


def array(*values: float) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def test_every_token_has_the_advantage_of_its_segment_or_of_its_answer() -> None:
    rollouts = store(thought("a", 8), thought("b", 3))
    found = BudgetRelativeAdvantage().advantages(array(0, 1, 1, 0, 0, 1), rollouts)
    q, budgets = np.asarray([[0.0, 1, 1], [0, 0, 1]]), array(*BUDGETS)
    worth = thinking_advantages(q, budgets, budget_prior(budgets, "uniform"), "budget_relative")
    # a is cut at 6: two tokens, three, one; then what is inserted, and the answer against b's at the same budget.
    assert found.values[2][:6] == pytest.approx([worth[0, 0]] * 2 + [worth[0, 1]] * 3 + [worth[0, 2]])
    assert np.isnan(found.values[2][6])
    assert found.values[2][7:].tolist() == [0, 0]
    assert found.values[1][-2:].tolist() == [0.5, 0.5]
    # b ends in the second segment and never reaches the third; its owner is the answer at the second budget.
    assert found.values[4][:3] == pytest.approx([worth[1, 0]] * 2 + [worth[1, 1]])
    assert found.values[4][-2:].tolist() == [-0.5, -0.5]
    assert np.array_equal(~np.isnan(found.values.values), rollouts.sampled)
    assert found.kept.all()
    assert found.weights is None


def test_a_segments_share_of_the_baselines_is_where_it_begins() -> None:
    """Unequal budgets: 2/6 and 5/6, not 1/3 and 2/3; by hand for one thought that is right in the end alone."""
    q, p, budgets = np.asarray([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]), array(0.2, 0.3, 0.5), array(*BUDGETS)
    found = thinking_advantages(q, budgets, p, "budget_relative")
    v2 = [0.75, 0.65, 0.5]
    assert found[0] == pytest.approx([0.5 - v2[0], 0.5 - 4 / 6 * v2[1], 0.5 - 1 / 6 * v2[2]])
    v1 = [0, 0.8, 0.5]  # its earlier scores are all 1
    mixed = [v2[0], 2 / 6 * v1[1] + 4 / 6 * v2[1], 5 / 6 * v1[2] + 1 / 6 * v2[2]]
    assert found[1] == pytest.approx(array(1.0, 0.8, 0.5) - mixed)


def test_given_tokens_at_the_start_count_for_no_budget() -> None:
    plain = BudgetRelativeAdvantage().advantages(array(0, 1, 1, 0, 0, 1), store(thought("a", 8), thought("b", 3)))
    begun = store(thought("a", 8, prefix=3), thought("b", 3, prefix=3))
    found = BudgetRelativeAdvantage().advantages(array(0, 1, 1, 0, 0, 1), begun)
    for row in range(6):
        assert np.isnan(found.values[row][:3]).all()
        assert np.array_equal(found.values[row][3:], plain.values[row], equal_nan=True)


def test_prompts_are_apart_and_rows_may_stand_in_any_order() -> None:
    first, second = [*thought("a", 8, 2), *thought("b", 3, 2)], [*thought("c", 4, 2, "h"), *thought("d", 8, 2, "h")]
    rewards = np.asarray(np.random.default_rng(0).integers(0, 2, 24), dtype=np.float64)
    together = store(first, second)
    found = BudgetRelativeAdvantage().advantages(rewards, together)
    alone = BudgetRelativeAdvantage().advantages(rewards[:12], store(first))
    assert np.array_equal(found.values.values[: len(alone.values.values)], alone.values.values, equal_nan=True)
    order = np.random.default_rng(1).permutation(24)
    mixed = BudgetRelativeAdvantage().advantages(rewards[order], together.select(order))
    for new, old in enumerate(order.tolist()):
        assert np.allclose(mixed.values[new], found.values[old], equal_nan=True, atol=1e-12)


def test_parts_that_are_not_learned_from_weigh_nothing() -> None:
    rollouts, rewards = store(thought("a", 8), thought("b", 3)), array(0, 1, 1, 0, 0, 1)
    without = BudgetRelativeAdvantage(thinking=False).advantages(rewards, rollouts)
    assert without.weights is not None
    assert without.weights[2].tolist() == [0] * 6 + [1] * 3
    last = BudgetRelativeAdvantage(answers="last").advantages(rewards, rollouts)
    assert last.weights is not None
    assert [weights[-1] for weights in last.weights] == [0, 0, 1, 0, 0, 1]
    assert last.weights[4][:3].tolist() == [1] * 3


def test_answers_without_a_reward_leave_the_loss_and_thinking_without_one_has_no_advantage() -> None:
    nan = float("nan")
    rollouts = store(thought("a", 8, 2), thought("b", 8, 2), thought("c", 8, 2))
    rewards = array(0, 0, 1, nan, 1, 1, 0, 0, nan, nan, 1, 0, nan, 0, 0, 0, 0, 1)
    found = BudgetRelativeAdvantage().advantages(rewards, rollouts)
    budgets, known = array(*BUDGETS), np.asarray([[0.0, 1, 1], [0, 0, 0.5]])
    worth = thinking_advantages(known, budgets, budget_prior(budgets, "uniform"), "budget_relative")
    assert found.kept.tolist() == [not np.isnan(reward) for reward in rewards]
    assert found.values[4][:6] == pytest.approx([worth[0, 0]] * 2 + [worth[0, 1]] * 3 + [worth[0, 2]])
    assert found.values[16][:6] == pytest.approx([worth[1, 0]] * 2 + [worth[1, 1]] * 3 + [worth[1, 2]])
    assert found.values[10][:6].tolist() == [0] * 6  # b has no score at its second budget
    assert found.values[10][-1] == 0.5
    # Thinking whose own answer has no reward is learned from when the others say what it is worth.
    rewards[4], rewards[5] = nan, 1
    again = BudgetRelativeAdvantage().advantages(rewards, rollouts)
    assert again.kept[4]
    assert again.values[4][:6] == pytest.approx(found.values[4][:6])
    assert again.values[4][-2:].tolist() == [0, 0]
    nothing = BudgetRelativeAdvantage().advantages(np.full(18, nan), rollouts)
    assert not nothing.kept.any()


def test_rewards_of_tokens_are_added_as_return_to_go() -> None:
    rollouts, rewards = store(thought("a", 8), thought("b", 3)), array(0, 1, 1, 0, 0, 1)
    paid = rollouts.token_ids.with_values(np.where(rollouts.sampled, 0.1, np.nan))
    plain = BudgetRelativeAdvantage().advantages(rewards, rollouts)
    found = BudgetRelativeAdvantage().advantages(rewards, rollouts, paid)
    assert found.values[0][-2:] - plain.values[0][-2:] == pytest.approx([0.2, 0.1])
    assert isinstance(found.values, Ragged)


@pytest.mark.parametrize("baseline", ["budget_relative", "group"])
def test_the_group_baseline_makes_the_first_segments_of_a_prompt_sum_to_nothing(baseline: Baseline) -> None:
    q = np.random.default_rng(3).random((6, 4))
    found = thinking_advantages(q, np.arange(1.0, 5), budget_prior(np.arange(1.0, 5), "linear"), baseline)
    assert found[:, 0].sum() == pytest.approx(0, abs=1e-12)


def simulated(seed: int, thoughts: int = 4000, budgets: int = 4, group: int = 8) -> NDArray[np.float64]:
    """Scores of thoughts that find their answer at a time of their own and keep it: [prompts, g, m]."""
    draw = np.random.default_rng(seed)
    found = draw.integers(0, budgets + 2, (thoughts // group, group, 1))
    chance = np.where(np.arange(budgets) >= found, 0.9, 0.1)
    return draw.binomial(4, chance) / 4


def test_late_segments_vary_less_than_with_the_groups_mean() -> None:
    """The paper's claim as pure statistics: the same thoughts, Var(R - V) / Var(R) at the two late segments."""
    budgets = np.asarray([1.0, 2, 3, 4])
    prior = budget_prior(budgets, "uniform")
    scores = simulated(0)
    returns = np.concatenate([later_returns(q, prior) for q in scores])
    ratio: dict[str, Any] = {}
    for baseline in ("budget_relative", "group"):
        worth = np.concatenate([thinking_advantages(q, budgets, prior, baseline) for q in scores])
        ratio[baseline] = worth.var(axis=0) / returns.var(axis=0)
    assert ratio["budget_relative"][0] == pytest.approx(ratio["group"][0])
    assert np.all(ratio["budget_relative"][2:] < 0.9 * ratio["group"][2:])


def test_the_variances_that_are_logged_are_those() -> None:
    scores = simulated(5, thoughts=64)
    responses, rewards = [], []
    for prompt, q in enumerate(scores):
        for index, row in enumerate(q):
            responses.append(thought(f"{prompt}/{index}", 9, group=str(prompt), budgets=(2, 4, 6, 8)))
            rewards += row.tolist()
    rollouts = store(*responses)
    metrics = BudgetRelativeAdvantage(baseline="group").advantages(array(*rewards), rollouts).metrics
    budgets, prior = np.asarray([2.0, 4, 6, 8]), np.full(4, 0.25)
    worth = np.concatenate([thinking_advantages(q, budgets, prior, "group") for q in scores])
    returns = np.concatenate([later_returns(q, prior) for q in scores])
    assert metrics["advantage/late_variance"] == pytest.approx(worth[:, 2:].var() / returns[:, 2:].var())
    assert metrics["advantage/early_variance"] == pytest.approx(worth[:, :2].var() / returns[:, :2].var())
    flat = BudgetRelativeAdvantage().advantages(np.ones(len(rollouts)), rollouts)
    # All answers right: returns differ between segments, advantages do not.
    assert flat.metrics["advantage/late_variance"] == pytest.approx(0, abs=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    rollouts = store(thought("a", 8), thought("b", 3))
    with pytest.raises(ValueError, match="got 0 of 6; an environment that answers at budgets"):
        BudgetRelativeAdvantage().advantages(np.zeros(6), replace(rollouts, cuts=()))
    with pytest.raises(ValueError, match=r"same budgets, got \[2, 5, 6\] and \[2, 5\]"):
        BudgetRelativeAdvantage().advantages(np.zeros(5), rollouts.select(range(5)))
    with pytest.raises(ValueError, match="totals must have one entry for each of 6"):
        BudgetRelativeAdvantage().advantages(np.zeros(5), rollouts)
    with pytest.raises(ValueError, match="each_earlier must be 0 where prior is 'uniform'"):
        BudgetRelativeAdvantage(each_earlier=0.01)
    with pytest.raises(ValueError, match="each_earlier must be at least 0"):
        BudgetRelativeAdvantage(prior="last", each_earlier=1.0)


def test_minibatches_keep_the_answers_of_a_prompt_together() -> None:
    rollouts = store(thought("a", 8), thought("b", 3), thought("c", 3, group="h"))
    algorithm = Algorithm(BudgetRelativeAdvantage(), ClippedObjective(), minibatches=2, old_logprobs="sampler")
    assert [part.tolist() for part in algorithm.parts(rollouts)] == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]
