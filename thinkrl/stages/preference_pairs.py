"""Pairs of responses to prefer and to avoid: sample several responses a prompt, score them, keep pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.data.preferences import Preference, preferences_text
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.spans import given_spans, spans_of
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.rollouts.streams import generator
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.rejection_sampling import Kept, SamplingStage, first_of_each_text

Pair = tuple[int, int]
"""Rows of the chosen and of the rejected response."""


@dataclass(frozen=True)
class PairSelection:
    """Which pairs (w, l) of responses to one prompt are kept, by the gap v_w - v_l of a reward term's values.

    Right against wrong, K pairs with the largest gaps: CRew-DPO (arXiv 2510.13501), where v is the confidence in the
    answer. Greater against smaller value, one pair with the largest gap: the best and the worst of the samples.
    """

    between: Literal["verdicts", "values"] = "verdicts"
    """What makes a pair: a right and a wrong response, or one with a greater and one with a smaller value."""
    rule: Literal["largest_gap", "smallest_gap", "random"] = "largest_gap"
    """What is kept first; of equal gaps the first sampled. Gaps of right and wrong may be below 0."""
    by: str | None = None
    """The term whose values are compared; null compares total rewards. A response without a value is in no pair,
    unless right and wrong are paired at random."""
    per_prompt: int = 1
    """At most this many pairs a prompt; a response may be in several."""
    minimum_gap: float | None = None
    """Least gap of a pair; null takes any."""

    def __post_init__(self) -> None:
        if self.per_prompt < 1:
            raise ValueError(f"per_prompt must be at least 1, got {self.per_prompt}")

    def values(self, rewards: RewardResult) -> NDArray[np.float64]:
        """v of each response, [n]."""
        return rewards.totals if self.by is None else rewards.terms[self.by].values

    def choose(self, rows: Sequence[int], rollouts: Rollouts, rewards: RewardResult, seed: int) -> list[Pair]:
        """The pairs among `rows`, which are responses to one prompt, best first."""
        values = self.values(rewards)
        pairs = [(a, b) for a in rows for b in rows if self._is_pair(a, b, values, rewards.verdicts)]
        if self.rule == "random":
            stream = generator(seed, "pairs", *(rollouts.response_ids[row] for row in rows[:1]))
            pairs = [pairs[int(index)] for index in stream.permutation(len(pairs))]
        else:
            sign = -1.0 if self.rule == "largest_gap" else 1.0
            pairs.sort(key=lambda pair: sign * float(values[pair[0]] - values[pair[1]]))
        return pairs[: self.per_prompt]

    def _is_pair(self, a: int, b: int, values: NDArray[np.float64], verdicts: Sequence[Verdict | None]) -> bool:
        gap = float(values[a] - values[b])
        if self.between == "values":
            qualifies = gap > 0
        else:
            ranked = self.rule == "random" or not np.isnan(gap)
            qualifies = verdicts[a] is Verdict.CORRECT and verdicts[b] is Verdict.WRONG and ranked
        return qualifies and (self.minimum_gap is None or gap >= self.minimum_gap)


@dataclass(frozen=True, kw_only=True)
class PreferencePairs(SamplingStage):
    """Samples `samples` responses for each prompt and keeps pairs of them; equal texts count once, and responses that
    were cut not at all."""

    makes: ClassVar[tuple[Kind, ...]] = ("pairs",)

    selection: PairSelection = PairSelection()
    """Which pairs are kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2 where pairs are made, got {self.samples}")
        if self.selection.by is not None and self.selection.by not in self.reward.terms:
            raise ValueError(
                f"selection.by must name a term of the reward ({', '.join(self.reward.terms)}), got {self.selection.by}"
            )

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return (
            f"preference pairs: {self.samples} responses for each of {self.prompt_count} prompts,"
            f" keep {self.selection.per_prompt} pairs a prompt ({self.selection.rule})"
        )

    def keep(self, rollouts: Rollouts, rewards: RewardResult, context: StageContext) -> Kept:
        """Pairs of each prompt, with their mean gap and the share of prompts that have any."""
        pairs: list[Pair] = []
        paired = 0
        for rows in rollouts.rows_by_group().values():
            whole = [int(row) for row in rows if rollouts.finish_reasons[row] is FinishReason.STOP]
            found = self.selection.choose(first_of_each_text(whole, rollouts), rollouts, rewards, context.seed)
            pairs, paired = pairs + found, paired + bool(found)
        if not pairs and context.plumbing:
            context.recorder.message(f"{context.name}: no pair was found; this scale goes on with any two responses")
            pairs = [(int(rows[0]), int(rows[-1])) for rows in rollouts.rows_by_group().values()]
        values = self.selection.values(rewards)
        gaps = np.asarray([values[a] - values[b] for a, b in pairs], dtype=np.float64)
        known = gaps[~np.isnan(gaps)]
        metrics = {
            "yield/prompts_paired": paired / len(rollouts.groups),
            "yield/kept": float(len(pairs)),
            "pairs/gap": float(np.mean(known)) if len(known) else float("nan"),
        }
        entries = [[rollouts.prompt(pair[0]).prompt_id, *(_side(row, rollouts) for row in pair)] for pair in pairs]
        sides = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        columns = {
            name: np.bincount(sides[:, side], minlength=len(rollouts)).tolist()
            for side, name in enumerate(("chosen", "rejected"))
        }
        return Kept(entries, columns, metrics)

    def hand_on(
        self, entries: Sequence[Sequence[Any]], prompts: Mapping[str, Prompt], context: StageContext
    ) -> Mapping[str, Path]:
        """Writes the pairs."""
        if not entries:
            raise context.empty("no two responses to a prompt make a pair, so there is nothing to hand on")
        path = context.folder / "pairs.jsonl"
        pairs = [
            Preference(prompts[name], chosen, rejected, spans_of(given), spans_of(other))
            for name, (chosen, given), (rejected, other) in entries
        ]
        context.write_text(path, preferences_text(pairs))
        return {"pairs": path}


def _side(row: int, rollouts: Rollouts) -> list[Any]:
    """A response's text, and which ranges of it were given."""
    return [rollouts.texts[row], given_spans(rollouts.response(row))]
