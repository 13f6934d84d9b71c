"""How did the episode go, by the score that its environment kept?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import EPISODE, Signal
from thinkrl.rollouts.store import Rollouts
from thinkrl.rollouts.tool_calls import turn_spans


@dataclass(frozen=True)
class EpisodeScore(RewardTerm):
    """max(e_T, 0) / 100 of the final score e_T; with scope `token`, (e_t - e_{t-1}) / 100 at the last token of turn t.

    The emotion reward of RLVER (arXiv 2507.03112): its code pays the final score, its text also speaks of r_t = e_t.
    What turns are paid adds up to the final score less the first. An episode that failed has no number, and its
    responses leave the loss.
    """

    reads_tokens: ClassVar[bool] = False

    credit: Literal["final", "turn"] = "final"
    """What a response that is one turn is worth: the final score, or the score after its own turn."""
    floor: float = 0.0
    """Scores below this count as it."""
    whole: float = 100.0
    """What scores are divided by."""
    success: float = 100.0
    """Least final score of a success: the verdict `correct`."""
    failure: float = 10.0
    """Final scores below this are logged as failures."""

    def __post_init__(self) -> None:
        if not self.whole > 0:
            raise ValueError(f"whole must be above 0, got {self.whole}")
        if not self.failure <= self.success:
            raise ValueError(f"failure must be at most success {self.success}, got {self.failure}")

    def signals(self) -> tuple[Signal, ...]:
        """How episodes went."""
        return (EPISODE,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value a response, NaN where its episode failed, and what each turn changed at its last token."""
        episodes = rollouts.episodes or (None,) * len(rollouts)
        notes = tuple("no episode" if one is None else one.fault for one in episodes)
        ends = [np.nan if one is None else self._worth(one) for one in episodes]
        return Scores(
            values=np.asarray(ends, dtype=np.float64),
            verdicts=tuple(self._verdict(one) for one in episodes),
            notes=notes,
            tokens=Ragged.from_rows([self._paid(rollouts, row, one) for row, one in enumerate(episodes)], np.float64),
            metrics=self._metrics([one for one in episodes if one is not None]),
        )

    def _worth(self, episode: Episode) -> float:
        if episode.fault:
            return float("nan")
        score = episode.at_turn if self.credit == "turn" else episode.final
        return max(score, self.floor) / self.whole

    def _verdict(self, episode: Episode | None) -> Verdict:
        if episode is None or episode.fault:
            return Verdict.UNGRADABLE
        return Verdict.CORRECT if episode.final >= self.success else Verdict.WRONG

    def _paid(self, rollouts: Rollouts, row: int, episode: Episode | None) -> NDArray[np.float64]:
        """What the turns of a response are paid, at the last token of each, [t]."""
        paid = np.zeros(int(rollouts.token_ids.lengths[row]), dtype=np.float64)
        if episode is None or episode.fault:
            return paid
        spans, changes = turn_spans(rollouts.response(row)), list(episode.changes)
        earlier = max(0, len(changes) - len(spans))  # turns that the response does not show are paid with its first
        amounts = [sum(changes[: earlier + 1]), *changes[earlier + 1 :]]
        for (_, stop), amount in zip(spans, amounts, strict=False):
            paid[stop - 1] = amount / self.whole
        return paid

    def _metrics(self, episodes: list[Episode]) -> dict[str, float]:
        """Of the batch's episodes, each counted once however many of its turns are responses."""
        once = list({one.episode: one for one in episodes}.values())
        if not once:
            return {}
        finals = np.asarray([one.final for one in once], dtype=np.float64)
        known = finals[~np.isnan(finals)]
        return {
            "episodes": float(len(once)),
            "score": float(np.mean(known)) if len(known) else float("nan"),
            "success": float(np.mean(known >= self.success)) if len(known) else float("nan"),
            "failure": float(np.mean(known < self.failure)) if len(known) else float("nan"),
            "ungradable": float(np.mean(np.isnan(finals))),
            "turns": float(np.mean([one.turns for one in once])),
            "calls": float(sum(one.calls for one in once)),
        }
