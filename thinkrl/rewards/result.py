"""What a composed reward says of a batch, part by part."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thinkrl.grading.verdict import Verdict
from thinkrl.rollouts.ragged import Ragged


@dataclass(frozen=True, eq=False)
class TermResult:
    """One term's part in the rewards of n responses.

    values: raw, [n], NaN where there is no number. shaped: after shaping, [n].
    weight: in force at this step. opened: where the gate was open, [n].
    contributions: what was added to the totals, [n]; NaN where the term excludes the response,
        0 where it does not count or pays tokens instead.
    tokens: what was added to the token totals, or None. metrics: the term's own columns of the metrics log.
    """

    values: NDArray[np.float64]
    shaped: NDArray[np.float64]
    weight: float
    opened: NDArray[np.bool_]
    contributions: NDArray[np.float64]
    verdicts: tuple[Verdict | None, ...] = ()
    notes: tuple[str, ...] = ()
    tokens: Ragged | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RewardResult:
    """Totals and their parts.

    totals: float64 [n], the sum of the terms' contributions in order; NaN where a term has no number
        and asks to exclude, which leaves the response out of the loss.
    terms: the parts by name. verdicts: [n], from the term that judges, None where none does.
    tokens: token totals aligned with `Rollouts.token_ids`, or None when no term pays tokens.
    """

    totals: NDArray[np.float64]
    terms: Mapping[str, TermResult] = field(default_factory=dict)
    verdicts: tuple[Verdict | None, ...] = ()
    tokens: Ragged | None = None

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which responses have a total, [n]."""
        return ~np.isnan(self.totals)

    def metrics(self) -> dict[str, float]:
        """A flat row for the metrics file. A mean over no response is NaN."""
        row = {
            "reward/mean": _mean(self.totals),
            "reward/std": float(np.std(self.totals[self.kept])) if np.any(self.kept) else float("nan"),
            "reward/excluded": float(np.sum(~self.kept)),
        }
        judged = [verdict for verdict in self.verdicts if verdict is not None]
        for verdict in Verdict if judged else ():
            row[f"reward/{verdict.value}_rate"] = judged.count(verdict) / len(judged)
        for name, part in self.terms.items():
            fired = part.opened & (np.nan_to_num(part.shaped) != 0.0)
            row |= {
                f"reward/{name}/value": _mean(part.values),
                f"reward/{name}/shaped": _mean(part.shaped),
                f"reward/{name}/weight": part.weight,
                f"reward/{name}/contribution": _mean(part.contributions),
                f"reward/{name}/gate_open_rate": float(np.mean(part.opened)) if len(part.opened) else float("nan"),
                f"reward/{name}/firing_rate": float(np.mean(fired)) if len(fired) else float("nan"),
                f"reward/{name}/missing_rate": float(np.mean(np.isnan(part.values))) if len(fired) else float("nan"),
                **{f"reward/{name}/{key}": value for key, value in part.metrics.items()},
            }
        return row


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else float("nan")
