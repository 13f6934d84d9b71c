"""Models with published weights: from a folder, from a packaged copy, or from the hub."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from thinkrl.config.component import ConfigError
from thinkrl.models.device import Device, resolve_device
from thinkrl.models.folders import no_progress_bars
from thinkrl.models.packaged import PACKAGED_MODELS, pull
from thinkrl.models.policy import Policy, build_policy, stop_token_ids

Dtype = Literal["float32", "bfloat16"]
TORCH_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "tokenizer.model"]
_TOKENIZER_FILES = ["*.json", "*.jinja", "*.txt", "tokenizer.model"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainedModel:
    """A causal language model with published weights."""

    source: str
    """A folder in transformers format, the name of a packaged model, or a hub id; looked up in that order."""
    revision: str | None = None
    """Hub branch, tag or commit; none takes the hub's default branch."""
    dtype: Dtype = "bfloat16"
    """Precision of sampling and of the forward pass. Training keeps float32 master weights either way."""
    stop_tokens: tuple[str, ...] = ()
    """Tokens that end a response, beside the tokenizer's own end token."""
    origin: Literal["packaged", "hub", "any"] = "packaged"
    """Release of a packaged model: its packaged weights, the hub's, or the hub's when it can be reached.
    The releases differ in precision, so only a fixed choice gives the same numbers everywhere."""
    device: Device = "auto"
    """Where the model computes: `cuda`, `cpu`, or `auto`, the GPU when there is one."""

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("source must be a folder, a packaged model or a hub id, got nothing")

    def load(self, weights: Path | None = None, *, for_training: bool = False, seed: int = 0) -> Policy:
        """Loads from `weights` (a folder an earlier stage saved), else from `source`; `seed` is not used."""
        folder = weights if weights is not None else self.fetch()
        name = self.source if weights is None else str(weights)
        return load_folder(
            folder,
            name=name,
            dtype=self.dtype,
            stop_tokens=self.stop_tokens,
            for_training=for_training,
            device=self.device,
        )

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of `source` alone; from the hub no weights are downloaded."""
        if self.source in PACKAGED_MODELS or Path(self.source).is_dir():
            return _tokenizer(str(self.fetch()))
        try:  # transformers would ask a hub that is out of reach again and again, for a minute
            files = snapshot_download(self.source, revision=self.revision, allow_patterns=_TOKENIZER_FILES)
            return _tokenizer(files)
        except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise ConfigError(
                f"cannot load the tokenizer of {self.source!r}: it is not a folder, not a packaged model, not in the"
                f" local hub cache, and the hub gave {type(error).__name__}"
            ) from error

    def fetch(self) -> Path:
        """The local folder that holds the weights, downloading or converting them when they are not here yet.

        Raises ConfigError that says what was tried and what to do.
        """
        if Path(self.source).is_dir():
            return Path(self.source)
        packaged = PACKAGED_MODELS.get(self.source)
        if packaged is None:
            return self._fetch_from_hub(self.source)
        if self.origin == "packaged":
            return pull(self.source)
        try:
            return self._fetch_from_hub(packaged.hub_id)
        except ConfigError:
            if self.origin == "hub":
                raise
            _log.warning("the hub cannot be reached; %s uses its packaged weights", self.source)
            return pull(self.source)

    def _fetch_from_hub(self, hub_id: str) -> Path:
        try:
            return Path(snapshot_download(hub_id, revision=self.revision, allow_patterns=_HUB_FILES))
        except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise ConfigError(
                f"cannot load the model {self.source!r}: it is not a folder, not a packaged model "
                f"({', '.join(sorted(PACKAGED_MODELS))}), not in the local hub cache, and the hub gave "
                f"{type(error).__name__}. Fetch it once where the hub can be reached with "
                f"`thinkrl models pull`, or set model.source to a folder or model=smollm2_135m_instruct"
            ) from error


def _tokenizer(folder: str) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return loaded


def load_folder(
    folder: Path,
    *,
    name: str,
    dtype: Dtype,
    stop_tokens: Sequence[str],
    for_training: bool,
    device: Device = "cpu",
) -> Policy:
    """Loads a folder in transformers format.

    Raises ConfigError when the folder is not a model, when there is no such device, or when weights are missing,
    left over or of another shape (transformers alone would fill the gaps with random values and go on).
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no model: there is no config.json")
    resolve_device(device)  # before the long part
    compute = TORCH_DTYPES[dtype]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with no_progress_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if for_training else compute, output_loading_info=True
        )
    module, info = loaded
    faults = [f"{len(info[kind])} {kind} ({sorted(map(str, info[kind]))[0]} ...)" for kind in _FAULTS if info.get(kind)]
    if faults:
        raise ConfigError(f"the weights in {folder} do not fit their config.json: {'; '.join(faults)}")
    return build_policy(
        module,
        tokenizer,
        name=name,
        stop_ids=stop_token_ids(tokenizer, stop_tokens),
        dtype=compute,
        for_training=for_training,
        device=device,
    )


_FAULTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
