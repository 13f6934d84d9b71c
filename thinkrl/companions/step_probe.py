"""How often the policy answers right after each part of its thinking."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.environments.forced_answers import ForcedAnswers
from thinkrl.grading.verdict import Verdict
from thinkrl.learning.learner import LearnerState
from thinkrl.rewards.result import RewardResult
from thinkrl.rewards.step_gains import STEP_ACCURACIES
from thinkrl.rewards.term import RewardContext, RewardTerm
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.spans import read_response
from thinkrl.rollouts.steps import StepSplitter, TriggerWordSteps, first_tokens
from thinkrl.rollouts.store import Response, Rollouts
from thinkrl.sampling.sampler import SamplingSpec


@dataclass(frozen=True)
class StepProbe:
    """A_j, the share of right answers that the policy gives when its thinking is closed before step j; A_n, after all.

    The policy's own sampler continues the ids of the thinking as they were sampled (arXiv 2508.10293). A response
    without a step is not asked, and has no accuracies.
    """

    judge: RewardTerm
    """Its verdicts say which answers are right."""
    steps: StepSplitter = field(default_factory=TriggerWordSteps)
    """Where steps begin; the reward must read the same."""
    answers: ForcedAnswers = field(
        default_factory=lambda: ForcedAnswers(insert="</think>", answers=5, answer_tokens=768)
    )
    """How thinking is closed, how many answers are sampled at each place, and how long they may be."""
    sampling: SamplingSpec | None = None
    """How answers are drawn; null draws them as the stage draws responses."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""

    def supplies(self) -> tuple[Signal, ...]:
        """The accuracies."""
        return (STEP_ACCURACIES,)

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, start: CompanionStart) -> Companion:
        """Shares the stage's sampler."""
        return OpenStepProbe(self, start)


class OpenStepProbe:
    """A probe of the policy as it is."""

    def __init__(self, config: StepProbe, start: CompanionStart) -> None:
        self._config = config
        self._start = start
        self._asked: dict[str, float] = {}

    def signals(self, rollouts: Rollouts) -> Mapping[str, Ragged]:
        """The accuracies of every response, in the order of its steps."""
        config, start = self._config, self._start
        budgets = [self._budgets(response) for response in rollouts]
        places = sum(map(len, budgets))
        right: list[bool] = []
        self._asked = {"states": float(places), "tokens": 0.0}
        if places:
            answered = config.answers.answer(
                start.policy, start.sampler, rollouts, budgets, config.sampling or start.spec, start.seed,
                f"{start.stage}/probe",
            )  # fmt: skip
            verdicts = config.judge.score(answered, RewardContext()).verdicts
            right = [verdict is Verdict.CORRECT for verdict in verdicts]
            # What the first answer at each thinking owns of it was sampled before.
            drawn = answered.sampled_counts.sum() - sum(allowed[-1] for allowed in budgets if allowed)
            self._asked["tokens"] = float(drawn)
        shares = np.asarray(right, dtype=np.float64).reshape(places, -1).mean(axis=1) if places else np.zeros(0)
        ends = np.cumsum([0, *map(len, budgets)])
        rows = [shares[first:last] for first, last in pairwise(ends)]
        return {STEP_ACCURACIES.name: Ragged.from_rows(rows, np.float64)}

    def _budgets(self, response: Response) -> list[int]:
        """Sampled tokens before each step, and of the whole thinking; none without a step."""
        starts = self._config.steps.starts(response.text)
        think = read_response(response.text, self._config.prefix).think
        if not starts or think is None:
            return []
        counted = np.concatenate([[0], np.cumsum(response.origins)])
        end = first_tokens(response, [think[1]])[0] if think[1] < len(response.text) else _shown(response)
        return [int(counted[token]) for token in (*first_tokens(response, starts), end)]

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Learns nothing; says what was asked of the last batch: places, and tokens sampled for them."""
        return self._asked

    def state(self) -> LearnerState:
        """Nothing."""
        return LearnerState({}, {})

    def load_state(self, state: LearnerState) -> None:
        """Nothing to restore."""

    def save(self, folder: Path) -> None:
        """Nothing was learned."""


def _shown(response: Response) -> int:
    """Tokens of a response that write its text: all but a stop token."""
    return int(np.searchsorted(response.char_ends, len(response.text), side="left")) + 1
