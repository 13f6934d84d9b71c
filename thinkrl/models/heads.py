"""Models with a scalar head: a backbone and one linear row, in transformers' sequence-classification format."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.initialization import no_init_weights

from thinkrl.config.component import ConfigError
from thinkrl.models.device import Device, resolve_device
from thinkrl.models.folders import no_progress_bars
from thinkrl.models.policy import Policy
from thinkrl.models.pretrained import TORCH_DTYPES, Dtype

HEAD = "score.weight"
"""Name of the head's one row [1, hidden], as published reward models call it."""


def scalar_model(policy: Policy, *, for_training: bool) -> Policy:
    """A copy of `policy` whose vocabulary projection is replaced by a scalar head of zeros.

    Zeros say nothing about any token, and get a gradient from the first step on; the backbone gets one from the
    second. `policy` keeps its weights, and is loaded for training where the copy is to have float32 masters of the
    source's precision (else they are made of its compute weights). Raises ConfigError for an architecture that
    transformers has no scalar head for.
    """
    config = copy.deepcopy(policy.module.config)
    config.num_labels = 1
    config.pad_token_id = None if policy.tokenizer is None else policy.tokenizer.pad_token_id
    try:
        with no_init_weights():
            module: PreTrainedModel = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]
                config, dtype=torch.float32
            )
    except ValueError as error:
        raise ConfigError(f"{type(policy.module).__name__} has no form with a scalar head in transformers") from error
    module.to(policy.device)  # type: ignore[arg-type]
    masters, prefix = policy.masters or {}, policy.module.base_model_prefix
    source = {
        name: masters.get(f"{prefix}.{name}", parameter).detach()
        for name, parameter in policy.module.base_model.named_parameters()
    }
    with torch.no_grad():
        for name, parameter in module.base_model.named_parameters():
            parameter.copy_(source[name])
        module.get_parameter(HEAD).zero_()
    return _in_precision(module, policy.module.dtype, policy, for_training)


def _in_precision(module: PreTrainedModel, dtype: torch.dtype, policy: Policy, for_training: bool) -> Policy:
    """The module, still in float32, as a policy that computes in `dtype`."""
    masters = {name: parameter.detach() for name, parameter in module.named_parameters()} if for_training else None
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(for_training)
    module.config.dtype = dtype
    module.train(False)
    return Policy(module, policy.tokenizer, policy.stop_ids, policy.name, masters)


def load_scalar_model(source: str | Path, *, dtype: Dtype, for_training: bool, device: Device = "auto") -> Policy:
    """Loads a folder (or hub id) with a scalar head: what `models.saving.save_policy` wrote of one, or a published
    reward model of one label. Only safetensors are read.

    Raises ConfigError when it cannot be loaded, has several labels, or lacks weights.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        with no_progress_bars():
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=torch.float32, output_loading_info=True, use_safetensors=True
            )
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load a model with a scalar head from {source}: {error}") from error
    module, info = loaded
    if module.config.num_labels != 1:
        raise ConfigError(f"the model in {source} gives {module.config.num_labels} numbers, expected 1")
    if info["missing_keys"]:
        raise ConfigError(f"the model in {source} lacks weights: {sorted(map(str, info['missing_keys']))[:3]}")
    module.to(resolve_device(device))
    stop_ids = frozenset({tokenizer.eos_token_id} if isinstance(tokenizer.eos_token_id, int) else ())
    return _in_precision(module, TORCH_DTYPES[dtype], Policy(module, tokenizer, stop_ids, str(source)), for_training)
