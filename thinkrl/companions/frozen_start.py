"""The policy as the stage starts from it: what it makes of every token that the policy writes later."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.learning.learner import LearnerState
from thinkrl.learning.packing import micro_batches, pack, rollout_paths
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.rewards.base_likelihood import BASE_LOGPROBS
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec


@dataclass(frozen=True)
class FrozenStart:
    """log p of each sampled token, under the whole distribution of the weights that the stage starts from."""

    batching: TorchLearner = field(default_factory=TorchLearner)
    """How responses are batched; nothing is trained."""

    def supplies(self) -> tuple[Signal, ...]:
        """The log-probabilities."""
        return (BASE_LOGPROBS,)

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, start: CompanionStart) -> Companion:
        """A copy of the policy."""
        return OpenFrozenStart(self, start)


class OpenFrozenStart:
    """A frozen copy."""

    def __init__(self, config: FrozenStart, start: CompanionStart) -> None:
        self._batching = config.batching
        module = copy.deepcopy(start.policy.module).requires_grad_(False).train(False)
        self._scorer = config.batching.scorer(module)

    def signals(self, rollouts: Rollouts) -> Mapping[str, Any]:
        """One number a token, NaN where it was given."""
        values = np.full(len(rollouts.token_ids.values), np.nan, dtype=np.float32)
        with torch.no_grad():
            paths = rollout_paths(rollouts, np.arange(len(rollouts)))
            share = self._batching.share_prompts and self._scorer.sharing_pays(paths, self._batching.row_tokens)
            packed = pack(paths, self._batching.row_tokens, share=share)
            for rows in micro_batches(packed, self._batching.micro_batch_tokens, joined=self._scorer.joins):
                scored = self._scorer(rows, SamplingSpec())
                values[scored.columns] = scored.logprobs.float().cpu().numpy()
        return {BASE_LOGPROBS.name: rollouts.token_ids.with_values(values)}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def state(self) -> LearnerState:
        """Empty."""
        return LearnerState({}, {})

    def load_state(self, state: LearnerState) -> None:
        """Nothing to restore."""

    def save(self, folder: Path) -> None:
        """Nothing to save."""
