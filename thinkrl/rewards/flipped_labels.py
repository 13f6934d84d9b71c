"""Labels that are wrong for some questions: how much noise does a method bear?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts
from thinkrl.rollouts.streams import stream_key


@dataclass(frozen=True)
class FlippedLabels(RewardTerm):
    """r = low + high - v where a coin of `probability` p falls, else r = v, the value of the term `of`: low or high.

    One coin a question turns the labels of all its responses ("On the Noisy Rewards in Learning to Reason",
    arXiv 2505.22653): a group's advantages change sign with probability p, and on average right answers earn 1 - 2p
    more than wrong ones. One coin a response makes the signal within a group weaker, and for certain wrong in none.
    Benchmarks ask no rewards, so nothing is flipped there.
    """

    reads_tokens: ClassVar[bool] = False

    of: str = "correctness"
    """The term whose values are flipped."""
    among: str | None = None
    """A term that gives 1 where the value may be flipped, such as `AnswerFound`; null flips any."""
    probability: float = 0.4
    """p, the chance of a flip."""
    coin: Literal["group", "prompt", "response"] = "group"
    """What a coin is thrown for: a question each time it is asked, a question once and for all, or a response."""
    low: float = 0.0
    """Value of a wrong answer."""
    high: float = 1.0
    """Value of a right answer."""
    seed: int = 0
    """Another seed throws other coins."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability must be in [0, 1], got {self.probability}")

    def reads_terms(self) -> tuple[str, ...]:
        """The term that is flipped, and the one that says where."""
        return (self.of,) if self.among is None else (self.of, self.among)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response, NaN where the term has none. A coin depends on the seed and an id alone."""
        values = context.scores[self.of].values
        flipped = np.asarray([self._falls(self._key(rollouts, row)) for row in range(len(rollouts))], dtype=np.bool_)
        if self.among is not None:
            flipped &= context.scores[self.among].values >= 1.0
        return Scores(
            values=np.where(flipped, self.low + self.high - values, values),
            notes=tuple("flipped" if flip else "" for flip in flipped),
            metrics={"flipped": float(np.mean(flipped)) if len(flipped) else float("nan")},
        )

    def _key(self, rollouts: Rollouts, row: int) -> str:
        if self.coin == "response":
            return rollouts.response_ids[row]
        group = rollouts.groups[int(rollouts.group_index[row])]
        return group.prompt.prompt_id if self.coin == "prompt" else group.group_id

    def _falls(self, key: str) -> bool:
        return stream_key("flipped label", self.seed, self.coin, key) < self.probability * 2.0**64
