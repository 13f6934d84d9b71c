"""How much of the signal for right answers do wrong labels take away?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts


def damage(right: int, group_size: int, unpaid_right: int, paid_wrong: int) -> float:
    """Delta = (g n_i + f n_c) / G: what right answers of a group lose in total advantage r - mean.

    n_c right and n_i = G - n_c wrong responses, of which g right ones are paid 0 and f wrong ones 1 (arXiv 2512.16912).
    """
    return (unpaid_right * (group_size - right) + paid_wrong * right) / group_size


def coin_damage(right: int, group_size: int) -> tuple[float, float]:
    """Mean n_c n_i / G and variance n_c n_i / (4 G) of Delta under fair coins; all there is to lose is n_c n_i / G."""
    whole = right * (group_size - right) / group_size
    return whole, whole / 4


@dataclass(frozen=True)
class Misalignment(RewardTerm):
    """Delta of the response's group, labels being the term `labels`, and truth `truth`: to be logged at weight 0.

    Delta = (g n_i + f n_c) / G (arXiv 2512.16912); groups that are nearly all right or all wrong lose little.
    Logged beside its mean: `whole`, the mean of n_c n_i / G, all that true labels would give.
    """

    reads_tokens: ClassVar[bool] = False

    labels: str
    """The term whose values are paid, 1 or 0."""
    truth: str = "correctness"
    """The term that says what is right."""
    threshold: float = 0.5
    """From which value on of either a response counts as paid, or right."""

    def reads_terms(self) -> tuple[str, ...]:
        """Both terms."""
        return (self.labels, self.truth)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value of 0 or more per response, the same within a group; responses without a truth count as wrong."""
        paid, right = (context.scores[name].values >= self.threshold for name in (self.labels, self.truth))
        values, whole = np.zeros(len(rollouts)), []
        for rows in rollouts.rows_by_group().values():
            n = int(right[rows].sum())
            unpaid_right, paid_wrong = int(np.sum(right[rows] & ~paid[rows])), int(np.sum(paid[rows] & ~right[rows]))
            values[rows] = damage(n, len(rows), unpaid_right, paid_wrong)
            whole.append(coin_damage(n, len(rows))[0])
        return Scores(values, metrics={"whole": float(np.mean(whole)) if whole else float("nan")})
