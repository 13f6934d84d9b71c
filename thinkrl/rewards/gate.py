"""Gates: where a term counts, by what another term says of the response or of its group."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.pass_rate import group_pass_rates, top_groups
from thinkrl.rewards.term import Scores
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class Gate:
    """Opens a term where another term's raw value or verdict meets every condition given.

    No number meets no bound. A term whose own gate is closed opens nothing.
    """

    term: str
    """Name of the term that is read."""
    at_least: float | None = None
    """Least raw value that opens."""
    at_most: float | None = None
    """Greatest raw value that opens."""
    verdict: Literal["correct", "wrong", "ungradable", "timeout"] | None = None
    """Verdict that opens."""
    top_groups: float | None = None
    """Opens only in this share of the batch's groups (rounded up): those in which the other conditions are met most
    often, ties to the earlier group. The switch of GRPO-lambda (arXiv 2505.18086); 1 takes all groups, 0 none."""

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None and self.verdict is None:
            raise ValueError("a gate must have at_least, at_most or verdict, got none")
        if self.top_groups is not None and not 0.0 <= self.top_groups <= 1.0:
            raise ValueError(f"top_groups must be in [0, 1], got {self.top_groups}")

    def open(self, scores: Scores, rollouts: Rollouts) -> NDArray[np.bool_]:
        """Which responses pass, [n], by the scores of the term that is read."""
        passed = np.ones(len(scores.values), dtype=np.bool_)
        if self.at_least is not None:
            passed &= scores.values >= self.at_least
        if self.at_most is not None:
            passed &= scores.values <= self.at_most
        if self.verdict is not None:
            verdicts = scores.verdicts or (None,) * len(passed)
            passed &= np.asarray([verdict == self.verdict for verdict in verdicts], dtype=np.bool_)
        if self.top_groups is not None:
            passed &= top_groups(group_pass_rates(passed, rollouts), self.top_groups)[rollouts.group_index]
        return passed
