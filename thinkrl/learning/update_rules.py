"""What a step makes of a gradient: AdamW, AdamW with 8-bit moments, or Muon; all on float32 weights."""

import importlib
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from thinkrl.config.component import ConfigError

OptimizerName = Literal["adamw", "adamw_8bit", "muon"]

MUON_MOMENTUM = 0.95
"""Decay of Muon's momentum, with Nesterov's correction, as published with it."""
QUANTIZED_FROM = 4096
"""Smallest number of weights whose moments are kept in 8 bits; fewer cost nothing in float32."""
QUANTIZED_BLOCK = 256
"""Moments that share one scale."""


class UpdateRule(Protocol):
    """Steps some of the weights by their `.grad`, and keeps their moments."""

    def step(self, learning_rate: float) -> None:
        """Steps each weight that has a gradient, and drops the gradients."""
        ...

    def current(self, weight: Tensor) -> Mapping[str, Tensor]:
        """The moments of a weight as they are, by name; none before its first step."""
        ...

    def blank(self, weight: Tensor) -> dict[str, Tensor]:
        """Uninitialised moments of a weight, by name."""
        ...

    def restore(self, weight: Tensor, moments: Mapping[str, Tensor], steps: int) -> None:
        """Makes `moments` those of a weight that has been stepped `steps` times."""
        ...

    def forget(self) -> None:
        """Drops all moments."""
        ...


def update_rules(
    name: OptimizerName,
    weights: Mapping[str, Tensor],
    ends: Collection[str],
    *,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> dict[str, UpdateRule]:
    """The rule of each weight. Matrices decay, norms and biases do not.

    ends: names of embeddings and output projection, which Muon leaves to AdamW with norms and biases.
    """
    rules: dict[str, UpdateRule] = {}
    if name == "muon":
        hidden = [key for key, weight in weights.items() if weight.ndim == 2 and key not in ends]
        if hidden:
            rules |= dict.fromkeys(hidden, Muon([weights[key] for key in hidden], weight_decay))
    rest = [key for key in weights if key not in rules]
    if rest:
        kind = AdamW8bit if name == "adamw_8bit" else AdamW
        rules |= dict.fromkeys(rest, kind([weights[key] for key in rest], betas, epsilon, weight_decay))
    return rules


def check_available(name: OptimizerName) -> None:
    """Raises ConfigError for an optimizer whose package is not installed."""
    if name == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "learner.optimizer=adamw_8bit needs bitsandbytes, which is not installed: pip install bitsandbytes, or"
            " take adamw or muon"
        )


def _groups(weights: Sequence[Tensor]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.ndim >= 2]},
        {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


class _TorchRule:
    """A rule that a torch optimizer carries out."""

    moments: ClassVar[Sequence[str]]
    """Names of all tensors that may belong to a weight."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, learning_rate: float) -> None:
        """Steps each weight that has a gradient, and drops the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def current(self, weight: Tensor) -> Mapping[str, Tensor]:
        """The moments of a weight as they are."""
        return {key: value for key, value in self.optimizer.state.get(weight, {}).items() if key in self.moments}

    def blank(self, weight: Tensor) -> dict[str, Tensor]:
        """Uninitialised moments of a weight."""
        return {name: torch.empty_like(weight) for name in self.moments}

    def forget(self) -> None:
        """Drops all moments."""
        self.optimizer.state.clear()


class AdamW(_TorchRule):
    """arXiv 1711.05101, algorithm 2."""

    moments: ClassVar[Sequence[str]] = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, weights: Sequence[Tensor], betas: tuple[float, float], epsilon: float, weight_decay: float
    ) -> None:
        super().__init__(
            torch.optim.AdamW(_groups(weights), betas=betas, eps=epsilon, weight_decay=weight_decay, fused=True)
        )

    def restore(self, weight: Tensor, moments: Mapping[str, Tensor], steps: int) -> None:
        """Makes `moments` those of a weight that has been stepped `steps` times."""
        # The fused step wants its counter where the weights are.
        self.optimizer.state[weight] = {"step": torch.tensor(float(steps), device=weight.device), **moments}


class AdamW8bit(_TorchRule):
    """AdamW whose moments are kept in 8 bits, in blocks with a scale each (arXiv 2110.02861), by bitsandbytes."""

    moments: ClassVar[Sequence[str]] = ("state1", "state2", "absmax1", "absmax2")

    def __init__(
        self, weights: Sequence[Tensor], betas: tuple[float, float], epsilon: float, weight_decay: float
    ) -> None:
        check_available("adamw_8bit")
        optimizers: Any = importlib.import_module("bitsandbytes.optim")
        super().__init__(
            optimizers.AdamW8bit(
                _groups(weights), betas=betas, eps=epsilon, weight_decay=weight_decay, min_8bit_size=QUANTIZED_FROM
            )
        )

    def blank(self, weight: Tensor) -> dict[str, Tensor]:
        """Uninitialised moments of a weight."""
        if weight.numel() < QUANTIZED_FROM:
            return {name: torch.empty_like(weight) for name in ("state1", "state2")}
        blocks = -(-weight.numel() // QUANTIZED_BLOCK)
        codes = {name: torch.empty_like(weight, dtype=torch.uint8) for name in ("state1", "state2")}
        return codes | {name: weight.new_empty(blocks) for name in ("absmax1", "absmax2")}

    def restore(self, weight: Tensor, moments: Mapping[str, Tensor], steps: int) -> None:
        """Makes `moments` those of a weight that has been stepped `steps` times."""
        optimizer: Any = self.optimizer
        for number, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                if parameter is weight:
                    optimizer.init_state(group, parameter, number, place)  # with the tables that codes are read by
        optimizer.state[weight].update(moments, step=steps)


class Muon(_TorchRule):
    """Momentum made orthogonal by five Newton-Schulz steps (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    The step is scaled by 0.2 sqrt(max(m, n)), so that its root mean square, and with it the meaning of
    learning rate and decay, is that of AdamW (arXiv 2502.16982, eq. 4).
    """

    moments: ClassVar[Sequence[str]] = ("momentum_buffer",)

    def __init__(self, weights: Sequence[Tensor], weight_decay: float) -> None:
        super().__init__(
            torch.optim.Muon(
                weights,
                weight_decay=weight_decay,
                momentum=MUON_MOMENTUM,
                nesterov=True,
                adjust_lr_fn="match_rms_adamw",
            )
        )

    def restore(self, weight: Tensor, moments: Mapping[str, Tensor], steps: int) -> None:
        """Makes `moments` those of a weight; Muon does not count steps."""
        self.optimizer.state[weight] = dict(moments)
