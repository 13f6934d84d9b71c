"""Keeping freed memory, so that large CPU tensors do not fault their pages in again at every step."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>
_TOP_PAD_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Tells glibc to serve large blocks from its heap and to keep what is freed; False where there is no glibc.

    By default each tensor above 32 MiB is mapped afresh and unmapped when freed: the kernel then
    zeroes every page again, which costs about as much as the arithmetic of a small model's step.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)
