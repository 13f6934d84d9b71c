"""What a reader should know of a run before believing its curves, each notice with its reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from thinkrl.reports.configurations import Configuration
from thinkrl.reports.curves import Curve, StageCharts

Level = Literal["note", "warning"]

FLAT, TRUNCATED, UNGRADABLE, CLIPPED, MISMATCH = 0.5, 0.1, 0.01, 0.2, 0.05
"""Shares of groups, responses, responses and tokens, and nats a token, above which a notice is due."""
_ABOUT_ZERO = 0.05
_GONE = 0.2
"""Share of its first entropy below which a policy has hardly any left."""
_GAIN, _LOSS = 0.02, 0.02
"""By how much the reward must have risen and the accuracy fallen for the one to be no measure of the other."""


@dataclass(frozen=True)
class Notice:
    """level: a note explains what looks odd and is not; a warning may spoil the result. about: run or stage."""

    level: Level
    about: str
    title: str
    text: str


def notices(configurations: Sequence[Configuration], stages: Sequence[StageCharts]) -> tuple[Notice, ...]:
    """Everything worth saying, warnings first."""
    found = [notice for configuration in configurations for notice in _of_runs(configuration)]
    for charts in stages:
        for configuration in configurations:
            label = configuration.label
            curves = {
                column: curve
                for column, chart in charts.known.items()
                for curve in chart.curves
                if curve.label == label
            }
            about = f"stage {charts.stage}" if len(configurations) == 1 else f"stage {charts.stage} of {label}"
            found += [Notice(level, about, title, text) for level, title, text in _of_curves(curves)]
    order = {"warning": 0, "note": 1}
    return tuple(sorted(_together(found), key=lambda notice: order[notice.level]))


def _together(found: Sequence[Notice]) -> list[Notice]:
    """What is said of several runs or stages in the same words is said once."""
    about: dict[tuple[Level, str, str], list[str]] = {}
    for notice in found:
        about.setdefault((notice.level, notice.title, notice.text), []).append(notice.about)
    return [
        Notice(level, "; ".join(dict.fromkeys(places)), title, text) for (level, title, text), places in about.items()
    ]


_Said = tuple[Level, str, str]


def _of_curves(curves: dict[str, Curve]) -> Iterator[_Said]:
    yield from _broken(curves)
    yield from _on_policy(curves)
    yield from _learned_from(curves)
    yield from _verdicts(curves)
    yield from _policy(curves)


def _broken(curves: dict[str, Curve]) -> Iterator[_Said]:
    for column in ("loss", "gradient_norm"):
        curve = curves.get(column)
        if curve is not None and not all(map(isfinite, curve.mean)):
            yield (
                "warning",
                "Not finite",
                (
                    f"{column} is no number at {sum(not isfinite(v) for v in curve.mean)} of {len(curve.mean)} steps:"
                    " the weights after such a step are worthless. A smaller learning rate or float32 is what to try"
                    " first."
                ),
            )


def _on_policy(curves: dict[str, Curve]) -> Iterator[_Said]:
    """The loss of a policy gradient whose ratio is 1 is minus the mean advantage."""
    loss, moved = curves.get("loss"), curves.get("kl/old")
    if loss is None or moved is None or "advantage/flat_groups" not in curves:
        return
    if abs(loss.early()) < _ABOUT_ZERO and abs(loss.late()) < _ABOUT_ZERO and abs(moved.late()) < 1e-6:
        yield (
            "note",
            "The loss is about 0, and should be",
            (
                "Each batch is learned from once, so the ratio of new to old probabilities is 1 by construction, and"
                " the loss is minus the mean advantage: about 0, whatever is learned. Its gradient is not 0. Watch"
                " the reward."
            ),
        )


def _learned_from(curves: dict[str, Curve]) -> Iterator[_Said]:
    flat = _late(curves, "advantage/flat_groups")
    if flat > FLAT:
        yield (
            "warning",
            "Many flat groups",
            (
                f"In {flat:.0%} of the groups of the last steps all rewards are equal, so nothing is learned from"
                " them: the prompts are too easy or too hard now, or the reward cannot tell responses apart. Try"
                " harder prompts, more responses a group, or a curriculum."
            ),
        )
    clipped = _late(curves, "clip/low") + _late(curves, "clip/high")
    if clipped > CLIPPED:
        yield (
            "warning",
            "Many clipped tokens",
            (
                f"{clipped:.0%} of the tokens meet a clip bound and give no gradient: the policy moves far within a"
                " batch. Fewer updates a batch or a smaller learning rate would use more of it."
            ),
        )
    mismatch = curves.get("mismatch/mean_abs")
    if mismatch is not None and max(filter(isfinite, mismatch.mean), default=0.0) > MISMATCH:
        yield (
            "warning",
            "Sampler and learner disagree",
            (
                f"They differ by up to {max(filter(isfinite, mismatch.mean)):.3g} nats a token on the same weights."
                f" Above {MISMATCH} the importance ratio measures rounding as much as the policy; a finer dtype on"
                " either side closes the gap."
            ),
        )


def _verdicts(curves: dict[str, Curve]) -> Iterator[_Said]:
    ungradable = _late(curves, "reward/ungradable_rate")
    if ungradable > UNGRADABLE:
        yield (
            "warning",
            "Ungradable responses",
            (
                f"{ungradable:.1%} of the responses got no verdict: their reference cannot be read by the grader."
                " They are neither right nor wrong and are left out; the prompts they belong to teach less than they"
                " seem to."
            ),
        )
    timeouts = _late(curves, "reward/timeout_rate")
    if timeouts > UNGRADABLE:
        yield (
            "warning",
            "Checking was stopped",
            (f"Checking {timeouts:.1%} of the responses met the grader's time limit; a busy machine makes this worse."),
        )
    reward, accuracy = curves.get("reward"), curves.get("accuracy")
    if reward is None or accuracy is None:
        return
    if reward.late() - reward.early() > _GAIN and accuracy.early() - accuracy.late() > _LOSS:
        yield (
            "warning",
            "The reward rises and accuracy falls",
            (
                f"Reward {reward.early():.3g} to {reward.late():.3g}, accuracy {accuracy.early():.1%} to"
                f" {accuracy.late():.1%}: another part of the reward is being earned at the cost of right answers."
            ),
        )
    if reward.late() < reward.early() - _LOSS:
        yield (
            "warning",
            "The reward fell",
            (
                f"From {reward.early():.3g} in the first quarter of the steps to {reward.late():.3g} in the last. A"
                " smaller learning rate is the first thing to try."
            ),
        )


def _policy(curves: dict[str, Curve]) -> Iterator[_Said]:
    truncated = _late(curves, "truncated")
    if truncated > TRUNCATED:
        yield (
            "warning",
            "Many truncated responses",
            (
                f"{truncated:.0%} of the last responses met the token limit, and most of these cannot be right:"
                " sampling.max_new_tokens is too small for how the model answers now."
            ),
        )
    entropy = curves.get("entropy")
    if entropy is not None and entropy.early() > 0 and entropy.late() < _GONE * entropy.early():
        yield (
            "warning",
            "Little entropy is left",
            (
                f"{entropy.early():.3g} nats a token in the first quarter of the steps, {entropy.late():.3g} in the"
                " last: responses of a group become copies of each other. Higher clip bounds, an entropy bonus or"
                " fewer steps keep more."
            ),
        )


def _of_runs(configuration: Configuration) -> Iterator[Notice]:
    for run in configuration.runs:
        about = configuration.label if run.seed is None else f"{configuration.label}, seed {run.seed}"
        if not run.finished:
            yield Notice("warning", about, "Not finished", f"{run.outcome}. The same command goes on with it.")
        for problem in run.problems:
            yield Notice("warning", about, "Not all of the run could be read", problem)
        for start in run.record.get("starts") or ():
            for change in start.get("changes") or ():
                yield Notice("warning", about, "Changed on the way", str(change))
        if (run.record.get("git") or {}).get("dirty"):
            yield Notice("note", about, "Uncommitted changes", "The code that ran is not quite the commit named.")
        if (run.config.get("scale") or {}).get("plumbing"):
            yield Notice("note", about, "Smoke scale", "Sizes are cut to seconds: it runs, and says no more.")


def _late(curves: dict[str, Curve], column: str) -> float:
    found = curves[column].late() if column in curves else 0.0
    return found if isfinite(found) else 0.0
