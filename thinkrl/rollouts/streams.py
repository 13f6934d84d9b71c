"""The one source of randomness keys: every random choice is a function of (seed, purpose, position).

There is no global random state, so nothing depends on what was drawn before, a resumed run draws
what the uninterrupted run would have drawn, and a sample does not depend on its batch.
"""

from hashlib import blake2b

import numpy as np


def stream_key(*parts: str | int) -> int:
    """A key in [0, 2**64) from `parts`, the same on every machine and in every process.

    Each part is written with its type and its length, so ("ab", "c") and ("a", "bc"), or 1 and "1",
    have different keys. Raises TypeError for anything but text and whole numbers.
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int | np.integer):
            raise TypeError(f"a stream key takes text and whole numbers, got {part!r}")
        tag, body = ("s", part) if isinstance(part, str) else ("i", str(int(part)))
        data = body.encode("utf-8", errors="surrogatepass")
        digest.update(f"{tag}{len(data)}:".encode())
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


def generator(*parts: str | int) -> np.random.Generator:
    """A counter-based generator (Philox, Salmon et al. 2011) of its own for `parts`."""
    return np.random.Generator(np.random.Philox(key=stream_key(*parts)))
