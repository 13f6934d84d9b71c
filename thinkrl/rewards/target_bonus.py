"""A bonus for right answers within a length target that is fixed, or follows what the policy can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.pass_rate import group_pass_rates
from thinkrl.rewards.repetition import repetition_start
from thinkrl.rewards.target_search import ExpectedCorrectTargets
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Origin, Rollouts


@dataclass(frozen=True)
class StepBonus(RewardTerm):
    """[R = 1][L <= L_T], the step reward of LASER (arXiv 2505.15612); with the weight alpha beside R.

    LASER-D: a target L_A(d) for each band d of the group's pass rate, searched anew whenever a monitor has shown what
    the policy can do. LASER-DE: `explore` pays a wrong answer longer than its target, unless it repeats itself.
    Lengths are sampled tokens.
    """

    target: int | ExpectedCorrectTargets
    """L_T in tokens, or how targets are searched."""
    of: str = "outcome"
    """The term that gives R."""
    passes: float = 1.0
    """Least R of a response that passed."""
    explore: float | None = None
    """The R of wrong answers that are paid for being long; none, when not given."""

    def __post_init__(self) -> None:
        if isinstance(self.target, int) and self.target < 1:
            raise ValueError(f"target must be at least 1, got {self.target}")

    def reads_terms(self) -> tuple[str, ...]:
        """The term that gives R."""
        return (self.of,)

    @property
    def observes(self) -> bool:
        """Whether the targets follow a monitor."""
        return not isinstance(self.target, int)

    def observe(self, rollouts: Rollouts, context: RewardContext) -> None:
        """Keeps how long a monitor's responses are, by band; bands follow the verdicts, whatever the format."""
        if isinstance(self.target, int):
            return
        right = [verdict == "correct" for verdict in context.scores[self.of].verdicts]
        context.state["coverage"] = self.target.coverage(np.asarray(right, dtype=np.bool_), rollouts)
        context.state.pop("targets", None)  # the next batch searches, for its longest response is the limit

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response; the note gives the target, with the band where it has one."""
        outcome, lengths = context.scores[self.of].values, rollouts.sampled_counts
        passed = outcome >= self.passes
        targets, notes, metrics = self._targets(passed, rollouts, context)
        paid = passed & (lengths <= targets)
        if self.explore is not None:
            for row in np.flatnonzero((outcome == self.explore) & (lengths > targets)):
                repeats = _repeats(rollouts, int(row))
                paid[row] = not repeats
                notes[row] += ", repeats itself" if repeats else ", explores"
        return Scores(paid.astype(np.float64), notes=tuple(notes), metrics=metrics)

    def _targets(
        self, passed: NDArray[np.bool_], rollouts: Rollouts, context: RewardContext
    ) -> tuple[NDArray[np.int64], list[str], dict[str, float]]:
        """The target of each response [n], notes [n], and the targets by band for the log."""
        if isinstance(self.target, int):
            return np.full(len(rollouts), self.target), [f"target {self.target}"] * len(rollouts), {}
        by_band = self._search(context.state, self.target, rollouts, context.scores[self.of])
        rates = group_pass_rates(passed, rollouts)[rollouts.group_index]
        bands = [self.target.bands.band(rate) for rate in rates]
        notes = [f"target {by_band[band]} ({band}, {rate:.3g} right)" for band, rate in zip(bands, rates, strict=True)]
        metrics = {f"target/{band}": float(tokens) for band, tokens in by_band.items()}
        return np.asarray([by_band[band] for band in bands], dtype=np.int64), notes, metrics

    def _search(
        self, state: Any, target: ExpectedCorrectTargets, rollouts: Rollouts, outcome: Scores
    ) -> Mapping[str, int]:
        """Targets in force. Where no monitor was ever run (`thinkrl score`), this batch stands for it."""
        if "targets" not in state:
            right = np.asarray([verdict == "correct" for verdict in outcome.verdicts], dtype=np.bool_)
            coverage = state.get("coverage") or target.coverage(right, rollouts)
            state["targets"] = target.search(coverage, int(rollouts.sampled_counts.max(initial=1)))
        by_band: Mapping[str, int] = state["targets"]
        if set(by_band) != set(target.bands.names):
            raise ValueError(f"targets must name the bands {list(target.bands.names)}, got {sorted(by_band)}")
        return by_band


def _repeats(rollouts: Rollouts, row: int) -> bool:
    """Whether a response repeats itself: its sampled tokens do, or its words where the tokens have no ids."""
    ids = rollouts.token_ids[row][rollouts.origins[row] == Origin.SAMPLED].tolist()
    parts = ids if min(ids, default=0) >= 0 else rollouts.texts[row].split()
    return repetition_start(parts) < len(parts)
