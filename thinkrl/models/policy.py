"""A loaded causal language model with its tokenizer: what samplers and learners open."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(eq=False)
class Policy:
    """`module` holds the compute weights (the dtype that sampling and the forward pass use).

    stop_ids: every token id that ends a response. name: for messages and run records.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    name: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device
