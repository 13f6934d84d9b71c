"""Sizes that cannot run are refused when the configuration is built; schedules see a stage from its first step."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thinkrl.algorithms.types import Advantages
from thinkrl.companions.opened import Companions
from thinkrl.grading.verdict import Verdict
from thinkrl.parallel.ranks import Ranks
from thinkrl.rewards.result import RewardResult
from thinkrl.rewards.schedules import progress
from thinkrl.rewards.signals import Reading
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.stages.context import StageContext
from thinkrl.stages.grpo import GRPO
from thinkrl.stages.rejection_sampling import RejectionSampling, Selection
from thinkrl.stages.sft import SFT
from thinkrl.tracking.state import RunState

NONE: Any = None


def algorithm(**methods: Any) -> Any:
    return SimpleNamespace(advantage=None, minibatches=1, updates_per_batch=1, needs_reference=False, **methods)


def make_grpo(**fields: Any) -> GRPO:
    parts = dict.fromkeys(("prompts", "environment", "reward", "sampler", "learner"), NONE)
    return GRPO(**(parts | {"algorithm": algorithm(), "sampling": SamplingSpec()} | fields))


def make_rejection(**fields: Any) -> RejectionSampling:
    parts = dict.fromkeys(("prompts", "environment", "reward", "sampler"), NONE)
    return RejectionSampling(**(parts | {"sampling": SamplingSpec()} | fields))


@pytest.mark.parametrize("name", ["steps", "prompts_per_step", "group_size", "checkpoint_every"])
def test_grpo_refuses_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        make_grpo(**{name: 0})


@pytest.mark.parametrize("name", ["prompt_count", "prompts_per_step", "samples", "checkpoint_every"])
def test_rejection_sampling_refuses_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        make_rejection(**{name: 0})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "max_steps", "checkpoint_every"])
def test_sft_refuses_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SFT(traces=NONE, learner=NONE, **{name: 0})


def test_selection_keeps_something() -> None:
    with pytest.raises(ValueError, match="per_prompt must be at least 1"):
        Selection(per_prompt=0)


def test_grpo_refuses_what_the_learner_cannot_follow() -> None:
    with pytest.raises(ValueError, match=r"sampling\.temperature must be above 0"):
        make_grpo(sampling=SamplingSpec(temperature=0.0))


def test_grpo_refuses_more_minibatches_than_prompts() -> None:
    many = algorithm()
    many.minibatches = 4
    with pytest.raises(ValueError, match="prompts_per_step must be at least the algorithm's 4 minibatches"):
        make_grpo(algorithm=many, prompts_per_step=2)


def test_grpo_refuses_a_signal_that_nothing_supplies() -> None:
    judged = Signal("judged", "how good the thinking is")
    many = algorithm()
    many.advantage = SimpleNamespace(signals=lambda: (judged,))
    reward = SimpleNamespace(signals=dict)
    with pytest.raises(ValueError, match=r"must supply the signal 'judged', read by advantage: how good the thinking"):
        make_grpo(algorithm=many, reward=reward)
    supplying = SimpleNamespace(supplies=lambda: (judged,))
    make_grpo(algorithm=many, reward=reward, companions={"judge": supplying})


def test_reward_and_estimator_read_a_signal_in_one_shape() -> None:
    many = algorithm()
    many.advantage = SimpleNamespace(signals=lambda: (Signal("judged", "of each token", "token"),))
    of_response = Reading(Signal("judged", "of the response"), ("thinking",))
    reward = SimpleNamespace(signals=lambda: {"judged": of_response})
    with pytest.raises(ValueError, match="'judged' must be read in one shape, got 'number' by thinking and 'token'"):
        make_grpo(algorithm=many, reward=reward)


def test_the_policy_learns_in_some_step() -> None:
    with pytest.raises(ValueError, match="companion_steps must be 0 or more and below steps, got 3"):
        make_grpo(steps=3, companion_steps=3)


@pytest.mark.parametrize("kind", ["grpo", "rejection_sampling"])
def test_schedules_run_from_the_first_step_to_the_last(
    kind: str, rollouts: Rollouts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    remembered: list[int] = []

    def score(_: Rollouts, context: Any) -> RewardResult:
        seen.append((context.step, context.total_steps))
        context.state["calls"] = context.state.get("calls", 0) + 1
        remembered.append(context.state["calls"])
        return RewardResult(np.ones(4), verdicts=(Verdict.CORRECT,) * 4)

    kept: list[dict[str, int]] = []
    prompts = [group.prompt for group in rollouts.groups]
    parts: dict[str, Any] = {
        "prompts": SimpleNamespace(prompts=lambda: [SimpleNamespace(prompt_id=str(i)) for i in range(3)]),
        "environment": SimpleNamespace(rollout=lambda *_, **__: rollouts),
        "reward": SimpleNamespace(score=score, signals=dict),
        "sampler": SimpleNamespace(open=lambda _: SimpleNamespace(sync=lambda version: "")),
        "prompts_per_step": 1,
    }
    context: Any = SimpleNamespace(
        load_policy=lambda *_, **__: SimpleNamespace(),
        open_sampler=lambda source, policy: source.open(policy),
        open_companions=lambda *_: Companions({}),
        resume=lambda *_: RunState(0),
        score=partial(StageContext.score, SimpleNamespace(ranks=Ranks())),
        open_environment=lambda environment: environment,
        save_policy=lambda *_: tmp_path,
        write_traces=lambda *_: tmp_path,
        write_rollouts=lambda *_: None,
        finish_step=lambda *_, **values: kept.append(dict(values["reward"])),
        **{"seed": 0, "name": "s", "folder": tmp_path, "plumbing": False},
    )
    if kind == "grpo":
        learner = SimpleNamespace(needs_masters=True, open=lambda *_, **__: SimpleNamespace(version=0, weights=dict))
        steps = algorithm(
            token_rewards=lambda *_: None,
            advantages=lambda *_: Advantages(
                rollouts.token_ids.with_values(np.zeros(len(rollouts.sampled))), np.ones(len(rollouts), dtype=np.bool_)
            ),
            update=lambda *_: SimpleNamespace(metrics={}, row=dict),
        )
        make_grpo(**parts, algorithm=steps, learner=learner, steps=3).run(context)
    else:
        monkeypatch.setattr("thinkrl.stages.rejection_sampling.Trace", lambda prompt, text, given: text)
        monkeypatch.setattr("thinkrl.stages.rejection_sampling.order_prompts", lambda *_: Order(prompts))
        make_rejection(**parts, prompt_count=3).run(context)
    assert seen == [(0, 3), (1, 3), (2, 3)]
    assert remembered == [1, 2, 3], "terms remember from step to step"
    assert kept == [{"calls": 1}, {"calls": 2}, {"calls": 3}], "and checkpoints keep it"
    assert [progress(step, total) for step, total in seen] == [0.0, 0.5, 1.0]


class Order:
    """Three prompts, as a rejection sampling stage asks for them."""

    def __init__(self, prompts: list[Any]) -> None:
        self.prompts = prompts

    def __len__(self) -> int:
        return 3

    def batch(self, step: int, size: int) -> list[Any]:
        return self.prompts[:size]
