"""A probe: the policy answers some prompts, and what it chose between at each token is measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from thinkrl.config.component import GroupSize, PromptCount
from thinkrl.data.order import order_prompts
from thinkrl.data.source import PromptSource
from thinkrl.environments.environment import Environment, check_environment
from thinkrl.probes.state_skewness import measure_states
from thinkrl.sampling.sampler import SamplerSource, SamplingSpec
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch


@dataclass(frozen=True, kw_only=True)
class MeasureStates(Stage):
    """Logs entropy, greatest probability, and Phi (arXiv 2512.16912) of the states of sampled responses, as means."""

    makes: ClassVar[tuple[Kind, ...]] = ()

    prompts: PromptSource
    """Where prompts come from."""
    environment: Environment
    """How a prompt becomes rollouts."""
    sampler: SamplerSource
    """Sampling engine."""
    sampling: SamplingSpec
    """How tokens are drawn; what is measured is the distribution that it makes."""
    prompt_count: PromptCount = 32
    """Prompts asked."""
    samples: GroupSize = 2
    """Responses sampled per prompt."""
    least: float = 1e-6
    """Probability below which a token is no choice; Phi grows with the number of those that are."""

    def __post_init__(self) -> None:
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature must be above 0 where distributions are measured, got 0")

    def check(self) -> None:
        """Reads the prompts, and looks for the sampling engine."""
        self.sampler.check()
        check_environment(self.environment)
        order_prompts(self.prompts, self.prompt_count, seed=0)

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return f"measure the states of {self.prompt_count} x {self.samples} responses"

    def work(self) -> float:
        """Tokens sampled at most."""
        return float(self.prompt_count * self.samples * self.sampling.max_new_tokens)

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Samples, measures, and logs one row."""
        if context.resume(total=1).step == 0:
            policy = context.load_policy(self.model_from)
            watch = Stopwatch()
            with watch("sample"):
                prompts = order_prompts(self.prompts, self.prompt_count, context.seed).batch(0, self.prompt_count)
                rollouts = context.open_environment(self.environment).rollout(
                    policy, context.open_sampler(self.sampler, policy), prompts, self.samples, self.sampling,
                    seed=context.seed, stage=context.name, step=1,
                )  # fmt: skip
            with watch("logprobs"):
                states = measure_states(policy.module, rollouts, self.sampling, self.least)
            context.write_rollouts(1, rollouts, {})
            context.finish_step(1, 1, states.metrics(), watch, every=1)
        return {}
