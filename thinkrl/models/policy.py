"""A loaded causal language model with its tokenizer: what samplers and learners open."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from thinkrl.models.device import Device, resolve_device


@dataclass(eq=False)
class Policy:
    """`module` is the plain, whole model with the compute weights (the dtype that sampling and the forward pass use).

    stop_ids: every token id that ends a response. name: for messages and run records.
    masters: float32 master weights by parameter name when loaded for training, else None. When the
        compute dtype is float32 they share the module's own storage.
    weight_stream: set by a learner whose current weights are not the module's own (adapters, partitioned
        weights): yields the plain model's compute weights by parameter name, one at a time.
    lent: set by such a learner: parameters whose storage it goes on reading as it is. `refresh_module` gives them
        storage of their own before it writes to them.
    write_adapter: set by a learner that exports an adapter beside the weights: writes it into a new folder.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    name: str
    masters: dict[str, Tensor] | None = None
    weight_stream: Callable[[], Iterator[tuple[str, Tensor]]] | None = None
    lent: set[str] = field(default_factory=set)
    write_adapter: Callable[[Path], None] | None = None

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The current compute weights of the plain model, in the order and under the names of
        `module.named_parameters()`, tied ones once. What samplers take over."""
        if self.weight_stream is not None:
            yield from self.weight_stream()
        else:
            for name, parameter in self.module.named_parameters():
                yield name, parameter.detach()

    @torch.no_grad()
    def refresh_module(self) -> None:
        """Brings the module up to date with `named_weights`, where a learner keeps its weights elsewhere."""
        if self.weight_stream is not None:
            parameters = dict(self.module.named_parameters())
            for name, weight in self.weight_stream():
                if name in self.lent:
                    parameters[name].data = torch.empty_like(parameters[name])
                    self.lent.remove(name)
                if weight.data_ptr() != parameters[name].data_ptr():
                    parameters[name].copy_(weight)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device


def build_policy(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    stop_ids: frozenset[int],
    dtype: torch.dtype,
    for_training: bool,
    device: Device = "cpu",
) -> Policy:
    """A policy on `device` from a freshly loaded module, whose parameters are still at source precision.

    Raises ConfigError when there is no such device. Master weights are taken before the module is cast to
    `dtype`, so bfloat16 compute loses nothing of the source; with float32 compute they share the module's
    storage. Tied parameters appear once, under the name `named_parameters` gives them.
    Generation defaults that came with the weights are dropped: a sampler reads its specification only.
    """
    module.to(resolve_device(device))  # type: ignore[arg-type]
    masters = None
    if for_training:
        masters = {key: parameter.detach().float() for key, parameter in module.named_parameters()}
    for parameter in module.parameters():
        # Parameters only: `module.to` would also round the rotary frequencies, which are float32 buffers.
        parameter.data = parameter.data.to(dtype)
    module.config.dtype = dtype
    module.generation_config = neutral_generation_config(tokenizer, stop_ids)
    module.train(False)
    return Policy(module, tokenizer, stop_ids, name, masters)


def neutral_generation_config(tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int]) -> GenerationConfig:
    """Stop and padding ids alone: no temperature, penalty or truncation for anything to inherit."""
    return GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=sorted(stop_ids), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str]) -> frozenset[int]:
    """Ids of `stop_tokens` and of the tokenizer's own end token.

    Raises ValueError for a stop token that is not exactly one entry of the vocabulary.
    """
    vocabulary = tokenizer.get_vocab()
    unknown = [token for token in stop_tokens if token not in vocabulary]
    if unknown:
        raise ValueError(f"stop_tokens must be in the tokenizer's vocabulary, got {unknown}")
    ids = {int(vocabulary[token]) for token in stop_tokens}
    if isinstance(tokenizer.eos_token_id, int):
        ids.add(tokenizer.eos_token_id)
    if not ids:
        raise ValueError("stop_tokens must name a token, since the tokenizer has no end token")
    return frozenset(ids)
