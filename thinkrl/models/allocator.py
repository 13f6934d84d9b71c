"""Keeping freed memory within a stage, so that large CPU tensors do not fault their pages in again at every step, and
giving it back between stages."""

import ctypes
import gc
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


def release_freed_memory() -> bool:
    """Gives back what is kept but not in use: the heap's free pages, and a GPU's cached blocks; False without glibc.

    For the end of a stage. The next one allocates other sizes, which would come on top of holes that do not fit
    them; and a sampling engine that is about to start takes its memory from the device.
    """
    import torch

    gc.collect()  # modules hold themselves in cycles
    torch.cuda.empty_cache()
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0) in (0, 1))
    except (OSError, AttributeError):
        return False
