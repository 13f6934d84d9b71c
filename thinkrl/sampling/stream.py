"""The random numbers of one sample."""

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256


class UniformStream:
    """Uniforms in [0, 1) of one sample: token t uses draw t of the counter-based generator keyed by the stream key.

    The generator is Philox (Salmon et al. 2011), so a sample's numbers depend on nothing but its key.
    """

    def __init__(self, key: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=key))
        self._drawn: NDArray[np.float64] = np.zeros(0)

    def at(self, position: int) -> float:
        """The uniform for the token at `position`, counted from the first sampled token."""
        while position >= len(self._drawn):
            self._drawn = np.concatenate([self._drawn, self._generator.random(_CHUNK)])
        return float(self._drawn[position])
