from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thinkrl.models.tiny import tiny_tokenizer
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec


@dataclass
class ScriptedSampler:
    """Gives scripted ids, one script after another over all samples, and remembers what it was asked."""

    scripts: list[list[int]]
    reason: FinishReason = FinishReason.STOP
    version: int = 7
    asked: list[SampleRequest] = field(default_factory=list)

    def sample(self, requests: Any, spec: SamplingSpec) -> list[list[Sample]]:
        self.asked += requests
        made = iter(range(10**6))
        return [[self._one(next(made)) for _ in request.stream_keys] for request in requests]

    def sync(self, version: int) -> str:
        return ""

    def _one(self, index: int) -> Sample:
        ids = np.asarray(self.scripts[index % len(self.scripts)], dtype=np.int32)
        logprobs = -np.arange(1, len(ids) + 1, dtype=np.float32)
        return Sample(ids, logprobs, -logprobs, self.reason, self.version)


@pytest.fixture
def scripted() -> type[ScriptedSampler]:
    return ScriptedSampler


@pytest.fixture
def policy() -> Any:
    tokenizer = tiny_tokenizer("byte", ("<think>", "</think>", "<answer>", "</answer>"))
    return SimpleNamespace(tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}), name="scripted")
