"""Names of run directories."""

import hashlib
import re
from collections.abc import Sequence

_LONGEST_NAME = 80


def run_name(seed: object, overrides: Sequence[str]) -> str:
    """`seed0`, then the other overrides in a form that a file system takes; the order given does not matter.

    Names that had to be shortened or changed carry a hash, so that two runs never share one.
    """
    others = sorted(override for override in overrides if override.lstrip("+").partition("=")[0] != "seed")
    full = "_".join([f"seed{seed}", *others])
    name = re.sub(r"[^A-Za-z0-9._=,+\-]+", "-", full)[:_LONGEST_NAME].rstrip("-._")
    return name if name == full else f"{name}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"
