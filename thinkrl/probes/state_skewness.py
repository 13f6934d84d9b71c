"""How skewed are the choices that a policy makes along its own responses?"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from thinkrl.probes.action_entropy import entropy, phi
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.distribution import processed_logprobs
from thinkrl.sampling.sampler import SamplingSpec

_CHUNK = 64
"""States whose whole distributions exist at a time."""


@dataclass(frozen=True, eq=False)
class States:
    """One entry for each sampled token, [t], of the distribution that it was drawn from.

    phi, actions: Phi and the number K of tokens it is taken over. entropies: in nats. largest: the greatest
    probability.
    """

    phi: NDArray[np.float64]
    actions: NDArray[np.float64]
    entropies: NDArray[np.float64]
    largest: NDArray[np.float64]

    def metrics(self) -> dict[str, float]:
        """Means over states, and the share of states with Phi below 0, by metric name."""
        return {
            "states/phi": float(np.mean(self.phi)),
            "states/skewed": float(np.mean(self.phi < 0)),
            "states/actions": float(np.mean(self.actions)),
            "states/entropy": float(np.mean(self.entropies)),
            "states/largest_probability": float(np.mean(self.largest)),
        }


@torch.no_grad()
def measure_states(module: PreTrainedModel, rollouts: Rollouts, spec: SamplingSpec, least: float = 1e-6) -> States:
    """Reads every response once with `module`, and measures the distribution that `spec` makes of each state.

    The mean of Phi over the states of a policy's own responses tells which way coins for rewards would move its
    entropy without clipping (arXiv 2512.16912): up where it is below 0. least: tokens below it count for nothing.
    """
    device = next(module.parameters()).device
    columns: list[list[NDArray[np.float64]]] = [[], [], [], []]
    for row in range(len(rollouts)):
        prompt = rollouts.groups[int(rollouts.group_index[row])].prompt_ids
        ids = torch.from_numpy(np.concatenate([prompt, rollouts.token_ids[row]]).astype(np.int64)).to(device)
        drawn = np.flatnonzero(rollouts.origins.with_values(rollouts.sampled)[row]) + len(prompt)
        logits = module(ids[None], use_cache=False).logits[0]
        for start in range(0, len(drawn), _CHUNK):
            states = logits[torch.from_numpy(drawn[start : start + _CHUNK] - 1).to(device)]
            p = processed_logprobs(states, spec).exp().double().cpu().numpy()
            for column, values in zip(columns, (*phi(p, least), entropy(p), p.max(axis=-1)), strict=True):
                column.append(values)
    return States(*(np.concatenate(column) if column else np.zeros(0) for column in columns))
