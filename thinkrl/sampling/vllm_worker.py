"""What is mixed into vLLM's worker, in whichever process that runs: it takes weights over and says what it holds."""

import base64
import mmap
import multiprocessing
import os
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.vllm_serve import IN_SERVER, die_with_parent
from thinkrl.sampling.vllm_transport import read_weights
from thinkrl.sampling.vllm_weights import SentWeights, held_weights, repack

PROTOCOL = 1

_parent = multiprocessing.parent_process()
if _parent is not None and os.environ.get(IN_SERVER):
    die_with_parent(_parent.pid)


class WeightReceiver:
    """Methods that `collective_rpc` can call on a worker."""

    model_runner: Any
    model_config: Any
    parallel_config: Any
    _thinkrl_version: int | None = None
    _thinkrl_parts: list[tuple[str, Tensor]]

    def thinkrl_describe(self) -> dict[str, Any]:
        """What a run must know of an engine that it did not start."""
        config = self.model_config
        return {
            "protocol": PROTOCOL,
            "architecture": config.hf_config.architectures[0],
            "vocabulary": config.hf_config.vocab_size,
            "dtype": str(config.dtype).removeprefix("torch."),
            "positions": config.max_model_len,
            "logprobs_mode": config.logprobs_mode,
            "workers": self.parallel_config.world_size,
            "version": self._thinkrl_version,
        }

    def thinkrl_take(self, weights: Iterable[tuple[str, Tensor]], version: int) -> dict[str, Any]:
        """Loads `weights` (names as in transformers), and reports the version and the checksum of what is held."""
        sent = SentWeights(weights)
        self.model_runner.reload_weights(weights_iterator=iter(sent))
        model = self.model_runner.get_model()
        repack(model)
        self._thinkrl_version = version
        return {"version": version, "checksum": weights_checksum(held_weights(model, sent))}

    def thinkrl_take_shared(self, path: str, header: str, version: int) -> dict[str, Any]:
        """The same from memory that another process shares."""
        with open(path, "rb") as file:
            # A private mapping: torch wants a buffer it could write to.
            memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return self.thinkrl_take(read_weights(memory, header), version)

    def thinkrl_take_part(self, header: str, data: str, first: bool) -> None:
        """Keeps a part of the weights that came over the network, until all are there."""
        if first:
            self._thinkrl_parts = []
        self._thinkrl_parts += read_weights(bytearray(base64.b64decode(data)), header)

    def thinkrl_take_parts(self, version: int) -> dict[str, Any]:
        """Loads the parts kept."""
        parts, self._thinkrl_parts = self._thinkrl_parts, []
        return self.thinkrl_take(parts, version)
