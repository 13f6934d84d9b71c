"""The shortest length at which a right answer can still be expected, by bands of difficulty."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.pass_rate import THIRDS, PassRateBands, group_pass_rates
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class ExpectedCorrectTargets:
    """L_A(d): the smallest length l with P(l, d) |C_d| >= 1, for each band d; the longest response where there is none.

    P(l, d) is the share of all responses of band d, right or wrong, of at most l tokens, and |C_d| how many of a
    group's responses are right at the band's lower end. The search of LASER-D (arXiv 2505.15612, section 3.2).
    """

    lower_tokens: int = 1024
    """Shortest length that is tried."""
    upper_tokens: int = 16384
    """Longest length that is tried."""
    step_tokens: int = 1024
    """Between the lengths that are tried; a `lower_tokens` below it is tried before its multiples."""
    group_size: int = 8
    """Responses to a prompt that the number of right ones is reckoned for."""
    rounding: Literal["floor", "ceil"] = "floor"
    """|C_d| of easy, medium and hard prompts, for 8 responses: 5, 2, 1 (floor, the released code) or 6, 3, 1 (ceil,
    the paper)."""
    bands: PassRateBands = THIRDS
    """Bands of difficulty. A monitor's pass rate on a threshold belongs to the band below it."""

    def __post_init__(self) -> None:
        if not 0 < self.lower_tokens <= self.upper_tokens:
            raise ValueError(f"lower_tokens must be in [1, upper_tokens], got {self.lower_tokens}")
        for name in ("step_tokens", "group_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def coverage(self, passed: NDArray[np.bool_], rollouts: Rollouts) -> dict[str, list[float]]:
        """P(l, d) at each length of `grid`, by band; zeros for a band without a response."""
        rates = group_pass_rates(passed, rollouts)[rollouts.group_index]
        bands = np.asarray([self.bands.band(rate, on_threshold="lower") for rate in rates])
        lengths = rollouts.sampled_counts
        found = {}
        for name in self.bands.names:
            mine = lengths[bands == name]
            found[name] = [float(np.mean(mine <= length)) if len(mine) else 0.0 for length in self.grid]
        return found

    @property
    def grid(self) -> list[int]:
        """The lengths that are tried, rising."""
        begin = self.lower_tokens if self.lower_tokens >= self.step_tokens else self.step_tokens
        grid = list(range(begin, self.upper_tokens + 1, self.step_tokens))
        return grid if begin == self.lower_tokens else [self.lower_tokens, *grid]

    def search(self, coverage: Mapping[str, Sequence[float]], longest: int) -> dict[str, int]:
        """L_A(d) by band, from P at each length of `grid`, none above `longest`, the batch's longest response."""
        needed = self._right_at_least()
        targets = {}
        for name, shares in coverage.items():
            reached = (length for length, share in zip(self.grid, shares, strict=True) if share * needed[name] >= 1.0)
            targets[name] = min(next(reached, longest), longest)
        return targets

    def _right_at_least(self) -> dict[str, int]:
        """|C_d| by band: what its lower threshold means in responses, at least 1."""
        turn = math.floor if self.rounding == "floor" else math.ceil
        lower = (0.0, *self.bands.thresholds)
        return {name: max(1, turn(self.group_size * rate)) for name, rate in zip(self.bands.names, lower, strict=True)}
