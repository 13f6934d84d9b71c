"""Float32 weights, their gradients and their steps, for a module that computes in its own precision."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from thinkrl.learning.learner import WEIGHT, LearnerState
from thinkrl.learning.update_rules import OptimizerName, update_rules
from thinkrl.models.policy import Policy
from thinkrl.parallel.ranks import ranks

CLIP_EPSILON = 1e-6
"""Keeps the clip factor finite at a gradient norm of 0; as in torch.nn.utils.clip_grad_norm_."""


class Optimizer(Protocol):
    """Owns the float32 weights, their gradients and moments; the one place where the loss is divided."""

    def backward(self, total: Tensor, count: float) -> None:
        """Adds the gradient of a micro-batch's `total` to those of this optimizer step, whose sum of losses will be
        divided by `count`."""
        ...

    def discard(self) -> None:
        """Forgets the gradients of this optimizer step."""
        ...

    def step(self, count: float, learning_rate: float, max_norm: float | None) -> float:
        """Steps with the gradient of (sum of totals) / count, clipped to `max_norm`. Returns the norm before
        clipping; one that is not finite raises FloatingPointError and leaves the weights as they were."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """The float32 weights of the plain model, by parameter name."""
        ...

    def state(self) -> LearnerState:
        """Copies of weights and moments, and the number of steps taken."""
        ...

    def load_state(self, steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave; raises ValueError, before anything changes, for another model's state."""
        ...


class MasterOptimizer:
    """AdamW, or another rule, on the float32 weights of a policy.

    The gradients of each micro-batch are added up in float32. One division by the count of the whole
    optimizer step, one clip by global norm, one step; then the weights are copied into the module.
    Weight decay acts on matrices, not on norms and biases.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        rule: OptimizerName = "adamw",
    ) -> None:
        if policy.masters is None:
            raise ValueError(f"{policy.name} must be loaded for training to be learned on, got no master weights")
        parameters = dict(policy.module.named_parameters())
        self._trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        if not set(self._trained) <= policy.masters.keys() <= parameters.keys():
            raise ValueError(f"master weights of {policy.name} and its trained parameters differ in names")
        self._module = {name: parameter for name, parameter in parameters.items() if name in policy.masters}
        self._masters = policy.masters
        self._rules = update_rules(
            rule, {name: self._masters[name] for name in self._trained}, _ends(policy, self._module),
            betas=betas, epsilon=epsilon, weight_decay=weight_decay,
        )  # fmt: skip
        # Kept from step to step: to allocate them anew costs more than to add to them.
        self._sums: dict[str, Tensor] = {}
        self._summed: set[str] = set()
        self._ranks = ranks()
        self._steps = 0

    def backward(self, total: Tensor, count: float) -> None:
        """Adds the gradient of `total` to the sums of this optimizer step, which `step` divides."""
        total.backward()  # type: ignore[no-untyped-call]
        for name in self._trained:
            gradient = self._module[name].grad
            if gradient is None:
                continue
            self._module[name].grad = None
            if name in self._summed:
                self._sums[name].add_(gradient)
            elif name in self._sums:
                self._sums[name].copy_(gradient)
            else:
                self._sums[name] = gradient.float()
            self._summed.add(name)

    def discard(self) -> None:
        """Forgets the sums of this optimizer step."""
        self._summed.clear()

    @torch.no_grad()
    def step(self, count: float, learning_rate: float, max_norm: float | None) -> float:
        """Divides the summed gradient by `count`, clips it, steps. Returns the norm before clipping.

        A norm that is not finite raises FloatingPointError and leaves the weights as they were.
        """
        self._sum_over_ranks()
        if not self._summed:  # nothing had a loss: the gradient is 0, and the moments decay as after any step
            self._sums = {name: torch.zeros_like(self._masters[name]) for name in self._trained}
            self._summed = set(self._trained)
        names = [name for name in self._trained if name in self._summed]
        gradients = [self._sums[name] for name in names]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / count
        if not norm < float("inf"):
            self.discard()
            raise FloatingPointError(
                f"the gradient norm must be finite, got {norm}; the weights are as before the step"
            )
        clip = 1.0 if max_norm is None else min(1.0, max_norm / (norm + CLIP_EPSILON))
        torch._foreach_mul_(gradients, clip / count)
        for name, gradient in zip(names, gradients, strict=True):
            self._masters[name].grad = gradient
        for rule in dict.fromkeys(self._rules.values()):
            rule.step(learning_rate)
        self.discard()
        self._steps += 1
        self._publish()
        return norm

    def _sum_over_ranks(self) -> None:
        """Adds up the gradients of all ranks; one that no rank has stays absent."""
        if self._ranks.size == 1:
            return
        anywhere = set().union(*self._ranks.gather(sorted(self._summed), "which gradients there are"))
        for name in self._trained:
            if name in anywhere:
                if name not in self._summed:
                    self._sums[name] = torch.zeros_like(self._masters[name])
                self._ranks.sum_(self._sums[name], f"the gradient of {name}")
        self._summed = anywhere

    def _publish(self) -> None:
        """Copies the float32 weights into the module (nothing to do where they share their storage)."""
        for name, parameter in self._module.items():
            if parameter.data_ptr() != self._masters[name].data_ptr():
                parameter.data.copy_(self._masters[name])

    def weights(self) -> Mapping[str, Tensor]:
        """The float32 weights by parameter name."""
        return self._masters

    def state(self) -> LearnerState:
        """Copies of weights and moments, and the number of steps taken."""
        if not self._ranks.first:
            return LearnerState({"optimizer_steps": self._steps}, {})
        # Kept in main memory: a second copy of everything would not fit beside the first on a GPU.
        tensors = {WEIGHT + name: _host_copy(master) for name, master in self._masters.items()}
        for name in self._trained:
            moments = self._rules[name].current(self._masters[name])
            tensors |= {f"{moment}/{name}": _host_copy(tensor) for moment, tensor in moments.items()}
        return LearnerState({"optimizer_steps": self._steps}, tensors)

    @torch.no_grad()
    def load_state(self, steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave; raises ValueError, before anything changes, for another model's state."""
        tensors = self._ranks.share_tensors(tensors, "the state to go on from")
        moments = {name: self._rules[name].blank(self._masters[name]) if steps else {} for name in self._trained}
        wanted = {WEIGHT + name: master.shape for name, master in self._masters.items()}
        wanted |= {f"{key}/{name}": blank.shape for name, blanks in moments.items() for key, blank in blanks.items()}
        strange = sorted(wanted.keys() ^ tensors.keys())
        if strange:
            other = "model" if any(name.startswith(WEIGHT) for name in strange) else "optimizer"
            raise ValueError(
                f"the state is of another {other}: {len(strange)} tensors do not match, first '{strange[0]}'"
            )
        for name, shape in wanted.items():
            if tensors[name].shape != shape:
                raise ValueError(
                    f"the state is of another model: '{name}' is {tuple(tensors[name].shape)}, expected {tuple(shape)}"
                )
        self._steps = steps
        for name, master in self._masters.items():
            master.copy_(tensors[WEIGHT + name])
        for rule in dict.fromkeys(self._rules.values()):
            rule.forget()
        for name in self._trained if steps else ():
            restored = {key: blank.copy_(tensors[f"{key}/{name}"]) for key, blank in moments[name].items()}
            self._rules[name].restore(self._masters[name], restored, steps)
        self._publish()


def _ends(policy: Policy, parameters: Mapping[str, Tensor]) -> set[str]:
    """Names of the embeddings and of the output projection."""
    module = policy.module
    ends = (module.get_input_embeddings(), module.get_output_embeddings())  # type: ignore[no-untyped-call]
    own = {id(parameter) for end in ends if end is not None for parameter in end.parameters()}
    return {name for name, parameter in parameters.items() if id(parameter) in own}


def _host_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
