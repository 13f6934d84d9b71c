"""What the gradients that were measured come to: numbers for the log, curves for a file, and a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thinkrl.probes.layer_curves import (
    gather,
    mean_absolute_difference,
    mean_curve,
    mean_relative_difference,
    most_different_layers,
    relative_difference,
    segment_differences,
)
from thinkrl.reports.page.curve_grid import CurvePanel, curve_grid

IRRELEVANT = "/irrelevant"
"""Follows a level's name where its prompts have the responses of others."""
STATISTICS = ("nuclear", "ratio", "frobenius", "effective_rank", "nuclear_per_loss")

Rows = Sequence[Mapping[str, Any]]
"""One a gradient, as the parquet files hold them."""


def summary(rows: Rows) -> dict[str, Any]:
    """By statistic, responses and projection: the mean curve, MAD whole and by segment; for irrelevant responses the
    relative difference to the right ones. Beside them loss and tokens, means over responses."""
    found: dict[str, Any] = {"format": 1, "responses": _responses(rows)}
    for statistic in STATISTICS:
        curves = {key: mean_curve(values) for key, values in _gathered(rows, statistic).items()}
        found[statistic] = {"/".join(key): _numbers(key, curves) for key in curves}
    return found


def metrics(rows: Rows) -> dict[str, float]:
    """Columns of the log: count, tokens, loss and dropped/LEVEL; for projections X nuclear/LEVEL/X and ratio/LEVEL/X
    (means over layers), mad/LEVEL/X and mad_per_loss/LEVEL/X (of nuclear norms, and of these over the loss),
    rd/LEVEL/X (mean over layers of the relative difference that irrelevant responses make) and rd_signed/LEVEL/X."""
    found: dict[str, float] = {}
    for name, about in _responses(rows).items():
        found |= {f"{column}/{name}": about[column] for column in ("count", "tokens", "loss", "dropped")}
    curves = {s: {k: mean_curve(v) for k, v in _gathered(rows, s).items()} for s in ("nuclear", "ratio")}
    per_loss = {k: mean_curve(v) for k, v in _gathered(rows, "nuclear_per_loss").items()}
    for (name, which), curve in curves["nuclear"].items():
        place = f"{name}/{which}"
        found[f"nuclear/{place}"] = float(np.mean(curve))
        found[f"ratio/{place}"] = float(np.mean(curves["ratio"][name, which]))
        found[f"mad/{place}"] = mean_absolute_difference(curve)
        found[f"mad_per_loss/{place}"] = mean_absolute_difference(per_loss[name, which])
        other = curves["nuclear"].get((name + IRRELEVANT, which))
        if other is not None:
            found[f"rd/{place}"] = mean_relative_difference(curve, other)
            found[f"rd_signed/{place}"] = float(np.mean(relative_difference(curve, other)))
    return found


def figure(rows: Rows, model: str) -> str:
    """An SVG: for each projection the nuclear norm, the share of the first singular value, and right against
    irrelevant responses, layer by layer, with 95% intervals over responses."""
    nuclear, ratio = _gathered(rows, "nuclear"), _gathered(rows, "ratio")
    panels = []
    kinds = list(dict.fromkeys(which for _, which in nuclear))
    for title, values in (("nuclear norm", nuclear), ("first singular value's share", ratio)):
        for which in kinds:
            own = {name: table for (name, of), table in values.items() if of == which and IRRELEVANT not in name}
            panels.append(CurvePanel(f"{which.upper()}: {title}", own))
    for which in kinds if any(IRRELEVANT in name for name, _ in nuclear) else ():
        apart = {
            name: relative_difference(mean_curve(table), mean_curve(nuclear[name + IRRELEVANT, of]))
            for (name, of), table in nuclear.items()
            if of == which and (name + IRRELEVANT, of) in nuclear
        }
        panels.append(CurvePanel(f"{which.upper()}: irrelevant against right, (n' - n) / n", apart))
    return curve_grid(f"Gradients of attention projections, {model}", panels, columns=len(kinds), axis="layer")


def _gathered(rows: Rows, statistic: str) -> dict[tuple[str, str], Any]:
    if statistic != "nuclear_per_loss":
        return gather(rows, statistic)
    # A loss of 0 has no gradient, and no gradient a nat either.
    told = [{**row, statistic: row["nuclear"] / row["loss"] if row["loss"] else np.nan} for row in rows]
    return gather(told, statistic)


def _responses(rows: Rows) -> dict[str, dict[str, float]]:
    """Means over responses: tokens that are learned, and loss; how many there are, and how many have no number."""
    by_name: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["responses"], {})[row["prompt_id"]] = row
    return {
        name: {
            "count": len(own),
            "tokens": float(np.mean([row["tokens"] for row in own.values()])),
            "loss": float(np.mean([row["loss"] for row in own.values()])),
            "dropped": float(sum(np.isnan(row["nuclear"]) for row in own.values())),
        }
        for name, own in by_name.items()
    }


def _numbers(key: tuple[str, str], curves: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    curve = curves[key]
    found: dict[str, Any] = {"curve": curve.tolist(), "mad": mean_absolute_difference(curve)}
    found["mad_by_segment"] = list(segment_differences(curve))
    right = curves.get((key[0].removesuffix(IRRELEVANT), key[1]))
    if key[0].endswith(IRRELEVANT) and right is not None:
        found["relative_difference"] = relative_difference(right, curve).tolist()
        found["mean_relative_difference"] = mean_relative_difference(right, curve)
        found["most_different_layers"] = most_different_layers(right, curve)
    return found
