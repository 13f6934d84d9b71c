"""A benchmark: prompts with everything that decides what a score on them means."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinkrl.benchmarks.early_answers import EarlyAnswers
from thinkrl.benchmarks.episodes import FinalScore
from thinkrl.config.component import GroupSize, PromptCount
from thinkrl.data.source import PromptSource
from thinkrl.environments.environment import Environment
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.rollouts.prompt import Prompt
from thinkrl.sampling.sampler import SamplingSpec


@dataclass(frozen=True)
class Benchmark:
    """Accuracy as the mean over `samples` samples of each prompt, with pass@k and majority votes."""

    name: str
    """Name shown beside every number."""
    version: int
    """Raised whenever the same configuration would give other numbers."""
    prompts: PromptSource
    """What is asked, with references."""
    environment: Environment
    """How a prompt becomes responses."""
    sampling: SamplingSpec
    """How tokens are drawn."""
    extractor: AnswerExtractor
    """Where the answer stands in a response."""
    grader: Grader | FinalScore
    """What counts as correct: a grader of answers, or the final score of an episode, for which nothing is extracted."""
    samples: GroupSize = 1
    """Samples a prompt; more narrow the interval and allow pass@k."""
    max_prompts: PromptCount = 1_000_000
    """At most this many prompts, from the start."""
    early: EarlyAnswers | None = None
    """Cuts the thinking of every response at budgets and measures the answers it is then forced to; null does not."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty")
        if self.early is not None and isinstance(self.grader, FinalScore):
            raise ValueError("early must be null where episodes are scored, got a component")
        for field in ("version", "samples", "max_prompts"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")

    def selected(self) -> Sequence[Prompt]:
        """The prompts that are asked. Raises DataError when the source cannot be read."""
        return list(self.prompts.prompts())[: self.max_prompts]
