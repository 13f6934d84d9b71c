"""Group-relative policy optimisation (arXiv 2402.03300) and its kin: one page, read top to bottom."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.algorithms.types import UpdateReport
from thinkrl.companions.companion import CompanionSource
from thinkrl.companions.opened import check_supplied
from thinkrl.config.component import BatchPrompts, CompanionSteps, ConfigError, GroupSize, Steps
from thinkrl.data.order import order_prompts
from thinkrl.data.source import PromptSource
from thinkrl.environments.environment import Environment, check_environment
from thinkrl.learning.learner import LearnerSource
from thinkrl.rewards.reward import Reward
from thinkrl.rewards.signals import merge_readings, read_signals
from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.ragged import add
from thinkrl.sampling.sampler import SamplerSource, SamplingSpec
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.monitor import Monitor
from thinkrl.stages.records import advantage_columns, batch_metrics, reward_columns
from thinkrl.stages.stage import Stage
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.recorder import Stopwatch


@dataclass(frozen=True, kw_only=True)
class GRPO(Stage):
    """Samples groups of responses, scores them, and follows the policy gradient of their advantages."""

    makes: ClassVar[tuple[Kind, ...]] = ("model",)

    prompts: PromptSource
    """Where prompts come from."""
    environment: Environment
    """How a prompt becomes rollouts."""
    reward: Reward
    """Scores the rollouts."""
    algorithm: Algorithm
    """Advantage estimator and objective."""
    sampler: SamplerSource
    """Sampling engine."""
    sampling: SamplingSpec
    """How tokens are drawn; the learner's log-probabilities follow the same specification."""
    learner: LearnerSource
    """Optimizer and batching."""
    steps: Steps = 100
    """Batches sampled and learned from."""
    prompts_per_step: BatchPrompts = 8
    """Prompts a batch."""
    group_size: GroupSize = 8
    """Responses sampled per prompt."""
    monitor: Monitor | None = None
    """Shows the reward what the policy can do, where a term of it wants to see that; such terms need one."""
    companions: Mapping[str, CompanionSource] = field(default_factory=dict)
    """Models beside the policy, by name: they supply signals that reward and algorithm read, and may learn too."""
    companion_steps: CompanionSteps = 0
    """First steps in which companions learn and the policy does not."""
    largest_mismatch: float = 0.1
    """Most that sampler and learner may differ at the first update: mean over tokens of log-probabilities, in nats."""
    checkpoint_every: int = 10
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "group_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature must be above 0 where log-probabilities are learned from, got 0")
        if self.monitor is None and getattr(self.reward, "observes", False):
            raise ValueError("monitor must be given: a term of the reward follows what the policy can do")
        if self.algorithm.minibatches > self.prompts_per_step:
            raise ValueError(
                f"prompts_per_step must be at least the algorithm's {self.algorithm.minibatches} minibatches,"
                f" got {self.prompts_per_step}"
            )
        if not 0 <= self.companion_steps < self.steps:
            raise ValueError(f"companion_steps must be 0 or more and below steps, got {self.companion_steps}")
        read = merge_readings(self.reward.signals(), read_signals({"advantage": [self.algorithm.advantage]}))
        check_supplied(read.values(), self.companions)

    def check(self) -> None:
        """Reads the prompts, and looks for the sampling engine and what learner, environment and companions need."""
        self.sampler.check()
        self.learner.check()
        check_environment(self.environment)
        for companion in self.companions.values():
            companion.check()
        if self.companions and self.learner.processes > 1:
            raise ConfigError("companions work with learner.processes=1 only")
        order_prompts(self.prompts, self.prompts_per_step, seed=0)

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return (
            f"GRPO: {self.steps} steps of {self.prompts_per_step} prompts x {self.group_size} responses,"
            f" up to {self.sampling.max_new_tokens} tokens each"
        )

    def work(self) -> float:
        """Tokens sampled at most, and half as long again to learn from them."""
        return 1.5 * self.steps * self.prompts_per_step * self.group_size * self.sampling.max_new_tokens

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Trains and saves the model."""
        policy = context.load_policy(self.model_from, for_training=self.learner.needs_masters)
        learner = self.learner.open(
            policy,
            total_steps=(self.steps - self.companion_steps) * self.algorithm.updates_per_batch,
            with_reference=self.algorithm.needs_reference,
        )
        sampler = context.open_sampler(self.sampler, policy)
        companions = context.open_companions(self.companions, policy, sampler, self.sampling, self.steps)
        environment = companions.around(context.open_environment(self.environment))
        order = order_prompts(self.prompts, self.prompts_per_step, context.seed)
        state = context.resume(self.steps, learner, companions)
        memory: Any = state.values.get("reward", {})

        for step in range(state.step + 1, self.steps + 1):
            watch = Stopwatch()
            with watch("wait"):
                sampler.sync(learner.version)
            watched: dict[str, float] = {}
            if self.monitor is not None and self.reward.observes and self.monitor.due(step):
                with watch("reward"):
                    seen = environment.rollout(
                        policy, sampler, self.monitor.chosen(order.prompts, context.seed), self.group_size,
                        self.sampling, seed=context.seed, stage=f"{context.name}/monitor", step=step,
                    )  # fmt: skip
                    self.reward.observe(seen, RewardContext(step - 1, self.steps, memory))
                    watched["monitor_tokens"] = float(seen.sampled.sum())
            with watch("sample"):
                prompts = order.batch(step - 1, self.prompts_per_step)
                rollouts = environment.rollout(
                    policy, sampler, prompts, self.group_size, self.sampling,
                    seed=context.seed, stage=context.name, step=step,
                )  # fmt: skip
            with watch("signals"):
                signals = companions.signals(rollouts)
            with watch("reward"):
                rewards = context.score(self.reward, rollouts, step, self.steps, memory, signals)
            with watch("logprobs"):
                penalties = self.algorithm.token_rewards(learner, rollouts, self.sampling)
                token_rewards = add(rewards.tokens, penalties)
                advantages = self.algorithm.advantages(rewards.totals, rollouts, token_rewards, signals)
            learned: dict[str, float] = {}
            if step > self.companion_steps:
                with watch("update"):
                    report = self.algorithm.update(learner, rollouts, advantages, self.sampling)
                learned = report.row()
                if step == self.companion_steps + 1:
                    self._check_mismatch(report)
            with watch("companions"):
                learned |= companions.learn(rollouts, rewards, advantages)

            columns = {**reward_columns(rewards), **advantage_columns(advantages, rewards, rollouts)}
            context.write_rollouts(step, rollouts, columns)
            measured = batch_metrics(rollouts, rewards, self.sampling, watch, len(prompts))
            row = {**measured, **watched, **learned}
            context.finish_step(
                step, self.steps, row, watch, every=self.checkpoint_every,
                learner=learner, companions=companions, reward=memory,
            )  # fmt: skip
        companions.save(context.folder / "companions")
        return {"model": context.save_policy(policy, learner)}

    def _check_mismatch(self, report: UpdateReport) -> None:
        """Ends the run before it learns from log-probabilities that are not the sampler's."""
        found = report.metrics.get("mismatch/mean_abs", 0.0)
        if found > self.largest_mismatch:
            raise RunError(
                f"sampler and learner differ by {found:.3g} nats a token at the first update, more than"
                f" largest_mismatch {self.largest_mismatch:.3g}: they hold other weights or read the sampling"
                " specification differently; a coarse dtype may need a higher limit"
            )
