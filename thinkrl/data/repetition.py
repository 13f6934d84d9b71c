"""A curriculum by repetition: hard prompts stand several times in an epoch, easy ones seldom or never."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from thinkrl.data.source import DataError, PromptSource
from thinkrl.rollouts.prompt import Prompt


@dataclass(frozen=True)
class Band:
    """How often prompts stand in an epoch whose number is below a bound, and not below that of the band before."""

    below: float | None
    """The bound; null takes all that is left."""
    times: int
    """Times a prompt stands in an epoch; 0 leaves it out."""

    def __post_init__(self) -> None:
        if self.times < 0:
            raise ValueError(f"times must be 0 or more, got {self.times}")
        if self.below is not None and not math.isfinite(self.below):
            raise ValueError(f"below must be a number or null, got {self.below}")


@dataclass(frozen=True)
class RepeatedPrompts:
    """Each prompt of `source` as often as the band of a number in its metadata says; beyond the last band never.

    With pass rates measured beforehand: below 0.2 six times, below 0.4 and 0.6 four times, below 0.8 twice, and what
    is solved more often not at all (OREAL, arXiv 2502.06781).
    """

    source: PromptSource
    """The prompts, each once."""
    bands: tuple[Band, ...]
    """Bands with rising bounds."""
    key: str = "pass_rate"
    """Key of the metadata that holds the number, or a path of keys with dots."""

    def __post_init__(self) -> None:
        bounds = [math.inf if band.below is None else band.below for band in self.bands]
        if not bounds or bounds != sorted(set(bounds)):
            raise ValueError(f"bands must have rising bounds, null last, got {[band.below for band in self.bands]}")
        if not any(band.times for band in self.bands):
            raise ValueError("bands must repeat some prompt, got times 0 in all of them")
        if int(getattr(self.source, "together", 1)) != 1:
            raise ValueError(
                "source must give prompts one by one, got prompts that belong together: repeat what these are made of"
            )

    def prompts(self) -> Sequence[Prompt]:
        """Ids `<id>`, `<id>+2`, `<id>+3` and so on. Raises DataError where a prompt has no number, or none is left."""
        originals = self.source.prompts()
        repeated = [
            prompt if time == 1 else replace(prompt, prompt_id=f"{prompt.prompt_id}+{time}")
            for prompt in originals
            for time in range(1, self._times(self._number(prompt)) + 1)
        ]
        if not repeated:
            raise DataError(f"none of the {len(originals)} prompts has a {self.key} in a band that is repeated")
        return repeated

    def _times(self, number: float) -> int:
        return next((band.times for band in self.bands if band.below is None or number < band.below), 0)

    def _number(self, prompt: Prompt) -> float:
        value: Any = prompt.metadata
        for part in (self.key,) if self.key in prompt.metadata else self.key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(
                f"prompt {prompt.prompt_id}: {self.key!r} must be a number in its metadata, got {value!r};"
                f" there are {sorted(prompt.metadata)}"
            )
        return float(value)
