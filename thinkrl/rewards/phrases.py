"""How many of the phrases of thinking does a response hold?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from thinkrl.rewards.repetition import repeated_share
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.spans import read_response
from thinkrl.rollouts.store import Rollouts

Families = Mapping[str, tuple[str, ...]]
"""Phrases in lower case, by what they are a sign of."""


def phrases_found(text: str, phrases: Families) -> dict[str, list[str]]:
    """The phrases of each family that stand somewhere in `text`, in either case, as parts of words too."""
    lowered = text.lower()
    return {family: [phrase for phrase in members if phrase in lowered] for family, members in phrases.items()}


@dataclass(frozen=True)
class PhraseReward(RewardTerm):
    """RPR(y) = max(0, min(1, n / N) - q - u): n phrases occur at least once, and each counts once.

    q is the share of repeated `ngram`-grams of words, u the number of `forbidden` texts. The reasoning pattern reward
    of "On the Noisy Rewards in Learning to Reason" (arXiv 2505.22653), which pays the look of thinking and reads no
    answer. Upper and lower case are the same.

    Logged: for each family, the share of responses with a phrase of it.
    """

    reads_tokens: ClassVar[bool] = False

    phrases: Families
    """Phrases in lower case, by family; a space at the end of one is part of it."""
    enough: float | None = None
    """N, the number of phrases that is paid 1; null takes that of all phrases."""
    part: Literal["response", "thinking"] = "response"
    """What is searched: all that follows the first `<think>` (all, without one), or the thinking alone."""
    ngram: int = 20
    """Length of the sequences of words whose repetition is taken off; 0 takes nothing off."""
    forbidden: tuple[str, ...] = ()
    """Texts in lower case that cost 1 each time they stand in what is searched."""

    def __post_init__(self) -> None:
        every = [phrase for members in self.phrases.values() for phrase in members]
        if not every:
            raise ValueError("phrases must hold at least one phrase, got none")
        if twice := sorted({phrase for phrase in every if every.count(phrase) > 1}):
            raise ValueError(f"phrases must be different texts, got {twice[0]!r} twice")
        for phrase in (*every, *self.forbidden):
            if not phrase or phrase != phrase.lower():
                raise ValueError(f"phrases and forbidden must be in lower case and not empty, got {phrase!r}")
        if self.enough is not None and not self.enough > 0:
            raise ValueError(f"enough must be above 0, got {self.enough}")
        if self.ngram < 0:
            raise ValueError(f"ngram must be 0 or more, got {self.ngram}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value in [0, 1] per response; the note names the phrases, and what is taken off."""
        texts = [self._searched(text).lower() for text in rollouts.texts]
        found = [phrases_found(text, self.phrases) for text in texts]
        paid = [self._reward(text, one) for text, one in zip(texts, found, strict=True)]
        shares = {f: float(np.mean([bool(one[f]) for one in found])) for f in self.phrases} if found else {}
        return Scores(
            values=np.asarray([value for value, _ in paid], dtype=np.float64),
            notes=tuple(note for _, note in paid),
            metrics={f"phrases/{family}": share for family, share in shares.items()},
        )

    def _searched(self, text: str) -> str:
        if self.part == "thinking":
            think = read_response(text).think
            return text[slice(*think)] if think else ""
        before, opening, after = text.partition("<think>")
        return after if opening else before

    def _reward(self, text: str, by_family: Mapping[str, list[str]]) -> tuple[float, str]:
        """The value of a response, and why."""
        found = [phrase for members in by_family.values() for phrase in members]
        enough = self.enough or sum(map(len, self.phrases.values()))
        repeated = repeated_share(text.split(), self.ngram) if self.ngram else 0.0
        unwanted = sum(text.count(phrase) for phrase in self.forbidden)
        notes = [f"{len(found)} phrases" + (f" ({', '.join(phrase.strip() for phrase in found)})" if found else "")]
        notes += [f"repeats itself, {repeated:.3g}"] * (repeated > 0)
        notes += [f"{unwanted} forbidden"] * (unwanted > 0)
        return max(0.0, min(1.0, len(found) / enough) - repeated - unwanted), "; ".join(notes)
