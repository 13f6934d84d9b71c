"""A critic: its loss by hand, what it says of tokens, and that it learns what will be earned."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts, tiny_policy

from thinkrl.algorithms.token_returns import VALUES, GeneralisedAdvantage
from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import CompanionStart
from thinkrl.companions.critic import Critic, OpenCritic, _ClippedError
from thinkrl.config.component import ConfigError
from thinkrl.learning.value_model import ValueLearner
from thinkrl.models.tiny import TinyModel
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec

NOTHING: Any = None
FAST = ValueLearner(learning_rate=3e-3)


def opened(critic: Critic, **changes: Any) -> OpenCritic:
    start = CompanionStart(
        policy=tiny_policy(), model=NOTHING, weights=lambda name: None, total_steps=10, seed=0, sampler=NOTHING,
        spec=SamplingSpec(), stage="ppo",
    )  # fmt: skip
    return cast(OpenCritic, critic.open(replace(start, **changes)))


def estimated(critic: OpenCritic, rollouts: Rollouts, totals: np.ndarray[Any, Any]) -> Advantages:
    return GeneralisedAdvantage().advantages(totals, rollouts, None, critic.signals(rollouts))


def column(*values: float) -> Ragged:
    return Ragged.from_rows([values], np.float64)


def ones_and_halves(rollouts: Rollouts) -> np.ndarray[Any, Any]:
    """An outcome that the prompt alone tells: by group."""
    return np.where(rollouts.group_index == 0, 1.0, -0.5)


@pytest.mark.parametrize(
    ("value", "said", "wanted", "clipped"),
    [
        (0.5, 0.5, 0.125, 0.0),  # R = 1: (0.5 - 1)^2 / 2
        (0.9, 0.5, 0.045, 1.0),  # moved by 0.4: held at 0.7, (0.7 - 1)^2 / 2 is the greater
        (0.1, 0.5, 0.405, 0.0),  # away from R: (0.1 - 1)^2 / 2 is greater than what is held, (0.3 - 1)^2 / 2
        (1.5, 0.5, 0.125, 0.0),  # past R: (0.5)^2 / 2 against (0.7 - 1)^2 / 2
    ],
)
def test_the_loss_of_one_token(value: float, said: float, wanted: float, clipped: float) -> None:
    loss = _ClippedError(column(said), column(1.0), clip=0.2)(torch.tensor([value]), np.array([0]))
    assert float(loss.loss.total) == pytest.approx(wanted, rel=1e-6)
    assert loss.loss.count == 1.0
    assert float(loss.metrics["clipped"].total) == clipped
    plain = _ClippedError(column(said), column(1.0), clip=None)(torch.tensor([value]), np.array([0]))
    assert float(plain.loss.total) == pytest.approx((value - 1.0) ** 2 / 2, rel=1e-6)


def test_a_value_that_left_the_clip_range_has_no_gradient() -> None:
    values = torch.tensor([0.9, 0.6], requires_grad=True)
    _ClippedError(column(0.5, 0.5), column(1.0, 1.0), clip=0.2)(values, np.array([0, 1])).loss.total.backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -0.4])


def test_it_says_0_before_it_has_learned_and_then_what_is_earned() -> None:
    rollouts = make_rollouts((6, 6), given=True)
    totals = ones_and_halves(rollouts)
    critic = opened(Critic(FAST, value_clip=None, passes=5))
    assert np.nanmax(np.abs(critic.signals(rollouts)[VALUES.name].values)) == 0
    for _ in range(20):
        metrics = critic.learn(rollouts, NOTHING, estimated(critic, rollouts, totals))
    said = critic.signals(rollouts)[VALUES.name]
    assert np.isnan(said.values).tolist() == (~rollouts.sampled).tolist()
    assert metrics["explained_variance"] > 0.9
    assert said.values[rollouts.sampled] == pytest.approx(totals[said.row_ids[rollouts.sampled]], abs=0.3)


def test_what_is_excluded_teaches_nothing() -> None:
    rollouts = make_rollouts((3, 3))
    totals = ones_and_halves(rollouts)
    totals[[1, 4]] = np.nan
    kept = np.flatnonzero(~np.isnan(totals))
    states = []
    for batch, earned in ((rollouts, totals), (rollouts.select(kept), totals[kept])):
        critic = opened(Critic(FAST))
        critic.learn(batch, NOTHING, estimated(critic, batch, earned))
        states.append(critic.state().tensors)
    names = [name for name in states[0] if name.startswith("exp_avg/")]
    assert names
    for name in names:
        scale = float(states[1][name].abs().max()) or 1.0
        assert torch.allclose(states[0][name] / scale, states[1][name] / scale, atol=1e-5), name


@pytest.mark.parametrize(("passes", "minibatches"), [(1, 1), (3, 1), (2, 2)])
def test_as_many_steps_as_passes_and_parts(passes: int, minibatches: int) -> None:
    rollouts = make_rollouts((2, 2, 2))
    critic = opened(Critic(FAST, passes=passes, minibatches=minibatches))
    critic.learn(rollouts, NOTHING, estimated(critic, rollouts, ones_and_halves(rollouts)))
    assert critic.state().values["version"] == passes * minibatches


def test_an_estimator_without_returns_is_refused() -> None:
    rollouts = make_rollouts((2,))
    critic = opened(Critic(FAST))
    found = estimated(critic, rollouts, np.ones(2))
    with pytest.raises(ConfigError, match="learns returns"):
        critic.learn(rollouts, NOTHING, replace(found, targets={}))


@pytest.mark.parametrize(
    ("field", "value"), [("passes", 0), ("minibatches", 0), ("value_clip", 0.0), ("model", TinyModel())]
)
def test_bad_values_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Critic(**{field: value})


def test_it_starts_from_what_an_earlier_critic_saved(tmp_path: Path) -> None:
    model = TinyModel(hidden=32, intermediate=48, layers=2, heads=2, kv_heads=2)
    policy = model.load(for_training=True, seed=1)
    first = opened(Critic(FAST), policy=policy, model=model)
    rollouts = make_rollouts((3, 3))
    for _ in range(3):
        first.learn(rollouts, NOTHING, estimated(first, rollouts, ones_and_halves(rollouts)))
    first.save(tmp_path / "critic")
    again = opened(
        Critic(FAST, model_from="earlier"),
        policy=policy,
        model=model,
        weights=lambda name: tmp_path / name.replace("earlier", "critic"),
    )
    said = [critic.signals(rollouts)[VALUES.name].values for critic in (first, again)]
    assert said[1] == pytest.approx(said[0], rel=1e-6, abs=1e-7, nan_ok=True)
    assert np.nanmax(np.abs(said[1])) > 0


def test_from_base_it_takes_the_recipes_model_and_another_where_one_is_given() -> None:
    rollouts = make_rollouts((2, 2))
    small = TinyModel(hidden=32, intermediate=48, layers=1, heads=2, kv_heads=2)
    for critic in (Critic(FAST, model_from="base"), Critic(FAST, model=small, model_from="base")):
        found = opened(critic, model=small)
        found.learn(rollouts, NOTHING, estimated(found, rollouts, ones_and_halves(rollouts)))
        names = [name for name in found.state().tensors if name.startswith("weight/model.layers.")]
        assert names
        assert all(".layers.0." in name for name in names)
