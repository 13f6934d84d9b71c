"""Writing a policy in the plain transformers format: safetensors, tokenizer, chat template."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from thinkrl.models.folders import no_progress_bars, written_aside
from thinkrl.models.policy import Policy, neutral_generation_config


def save_policy(policy: Policy, folder: Path, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """Exports `policy` to `folder`, which any transformers program can load; returns `folder`.

    tensors: weights by parameter name, such as a learner's float32 masters; names left out take the
        module's own values, None takes the policy's masters (or, without masters, the module's values).
    An adapter that the policy exports as well goes into the folder `adapter` within.
    The files are written aside and renamed, so `folder` is whole or absent; one that was there before
    is replaced. Raises ValueError for a tensor of an unknown name or another shape.
    """
    weights = _weights(policy, policy.masters or {} if tensors is None else tensors)
    with written_aside(folder, replace=True) as scratch, no_progress_bars():
        _write(policy, weights, scratch)
    return folder


def _weights(policy: Policy, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every parameter once (tied ones under their first name), taken from `tensors` where it has them."""
    own = {name: parameter.detach() for name, parameter in policy.module.named_parameters()}
    unknown = sorted(tensors.keys() - own.keys())
    if unknown:
        raise ValueError(f"tensors must be named like the model's parameters, got {unknown[:3]}")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{name} must have shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}")
    return {name: tensors.get(name, value).detach() for name, value in own.items()}


def _write(policy: Policy, weights: Mapping[str, Tensor], folder: Path) -> None:
    policy.module.generation_config = neutral_generation_config(policy.tokenizer, policy.stop_ids)
    policy.module.save_pretrained(folder, state_dict=dict(weights))
    policy.tokenizer.save_pretrained(folder)
    if any(tensor.dtype == torch.float32 for tensor in weights.values()):
        # transformers writes the module's dtype; a plain reload would round the masters to it.
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if policy.write_adapter is not None:
        policy.write_adapter(folder / "adapter")
