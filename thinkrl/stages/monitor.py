"""A monitor: training prompts asked now and then to see what the policy can do, and not learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinkrl.config.component import PromptCount
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator


@dataclass(frozen=True)
class Monitor:
    """A fixed set of training prompts, sampled as in training before the first step and every `every` steps.

    Terms with `observe` see the responses, such as length targets that follow the policy (arXiv 2505.15612).
    """

    prompts: PromptCount = 500
    """Prompts, drawn from the stage's own; all of them where there are fewer."""
    every: int = 20
    """Steps between two looks."""

    def __post_init__(self) -> None:
        for name in ("prompts", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def due(self, step: int) -> bool:
        """Whether to look before step `step`, from 1."""
        return step == 1 or step % self.every == 0

    def chosen(self, prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
        """The monitored ones of `prompts`, the same at every look."""
        order = generator("monitor", seed).permutation(len(prompts))
        return [prompts[int(index)] for index in order[: self.prompts]]
