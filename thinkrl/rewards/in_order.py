"""Do texts stand in a response, one after the other?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class TextsInOrder(RewardTerm):
    """1 where all `texts` stand in prompt and response, each after the one before it, else 0."""

    reads_tokens: ClassVar[bool] = False

    texts: tuple[str, ...] = ("<think>", "</think>")
    """What must stand there, in this order."""
    prefix: str = ""
    r"""What the prompt already wrote of the response, such as `<think>\n` from a chat template."""

    def __post_init__(self) -> None:
        if not self.texts or not all(self.texts):
            raise ValueError(f"texts must be texts, at least one, got {list(self.texts)}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response; the note names the first that is missing."""
        missing = [self._missing(self.prefix + text) for text in rollouts.texts]
        return Scores(
            np.asarray([float(not text) for text in missing]),
            notes=tuple(f"no {text} where it should stand" if text else "" for text in missing),
        )

    def _missing(self, text: str) -> str:
        place = 0
        for wanted in self.texts:
            found = text.find(wanted, place)
            if found < 0:
                return wanted
            place = found + len(wanted)
        return ""
