"""How unsure is the thinking beside the answer?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.signals import ENTROPIES, Signal
from thinkrl.rollouts.spans import token_range
from thinkrl.rollouts.store import Rollouts

_END = "</think>"


@dataclass(frozen=True)
class PhaseEntropies:
    """Mean entropy of thinking and answer of each response, [n], in nats; 0 for a part without a sampled token."""

    think: NDArray[np.float64]
    answer: NDArray[np.float64]
    closed: NDArray[np.bool_]
    """Whether the thinking ends, [n]."""


def phase_entropies(
    rollouts: Rollouts, prefix: str = "", unclosed: Literal["all", "all_but_last"] = "all"
) -> PhaseEntropies:
    """Means over the sampled tokens before and after the first `</think>`, which belongs to neither.

    Without it all tokens are thinking (`unclosed`: with or without the last), and there is no answer.
    prefix: what the prompt already wrote of the response; thinking that ends in it leaves an answer alone.
    """
    think, answer = np.zeros(len(rollouts)), np.zeros(len(rollouts))
    closed = np.asarray([_END in prefix + text for text in rollouts.texts], dtype=np.bool_)
    sampled = rollouts.origins.with_values(rollouts.sampled)
    for row, text in enumerate(rollouts.texts):
        count = len(rollouts.char_ends[row])
        first = stop = count if unclosed == "all" else max(0, count - 1)
        if closed[row]:
            place = (prefix + text).index(_END) - len(prefix)
            first, stop = token_range(rollouts.char_ends[row], max(0, place), max(0, place + len(_END)))
        entropies, mine = rollouts.entropies[row].astype(np.float64), sampled[row]
        think[row] = _mean(entropies[:first][mine[:first]])
        answer[row] = _mean(entropies[stop:][mine[stop:]]) if closed[row] else 0.0
    return PhaseEntropies(think, answer, closed)


@dataclass(frozen=True)
class ExcessThinkingEntropy(RewardTerm):
    """P(y) = max(0, H_think - alpha H_answer), the means of the token entropies of the two phases, in nats.

    PEAR (arXiv 2510.08026) takes P from the reward of a right response. The entropies are those of the distribution
    that each token was drawn from, so they follow the sampling temperature.
    """

    alpha: float = 1.0
    """How much thinking entropy the answer's entropy excuses."""
    unclosed: Literal["all", "all_but_last"] = "all"
    """What counts as thinking where it never ends: every token, or all but the last (the formula with k = T)."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""

    def signals(self) -> tuple[Signal, ...]:
        """Token entropies, which the sampler supplies."""
        return (ENTROPIES,)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value of 0 or more per response, NaN where an entropy is not known; the note gives both means."""
        found = phase_entropies(rollouts, self.prefix, self.unclosed)
        values = found.think - self.alpha * found.answer
        notes = [
            f"entropy {think:.4g} thinking, {answer:.4g} answer{'' if closed else ' (thinking never ends)'}"
            for think, answer, closed in zip(found.think, found.answer, found.closed, strict=True)
        ]
        metrics = {"think_entropy": _mean_known(found.think), "answer_entropy": _mean_known(found.answer)}
        return Scores(np.where(np.isnan(values), np.nan, np.maximum(values, 0.0)), notes=tuple(notes), metrics=metrics)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _mean_known(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else float("nan")
