"""Which columns of the metrics log a report draws, in which order, and what each of them means."""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """A column of the log. title, meaning: in words for the reader. share: whether values lie between 0 and 1."""

    column: str
    title: str
    meaning: str = ""
    share: bool = False


_PART = re.compile(r"reward/(.+)/contribution")
_NOT_DRAWN = {"row", "stage", "step", "time", "epoch", "weights_version", "reward/mean"}

KNOWN = (
    Panel("reward", "Reward", "Mean total reward of the step's responses: what is being raised."),
    Panel(
        "reward/*/contribution",
        "Reward part: {}",
        "Weight times value, mean over responses; parts add up to the reward.",
    ),
    Panel(
        "accuracy", "Accuracy in training", "Share of the step's responses that the grader calls correct.", share=True
    ),
    Panel("response_length", "Response length", "Tokens of a response, given ones included; mean."),
    Panel("thinking_length", "Thinking length", "Tokens inside the thinking; mean."),
    Panel("truncated", "Truncated", "Share of responses that met the token limit before they ended.", share=True),
    Panel(
        "thinking_cut", "Thinking cut", "Share of responses whose thinking met its budget and was ended.", share=True
    ),
    Panel(
        "entropy", "Entropy", "Nats a sampled token. Near 0 the policy always says the same, and groups teach nothing."
    ),
    Panel(
        "kl/reference", "KL to the reference", "Nats a token between the policy and the model that training began with."
    ),
    Panel("kl/old", "KL of the update", "Nats a token between the weights that sampled and those being updated."),
    Panel(
        "clip/low",
        "Clipped below",
        "Share of tokens whose ratio met the lower bound: no gradient comes from them.",
        share=True,
    ),
    Panel(
        "clip/high",
        "Clipped above",
        "Share of tokens whose ratio met the upper bound: no gradient comes from them.",
        share=True,
    ),
    Panel(
        "mismatch/mean_abs",
        "Sampler/learner mismatch",
        "Nats a token by which the two differ on the same weights; mean.",
    ),
    Panel("mismatch/max_abs", "Largest mismatch", "The same, of the token that differs most."),
    Panel(
        "advantage/flat_groups",
        "Flat groups",
        "Share of groups whose rewards are all equal: they teach nothing.",
        share=True,
    ),
    Panel("reward/ungradable_rate", "Ungradable", "Share of responses that no verdict could be given.", share=True),
    Panel("reward/timeout_rate", "Timeouts", "Share of responses whose checking was stopped.", share=True),
    Panel("loss", "Loss", "On-policy it is about 0 by construction; only in supervised stages must it fall."),
    Panel("gradient_norm", "Gradient norm", "Before clipping."),
    Panel("learning_rate", "Learning rate"),
    Panel("seconds", "Seconds a step", "By the clock; sums by part stand under Time."),
)


def panels(columns: Iterable[str]) -> tuple[list[Panel], list[Panel]]:
    """The panels of those `columns` that are known, in their order, and the others by name."""
    there = list(dict.fromkeys(columns))
    known: list[Panel] = []
    for panel in KNOWN:
        if "*" not in panel.column:
            known += [panel] if panel.column in there else []
            continue
        for column in there:
            match = _PART.fullmatch(column)
            if match:
                known.append(Panel(column, panel.title.format(match[1]), panel.meaning))
    drawn = {panel.column for panel in known}
    others = [name for name in there if name not in drawn | _NOT_DRAWN and not name.startswith("seconds/")]
    return known, [Panel(name, name) for name in sorted(others)]
