"""The contract of a model configuration."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from thinkrl.models.policy import Policy


class ModelSource(Protocol):
    """A frozen dataclass that says which model, and loads it."""

    def load(self, weights: Path | None = None, *, for_training: bool = False, seed: int = 0) -> Policy:
        """Loads from `weights` (a folder an earlier stage saved) or, when None, from the component's own source.

        `for_training` also keeps fp32 master weights. `seed` draws weights that start from scratch.
        """
        ...


@runtime_checkable
class TokenizerSource(Protocol):
    """A model configuration that also gives the model's tokenizer alone."""

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the component's own source, without loading weights."""
        ...
