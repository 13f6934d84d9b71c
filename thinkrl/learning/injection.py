"""Where peft is called: its layers put into a model, and its file format written."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.dora import DoraLinearLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion
from thinkrl.learning.adapters import Adapter, Low
from thinkrl.rollouts.streams import generator

_NAME = "default"
"""peft's name of an adapter that has no other."""


def inject(adapter: Adapter, module: PreTrainedModel) -> tuple[PreTrainedModel, PreTrainedModel, dict[str, Low]]:
    """Two structures that share the storage of `module`, all frozen: one with adapters, which are trained, and a
    plain one; and the tensors of each adapted weight. The caller's `module` stays as it is.

    Raises ConfigError when `targets` names what cannot have an adapter.
    """
    targets = _targets(adapter, module)
    shared: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in module.parameters()
    }
    base, adapted = (copy.deepcopy(module, dict(shared)) for _ in range(2))
    with torch.random.fork_rng(devices=[]):  # peft draws weights, which are drawn anew below
        config = LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,  # type: ignore[arg-type]
            lora_dropout=adapter.dropout,
            target_modules=targets,
            use_rslora=adapter.rslora,
            use_dora=adapter.dora,
            task_type="CAUSAL_LM",
        )
        inject_adapter_in_model(config, adapted, adapter_name=_NAME)
    for structure in (base, adapted):
        structure.train(False)
    low = {}
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer):
            low[f"{name}.weight"] = _start(adapter, name, layer)
    missing = low.keys() - dict(base.named_parameters()).keys()
    if missing:
        raise ConfigError(f"{min(missing)} is shared with another layer, which an adapter on it would change as well")
    return adapted, base, low


def _targets(adapter: Adapter, module: PreTrainedModel) -> list[str]:
    """Last names of the layers that get an adapter."""
    ends = (module.get_input_embeddings(), module.get_output_embeddings())  # type: ignore[no-untyped-call]
    outside = {name.rpartition(".")[2] for name, part in module.named_modules() if any(part is end for end in ends)}
    linear = {name.rpartition(".")[2] for name, part in module.named_modules() if type(part) is nn.Linear} - outside
    for target in adapter.targets or ():
        if target in outside:
            raise ConfigError(
                f"adapter.targets: {target} cannot have an adapter, only the linear layers within the blocks can"
                f" ({', '.join(sorted(linear))}): its weight is tied to another or read in pieces"
            )
        if target not in linear:
            raise ConfigError(
                f"adapter.targets: the model has no linear layer {target!r}; {suggestion(target, linear)}"
            )
    if not linear:
        raise ConfigError(f"{type(module).__name__} has no linear layers that could have an adapter")
    return sorted(adapter.targets or linear)


def _start(adapter: Adapter, name: str, layer: Any) -> Low:
    """Draws where A starts, from the adapter's seed and the layer's name alone."""
    weight, lengths = layer.get_base_layer().weight, None
    a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    bound = a.shape[1] ** -0.5
    drawn = generator(adapter.seed, "adapter", name).uniform(-bound, bound, tuple(a.shape))
    a.data = torch.from_numpy(drawn.astype(np.float32)).to(weight.device)
    b.data = torch.zeros(b.shape, device=weight.device)
    if adapter.dora:
        wide = _WideLengths(fan_in_fan_out=False)  # type: ignore[no-untyped-call]
        norms = torch.linalg.vector_norm(weight.detach().float(), dim=1)
        wide.weight = nn.Parameter(norms)
        layer.lora_magnitude_vector[_NAME] = wide
        lengths = f"{name}.lora_magnitude_vector.{_NAME}.weight"
    return Low(f"{name}.lora_A.{_NAME}.weight", f"{name}.lora_B.{_NAME}.weight", lengths)


class _WideLengths(DoraLinearLayer):
    """DoRA whose norms are in float32 whatever the weights are: rounded to bfloat16, |W| would be off by up to
    0.4 percent, and W' with it."""

    def get_weight_norm(self, weight: Tensor, lora_weight: Tensor, scaling: float, **_: Any) -> Tensor:
        """|W + s B A| row by row, float32 [m]."""
        merged = weight.detach().float().add(lora_weight.detach(), alpha=scaling)
        return cast("Tensor", torch.linalg.vector_norm(merged, dim=1))

    def get_lora_weight(self, lora_A: nn.Linear, lora_B: nn.Linear, **_: Any) -> Tensor:
        """B A, [m, n]; peft takes no gradient through it."""
        product: Tensor = lora_B.weight.detach() @ lora_A.weight.detach()
        return product


def write_peft(module: PreTrainedModel, masters: Mapping[str, Tensor], base: str, folder: Path) -> None:
    """Writes the adapter of `module` to `folder` as peft reads it (`PeftModel.from_pretrained(model, folder)`).

    masters: its float32 tensors by parameter name. base: name of the model or folder that it belongs on.
    """
    folder.mkdir(parents=True)
    own = get_peft_model_state_dict(module, state_dict=dict(masters), adapter_name=_NAME)
    named = {f"base_model.model.{name}": tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config: Any = cast("Any", module).peft_config[_NAME]
    settings = config.to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    settings["target_modules"] = sorted(settings["target_modules"])
    text = json.dumps(settings, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
