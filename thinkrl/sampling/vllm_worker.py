"""What is mixed into vLLM's worker, in whichever process that runs: it takes weights over and says what it holds."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.vllm_weights import SentWeights, held_weights, repack


class WeightReceiver:
    """Methods that `collective_rpc` can call on a worker."""

    model_runner: Any
    model_config: Any
    _thinkrl_version: int | None = None

    def thinkrl_take(self, weights: Iterable[tuple[str, Tensor]], version: int) -> dict[str, Any]:
        """Loads `weights` (names as in transformers), and reports the version and the checksum of what is held."""
        sent = SentWeights(weights)
        self.model_runner.reload_weights(weights_iterator=iter(sent))
        model = self.model_runner.get_model()
        repack(model)
        self._thinkrl_version = version
        return {"version": version, "checksum": weights_checksum(held_weights(model, sent))}
