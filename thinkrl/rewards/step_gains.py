"""What does each step of the thinking do for the answer?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.steps import StepSplitter, TriggerWordSteps, first_tokens
from thinkrl.rollouts.store import Rollouts

STEP_ACCURACIES = Signal(
    "step_accuracies",
    "share of right answers after the thinking before each step, closed there, and last after the whole thinking;"
    " from 0 to 1, one more than there are steps",
    "list",
)
"""What a probe of the policy's answers supplies."""


@dataclass(frozen=True)
class StepGains(RewardTerm):
    """r_j = A_{j+1} - A_j, the accuracy that step j adds; verifiable stepwise reward (arXiv 2508.10293).

    A step that adds less than `tolerance` looks ahead past others like it, and gets discount^(k-j) of what the next
    step k that changes anything adds; nothing where `window` steps are passed. r_j is paid to the first token of the
    step, but the response's last sampled token is paid nothing here. The value is the sum of the r_j.
    """

    steps: StepSplitter = field(default_factory=TriggerWordSteps)
    """Where steps begin; the probe must cut there too."""
    discount: float = 0.7
    """Share of a later gain that is left after each step between; 0 pays each step its own gain alone."""
    window: int = 4
    """Steps that are looked past at most."""
    tolerance: float = 1e-5
    """Gains below this are none."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.discount <= 1.0:
            raise ValueError(f"discount must be between 0 and 1, got {self.discount}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")

    def signals(self) -> tuple[Signal, ...]:
        """The accuracies of the probe."""
        return (STEP_ACCURACIES,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """Values of tokens, and their sum for each response, 0 where there is no step.

        Where the accuracies are not one more than the steps, no step of the response is paid, as the note says.
        """
        column = context.signals[STEP_ACCURACIES.name]
        values, notes = np.zeros(len(rollouts)), [""] * len(rollouts)
        tokens = [np.zeros(length) for length in rollouts.token_ids.lengths]
        steps = idle = late = 0
        for row, response in enumerate(rollouts):
            starts, accuracies = self.steps.starts(response.text), column[row].tolist()
            if not starts:
                continue
            if len(accuracies) != len(starts) + 1 or not np.all(np.isfinite(accuracies)):
                notes[row] = f"{len(starts)} steps and {np.isfinite(accuracies).sum()} accuracies: no step is paid"
                continue
            gains = self.gains(accuracies)
            last = np.flatnonzero(response.origins)[-1:]
            for place, gain in zip(first_tokens(response, starts), gains, strict=True):
                if place not in last:
                    tokens[row][place] = gain
            values[row] = tokens[row].sum()
            notes[row] = "gains " + " ".join(f"{gain:.3g}" for gain in gains)
            steps += len(gains)
            idle += int(np.sum(np.abs(np.diff(accuracies)) < self.tolerance))
            late += int(np.sum(np.maximum.accumulate(accuracies[:-1]) >= 0.5))
        metrics = {
            "steps": steps / max(len(rollouts), 1),
            "idle_steps": idle / max(steps, 1),
            "steps_after_right": late / max(steps, 1),
        }
        return Scores(values, notes=tuple(notes), tokens=Ragged.from_rows(tokens, np.float64), metrics=metrics)

    def gains(self, accuracies: Sequence[float]) -> list[float]:
        """r_0 .. r_{n-1} from A_0 .. A_n."""
        own = [after - before for before, after in pairwise(accuracies)]
        return [gain if abs(gain) >= self.tolerance else self._ahead(own, step) for step, gain in enumerate(own)]

    def _ahead(self, own: Sequence[float], step: int) -> float:
        """What a step without a gain has of a later one."""
        for passed, later in enumerate(range(step + 1, len(own))):
            if passed == self.window:
                return 0.0
            if abs(own[later]) >= self.tolerance:
                return own[later] * self.discount ** (later - step)
        # None changes anything until the end: what rounding left over, unless the window was full there.
        if len(own) - step - 1 >= self.window:
            return 0.0
        return float(sum(own[step:]) * self.discount ** (len(own) - step - 1))
