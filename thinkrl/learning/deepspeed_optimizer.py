"""Gradients, moments and float32 weights that DeepSpeed divides among processes, in whole tensors when asked for."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from thinkrl.learning.learner import WEIGHT, LearnerState
from thinkrl.models.policy import Policy
from thinkrl.parallel.ranks import ranks

_MOMENTS = ("exp_avg", "exp_avg_sq")


class EngineOptimizer:
    """An `Optimizer` over a DeepSpeed engine.

    DeepSpeed takes the mean of the processes' gradients, so each passes n / count times its sum of losses back: the
    mean is then the gradient of the loss over all of them. Every process makes the same number of passes. State goes
    in and out as whole float32 tensors by parameter name, one at a time, the first process holding them.
    """

    def __init__(self, engine: Any, module: PreTrainedModel, policy: Policy, deepspeed: Any) -> None:
        self._engine = engine
        self._deepspeed = deepspeed
        self._fragments: Any = deepspeed.utils
        self._parameters = dict(module.named_parameters())
        self._divided = any(hasattr(parameter, "ds_id") for parameter in self._parameters.values())
        self._ranks = ranks()
        self._passes = 0
        self._broken = False
        self._steps = 0
        self._make_moments(0)
        if self._divided:
            policy.weight_stream = self._stream

    def backward(self, total: Tensor, count: float) -> None:
        """Passes `total` back, to be divided by `count`."""
        if self._broken:
            raise RuntimeError("the gradients of a step that failed cannot be taken back: load a state first")
        with self._ranks.waiting("the gradient of a pass"):
            self._engine.backward(total * (self._ranks.size / count))
        self._passes += 1

    def discard(self) -> None:
        """Forgets the gradients of this optimizer step: nothing can be learned after it but from a loaded state."""
        self._broken = self._passes > 0

    def step(self, count: float, learning_rate: float, max_norm: float | None) -> float:
        """Clips the gradient and steps. Returns the norm before clipping; one that is not finite raises
        FloatingPointError and leaves the weights as they were."""
        inner = self._engine.optimizer
        inner.clip_grad = max_norm or 0.0
        for group in inner.param_groups:
            group["lr"] = learning_rate
        with self._ranks.waiting("the optimizer's step"):
            self._engine.step()
        self._passes = 0
        norm = float(self._engine.get_global_grad_norm())
        if getattr(inner, "overflow", False) or not norm < float("inf"):
            raise FloatingPointError(
                f"the gradient norm must be finite, got {norm}; the weights are as before the step"
            )
        self._steps += 1
        return norm

    def weights(self) -> Mapping[str, Tensor]:
        """The float32 weights by parameter name, on the first process; none on the others."""
        return dict(self._whole(None, ""))

    def state(self) -> LearnerState:
        """Weights, moments and the number of steps taken; tensors on the first process alone."""
        tensors = dict(self._whole(None, WEIGHT))
        for moment in _MOMENTS if self._steps else ():
            tensors |= dict(self._whole(moment, f"{moment}/"))
        return LearnerState({"optimizer_steps": self._steps}, tensors)

    def load_state(self, steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave, from the first process's `tensors`; raises ValueError, before anything changes,
        for another model's state."""
        shapes = {name: _shape(parameter) for name, parameter in self._parameters.items()}
        wanted = {WEIGHT + name: shape for name, shape in shapes.items()}
        if steps:
            wanted |= {f"{moment}/{name}": shape for moment in _MOMENTS for name, shape in shapes.items()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        given = self._ranks.share(given, "the shapes of the state to go on from")
        strange = sorted(wanted.keys() ^ given.keys())
        if strange:
            other = "model" if any(name.startswith(WEIGHT) for name in strange) else "optimizer"
            raise ValueError(
                f"the state is of another {other}: {len(strange)} tensors do not match, first '{strange[0]}'"
            )
        for name, shape in wanted.items():
            if given[name] != shape:
                raise ValueError(f"the state is of another model: '{name}' is {given[name]}, expected {shape}")
        self._make_moments(steps)
        for name in self._parameters:
            self._set_weight(name, self._received(tensors.get(WEIGHT + name), name))
            for moment in _MOMENTS if steps else ():
                value = self._received(tensors.get(f"{moment}/{name}"), name)
                self._set_part(self._parameters[name], value, moment)
        self._steps, self._passes, self._broken = steps, 0, False

    def take(self, masters: Mapping[str, Tensor]) -> None:
        """Takes float32 weights over, which the module holds in its own precision."""
        if next(iter(self._parameters.values())).dtype != torch.float32:
            for name, parameter in self._parameters.items():
                self._set_part(parameter, masters[name], None)

    def _stream(self) -> Iterator[tuple[str, Tensor]]:
        """The weights of the forward pass, gathered one at a time."""
        for name, parameter in self._parameters.items():
            with self._ranks.waiting(name), self._deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.detach()

    def _whole(self, moment: str | None, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Whole tensors in main memory, on the first process; the others only take part."""
        for name, parameter in self._parameters.items():
            with self._ranks.waiting(f"gathering {prefix}{name}"):
                if moment is None:
                    whole = self._fragments.safe_get_full_fp32_param(parameter)
                else:
                    whole = self._fragments.safe_get_full_optimizer_state(parameter, moment)
            if self._ranks.first:
                yield prefix + name, whole.detach().to("cpu", torch.float32, copy=True)

    def _received(self, tensor: Tensor | None, name: str) -> Tensor:
        """The first process's tensor, on this process's device."""
        parameter = self._parameters[name]
        value = torch.empty(_shape(parameter)) if tensor is None else tensor.float().cpu().contiguous()
        return self._ranks.broadcast_(value, f"the state of {name}").to(parameter.device)

    def _set_weight(self, name: str, value: Tensor) -> None:
        parameter = self._parameters[name]
        self._set_part(parameter, value, None)
        if self._divided:
            with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if self._ranks.first:
                    parameter.data.copy_(value)
        else:
            parameter.data.copy_(value)

    def _set_part(self, parameter: Tensor, value: Tensor, moment: str | None) -> None:
        """Keeps this process's part of a whole float32 tensor."""
        tools = self._fragments
        if self._divided:
            part = _part(value, parameter, self._ranks.rank)
            if moment is None:
                tools.safe_set_local_fp32_param(parameter, part)
            else:
                tools.safe_set_local_optimizer_state(parameter, part, moment)
        elif moment is None:
            tools.safe_set_full_fp32_param(parameter, value)
        else:
            tools.safe_set_full_optimizer_state(parameter, value, moment)

    def _make_moments(self, steps: int) -> None:
        """AdamW's state as after `steps` steps, with moments of 0. DeepSpeed would look for them after the first
        group of weights has stepped, and miss those of the second."""
        optimizer = self._engine.optimizer
        adam = optimizer.optimizer
        adam.state.clear()
        for part in self._parts():
            adam.state[part] = {
                "step": torch.tensor(float(steps), device=part.device),
                **{moment: torch.zeros_like(part) for moment in _MOMENTS},
            }
        if hasattr(optimizer, "_hp_optimizer_states_linked"):
            optimizer._hp_optimizer_states_linked = False
            optimizer._lazy_init_hp_params_optimizer_state()

    def _parts(self) -> list[Tensor]:
        """This process's flat parts of the float32 weights, as AdamW knows them."""
        optimizer = self._engine.optimizer
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
            if hasattr(optimizer, name):
                return list(getattr(optimizer, name))
        raise RuntimeError(f"{type(optimizer).__name__} of DeepSpeed {self._deepspeed.__version__} is not known here")


def _shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _part(value: Tensor, parameter: Any, rank: int) -> Tensor:
    """The part of rank `rank`: equal numbers of elements, the last ones filled up with zeros."""
    size = parameter.ds_tensor.numel()
    flat = value.flatten()[rank * size : (rank + 1) * size]
    return torch.nn.functional.pad(flat, (0, size - len(flat)))
