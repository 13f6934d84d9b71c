"""How threads wait for each other, decided before torch loads its thread pool."""

import os

_BUSY_PERCENT = 25.0
_LOOK_SECONDS = 0.3


def choose_wait_policy() -> None:
    """Lets threads spin while they wait where cores are free, and sleep where others need them.

    Measured on two cores, sampling with a model of 135 M parameters: on a quiet machine spinning gives
    697 tokens/s and sleeping 448; beside one busy process spinning gives 175 and sleeping 375. A choice
    that the environment makes (OMP_WAIT_POLICY, GOMP_SPINCOUNT) stands.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    import psutil

    if psutil.cpu_percent(interval=_LOOK_SECONDS) > _BUSY_PERCENT:
        os.environ["OMP_WAIT_POLICY"] = "passive"
