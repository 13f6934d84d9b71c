"""The learning rate as a function of the step: nothing to save, nothing to restore."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_at(
    step: int, total_steps: int, peak: float, warmup_steps: int, schedule: Schedule, final: float = 0.0
) -> float:
    """Learning rate of the optimizer step after `step` others, 0 <= step.

    Rises linearly to `peak` over the first `warmup_steps` steps, the first of which is not 0; then stays,
    or falls (linearly, or along half a cosine) towards the share `final` of the peak at `total_steps`, where it stays.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    done = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    left = 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return peak * (final + (1 - final) * left)
