"""A policy whose weights stay while adapters on them learn."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from thinkrl.learning.adapters import Adapter, Low
from thinkrl.learning.learner import LearnerState
from thinkrl.learning.optimizer import MasterOptimizer
from thinkrl.learning.update_rules import OptimizerName
from thinkrl.models.policy import Policy
from thinkrl.sampling.checksum import weights_checksum

_BASE = "adapter_base"
"""Name of the checksum of the base weights among a state's tensors."""


def attach(adapter: Adapter, policy: Policy) -> "AdaptedPolicy":
    """Puts adapters on `policy`, whose samplers take merged weights from now on; its own weights, which are those of
    the base, stay in its compute precision and change no more.

    Raises ConfigError when `adapter.targets` names what cannot have an adapter.
    """
    from thinkrl.learning.injection import inject  # peft: only where it is used

    return AdaptedPolicy(adapter, policy, *inject(adapter, policy.module))


class AdaptedPolicy:
    """Three structures over one set of base weights.

    policy.module is plain; it holds base weights until a sampler inside this process asks for merged ones, which
    then take storage of their own. module has the adapters and is trained. base is plain and frozen: the reference
    model. low: the adapted weights of the plain model, by name.
    """

    def __init__(
        self,
        adapter: Adapter,
        policy: Policy,
        module: PreTrainedModel,
        base: PreTrainedModel,
        low: Mapping[str, Low],
    ) -> None:
        self.module, self.base = module, base
        self._adapter, self._low = adapter, low
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters = {name: parameter.detach().float() for name, parameter in trained.items()}
        for name, parameter in trained.items():
            if parameter.ndim >= 2:  # lengths are few, and a length rounded to bfloat16 would move W
                parameter.data = self.masters[name].to(policy.module.dtype)
        policy.masters = None
        policy.weight_stream = self._merged
        policy.lent = set(low)
        policy.write_adapter = self._write if adapter.export else None
        self.trained = replace(policy, module=module, masters=self.masters, weight_stream=None, lent=set())

    @torch.no_grad()
    def _merged(self) -> Iterator[tuple[str, Tensor]]:
        """The compute weights of the plain model: merged in float32 where adapted, else the base's own."""
        for name, parameter in self.base.named_parameters():
            yield name, self.merge(name, parameter).to(parameter.dtype) if name in self._low else parameter.detach()

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The float32 weights of the plain model, in main memory: a GPU that holds an adapter need not have room for
        the whole model in float32."""
        return {
            name: (self.merge(name, parameter) if name in self._low else parameter.detach().float()).cpu()
            for name, parameter in self.base.named_parameters()
        }

    def merge(self, name: str, base: Tensor) -> Tensor:
        """W' of the weight `name`, float32 and always a tensor of its own."""
        low = self._low[name]
        merged = base.detach().float().addmm(self.masters[low.b], self.masters[low.a], alpha=self._adapter.scale)
        if low.lengths is not None:
            merged *= (self.masters[low.lengths] / torch.linalg.vector_norm(merged, dim=1)).unsqueeze(1)
        return merged

    def fingerprint(self) -> Tensor:
        """What the adapter's numbers are relative to, uint8 [16]: base weights, scale, and kind."""
        digest = blake2b(weights_checksum(self.base.named_parameters()).encode(), digest_size=16)
        digest.update(f"{self._adapter.scale!r} {self._adapter.dora}".encode())
        return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

    def _write(self, folder: Path) -> None:
        from thinkrl.learning.injection import write_peft

        write_peft(self.module, self.masters, self.trained.name, folder)


class AdapterOptimizer(MasterOptimizer):
    """Steps the float32 weights of adapters. A state holds these and their moments, and names the base."""

    def __init__(
        self,
        adapted: AdaptedPolicy,
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        rule: OptimizerName = "adamw",
    ) -> None:
        super().__init__(adapted.trained, betas=betas, epsilon=epsilon, weight_decay=weight_decay, rule=rule)
        self._adapted = adapted
        self._base = adapted.fingerprint()

    def weights(self) -> Mapping[str, Tensor]:
        """The float32 weights of the plain model, merged."""
        return self._adapted.weights()

    def state(self) -> LearnerState:
        """Copies of the adapters' weights and moments, the checksum of the base, and the number of steps taken."""
        state = super().state()
        return LearnerState(state.values, state.tensors | {_BASE: self._base.clone()} if state.tensors else {})

    def load_state(self, steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave; raises ValueError, before anything changes, for a state of another model, base
        or scale."""
        tensors = self._ranks.share_tensors(tensors, "the state to go on from")
        base = tensors.get(_BASE)
        if base is None:
            raise ValueError("the state is of another model: it is not that of an adapter")
        if not torch.equal(base.cpu(), self._base):
            raise ValueError("the state is of an adapter on other base weights, or of another scale or kind")
        super().load_state(steps, {name: tensor for name, tensor in tensors.items() if name != _BASE})
