"""Flow of Reasoning (arXiv 2406.05673): golden values of its rewards, balance, schedules and buffer."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.algorithms.trajectory_balance import LOG_Z, BalanceAlgorithm, BalanceResidual, SquaredResidual
from thinkrl.algorithms.types import Advantages, LossInputs
from thinkrl.benchmarks.diversity import creativity, distinct_solutions, right_solutions, solved_share
from thinkrl.companions.replay import OpenReplay, Replay, chances
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.base_likelihood import BaseLikelihood
from thinkrl.rewards.log_reward import LogReward
from thinkrl.rewards.schedules import EpochRamp
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.rollouts.ragged import Ragged
from thinkrl.stages.experiment import Experiment
from thinkrl.tasks.target_numbers import TargetActions, TargetGrader

LOG_PF = [-2.0, -3.0, -1.5, -4.0]
REWARDS = [100.5, 10.5, 101.0, 1.0]
LOG_PB = [-3.0, -2.5, -3.0, -2.0]
LOG_R = [4.610158, 2.351375, 4.615120, 0.0]


def balance(totals: list[float], log_z: float | None = None) -> tuple[float, Advantages]:
    """The loss on four responses of two tokens each, at the weights that they are read with, and the residuals."""
    batch = rollouts([2, 2, 2, 2])
    logprobs = Ragged.from_rows([[value / 4, 3 * value / 4] for value in LOG_PF], np.float64)
    estimator = BalanceResidual(log_z="group" if log_z is None else "learned")
    paid = logprobs.with_values(-logprobs.values)
    found = estimator.advantages(np.asarray(totals), batch, paid, {} if log_z is None else {"log_z": [log_z] * 4})
    policy = torch.tensor(logprobs.values, requires_grad=True)
    outputs = SquaredResidual()(
        LossInputs(
            logprobs=policy,
            old_logprobs=policy.detach(),
            advantages=torch.tensor(found.values.values),
            weights=torch.ones(8, dtype=torch.float64),
            response_ids=torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
            response_count=4,
        )
    )
    outputs.loss.total.backward()  # type: ignore[no-untyped-call]
    assert policy.grad is not None
    expected = np.repeat([-2 * found.values[row][0] for row in range(4)], 2)
    np.testing.assert_allclose(policy.grad.numpy(), expected, rtol=1e-9)
    return float(outputs.loss.total.detach()) / outputs.loss.count, found


def log_rewards() -> list[float]:
    context = RewardContext(scores={"r": Scores(numbers(*REWARDS))})
    return LogReward({"r": 1.0}).score(rollouts([1] * 4), context).values.tolist()


def test_log_rewards() -> None:
    assert log_rewards() == pytest.approx(LOG_R, **TOLERANCE)


@pytest.mark.parametrize(
    ("beta", "backward", "loss"),
    [
        (1.0, [0.0] * 4, 0.970361),
        (1.0, LOG_PB, 0.340707),
        (1.0, [LOG_PB[-1]] * 4, 0.970361),  # a constant, as in the released code, has no effect
        (1.5, [0.0] * 4, 3.727816),
    ],
)
def test_the_log_variance_form(beta: float, backward: list[float], loss: float) -> None:
    totals = [beta * log_r + log_pb for log_r, log_pb in zip(log_rewards(), backward, strict=True)]
    found, advantages = balance(totals)
    assert found == pytest.approx(loss, rel=1e-5)
    if beta == 1.0 and not any(backward):
        assert advantages.metrics["balance/log_z"] == pytest.approx(5.519163, rel=1e-6)
    assert sum(advantages.values[row][0] for row in range(4)) == pytest.approx(0.0, abs=1e-12)


def test_the_gradient_of_the_log_variance_form_is_that_of_the_variance_itself() -> None:
    policy = torch.tensor(LOG_PF, dtype=torch.float64, requires_grad=True)
    phi = torch.tensor(log_rewards(), dtype=torch.float64) - policy
    ((phi - phi.mean()) ** 2).sum().backward()  # type: ignore[no-untyped-call]
    _, advantages = balance(log_rewards())
    assert policy.grad is not None
    ours = [-2 * advantages.values[row][0] for row in range(4)]
    np.testing.assert_allclose(ours, policy.grad.numpy(), rtol=1e-9)


def test_trajectory_balance_with_a_learned_log_z() -> None:
    loss, advantages = balance(log_rewards(), log_z=5.0)
    assert loss == pytest.approx(1.239891, rel=1e-5)
    phi = [log_r - log_pf for log_r, log_pf in zip(log_rewards(), LOG_PF, strict=True)]
    assert [advantages.targets[LOG_Z.name][row][0] for row in range(4)] == pytest.approx(phi)


def test_equal_rewards_still_push_likelihoods_together() -> None:
    loss, advantages = balance([math.log(100.0)] * 4)
    assert loss == pytest.approx(np.var(LOG_PF))
    residuals = [advantages.values[row][0] for row in range(4)]
    assert np.argmin(residuals) == np.argmax(LOG_PF)


STEPS = [-2.0, -4.0, -0.5, -8.0]


def test_the_bonus_of_likelihood_and_blocksworlds_rewards() -> None:
    """Four steps of two characters, a token each; 100 when all goals are met, else 10 times the share of them."""
    text = "ab\ncd\nef\ngh"
    tokens = [[part / 2, part / 4, part / 4] for part in STEPS]
    column = np.concatenate(tokens)[: len(text)]
    column[-1] = STEPS[-1] / 2
    context = RewardContext(signals={"base_logprobs": Ragged.from_rows([column], np.float64)})
    batch = rollouts([len(text)], texts=[text])
    (bonus,) = BaseLikelihood().score(batch, context).values
    assert bonus == pytest.approx(2.875)
    reward = LogReward({"goals": 1.0, "bonus": 1.5})
    for goals, value, log_value in ((100.0, 104.3125, 4.647391), (10.0 * 0.5, 9.3125, 2.231358)):
        scores = {"goals": Scores(numbers(goals)), "bonus": Scores(numbers(bonus))}
        (found,) = reward.score(batch, RewardContext(scores=scores)).values
        assert found == pytest.approx(log_value, rel=1e-6)
        assert math.exp(found) == pytest.approx(value)


def test_a_step_that_is_sure_does_not_explode() -> None:
    context = RewardContext(signals={"base_logprobs": Ragged.from_rows([[0.0, -1e-9]], np.float64)})
    assert BaseLikelihood().score(rollouts([2], texts=["ab"]), context).values.tolist() == pytest.approx([1000.0])


def line(text: str, nll: float = 0.35) -> dict[str, Any]:
    return {
        "prompt_id": "p",
        "prompt": "Numbers: 1 4 6. Target: 24.",
        "reference": "1 4 6 -> 24",
        "response": text,
        "tokens": list(text),
        "signals": {"base_logprobs": [-nll] * len(text), "logprobs": [-0.5] * len(text), "log_z": 0.0},
    }


def test_game24_through_the_command_line(tmp_path: Path) -> None:
    lines = [line("4 * 6 = 24 (left: 1 24)\n24 / 1 = 24 (left: 24)"), line("4 * 6 = 24\n24 + 1 = 25")]
    right, wrong = score(tmp_path, lines, "flow_of_reasoning/paper")
    for found, log_r in ((right, 4.611217), (wrong, -0.498353)):
        assert found["terms"]["bonus"] == pytest.approx(0.606531, rel=1e-5)
        assert found["terms"]["log_reward"] == pytest.approx(log_r, rel=1e-5)
        assert found["reward"] == pytest.approx(log_r, rel=1e-5)
    assert (right["verdict"], wrong["verdict"]) == ("correct", "wrong")


PAGE = (Path(__file__).parents[2] / "docs" / "diversity.md").read_text()
COMMANDS = [line.split()[2:] for line in re.findall(r"^thinkrl run .*", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_commands_of_the_page_build_what_they_say(command: list[str]) -> None:
    composed = compose(command[0], command[1:])
    stage: Any = build(Experiment, composed.tree, composed).stages["grpo"]
    learned = "algorithm=trajectory_balance_learned" in command
    assert isinstance(stage.algorithm, BalanceAlgorithm)
    assert stage.algorithm.advantage.log_z == ("learned" if learned else "group")
    assert set(stage.companions) == ({"replay", "log_z"} if learned else {"replay"})


def test_the_temperature_of_rewards_rises_in_the_first_half_and_then_stays() -> None:
    ramp = EpochRamp(1.0, 2.0, 10)
    assert [ramp.value(epoch, 10) for epoch in range(5)] == pytest.approx([1.0, 1.2, 1.4, 1.6, 1.8])
    assert [ramp.value(epoch, 10) for epoch in range(5, 10)] == pytest.approx([1.8] * 5)
    assert [EpochRamp(0.3, 0.5, 10).value(step, 40) for step in (0, 3, 4, 39)] == pytest.approx([0.3, 0.3, 0.34, 0.46])


def test_the_buffer_draws_in_proportion_to_rewards() -> None:
    assert chances(np.log([100.0, 50.0, 10.0]).tolist()) == pytest.approx([0.625, 0.3125, 0.0625])


def test_the_buffer_refuses_doubles_and_keeps_the_best() -> None:
    buffer = OpenReplay(Replay(TargetActions(), tries=0, capacity=2), "grpo", 10)
    assert buffer.add("p", 1.0, [1, 2], 0)
    assert not buffer.add("p", 1.0, [1, 2], 5)
    assert buffer.add("p", 3.0, [3], 0)
    assert buffer.add("p", 2.0, [4], 0)
    assert not buffer.add("p", 0.5, [5], 0)
    kept = {tuple(entry[2]) for entry in buffer.drawn("p", 200, np.random.default_rng(0))}
    assert kept == {(3,), (4,)}
    assert buffer.drawn("q", 4, np.random.default_rng(0)) == []


def test_diversity_counts_solved_prompts_and_creativity_what_one_method_alone_finds() -> None:
    right, wrong = Verdict.CORRECT, Verdict.WRONG
    answers = [["4*6=24\n24/1=24", "6*4=24\n24/1=24", "4/1=4\n4*6=24"], ["1+1=3", None, "1+2=3"]]
    verdicts = [[right, right, right], [wrong, wrong, wrong]]
    found = right_solutions(["p", "q"], answers, verdicts, ["1 4 6 -> 24"] * 2, TargetGrader())
    assert distinct_solutions(found) == 2.0
    assert solved_share(found) == 0.5
    other = {"p": frozenset(["4*6=24\n1*24=24", "4*6=24\n24/1=24"]), "q": frozenset[str]()}
    assert creativity({"a": found, "b": other}, "a") == pytest.approx(1 / 3)
    assert math.isnan(distinct_solutions({"p": frozenset()}))
    assert math.isnan(creativity({"a": {}}, "a"))
