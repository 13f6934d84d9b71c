"""The contract of a sampler: a specification that is honoured to the letter, and a version for every token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.config.component import NewTokens
from thinkrl.rollouts.store import FinishReason

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy


@dataclass(frozen=True)
class ThinkingBudget:
    """Cuts thinking short: a sample without `end` after `tokens` sampled tokens is given `insert`, and goes on.

    The inserted tokens are given ones: they carry no loss and no log-probability, and count towards
    `max_new_tokens`. This is budget forcing as in s1 (arXiv 2501.19393, section 3.1).
    """

    tokens: int
    """Sampled tokens after which thinking is cut."""
    insert: str
    """Text appended at the cut, encoded on its own, such as `</think>` and the opening of an answer."""
    end: str = "</think>"
    """A sample whose text already contains this is never cut."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        for name in ("insert", "end"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class SamplingSpec:
    """How tokens are drawn. Sampler and learner both honour all of it or refuse; nothing else leaks in."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_p: float = 1.0
    """Keeps the smallest set of most likely tokens whose mass reaches this; 1 keeps all."""
    top_k: int = 0
    """Keeps this many most likely tokens; 0 keeps all."""
    min_p: float = 0.0
    """Drops tokens less likely than this fraction of the most likely one; 0 drops none."""
    max_new_tokens: NewTokens = 512
    """A response is cut here with finish reason `length`."""
    stop: tuple[str, ...] = ()
    """Ends a response when its text contains one of these; the text keeps the stop string."""
    budget: ThinkingBudget | None = None
    """Cuts thinking after so many tokens and goes on with an inserted text; null lets it run."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or more, and finite, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (all) or more, got {self.top_k}")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p must be at least 0 and below 1, got {self.min_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.budget is not None and self.budget.tokens >= self.max_new_tokens:
            raise ValueError(
                f"budget.tokens must be below max_new_tokens {self.max_new_tokens}, got {self.budget.tokens}"
            )


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One prompt (int32 [p]) and a random stream key per response wanted.

    A response depends on its key, its prompt, the specification and the weights alone,
    not on what else is in the batch (up to floating-point near-ties).
    """

    prompt_ids: NDArray[np.int32]
    stream_keys: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """A sampled continuation; arrays are [t]. The stop token, if one was drawn, is the last token.

    logprobs and entropies (nats) are those of the distribution the token was drawn from; NaN where a token
    was inserted. sampled: false where a token was inserted by the thinking budget; None when none was.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    finish_reason: FinishReason
    version: int
    sampled: NDArray[np.bool_] | None = None


class Sampler(Protocol):
    """An open sampler that holds weights of a known version."""

    @property
    def version(self) -> int:
        """Version of the weights held: the learner's optimizer step count when they were taken over."""
        ...

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        """For each request, one sample per stream key, in order."""
        ...

    def sync(self, version: int) -> str:
        """Takes over the policy's current weights (`Policy.named_weights`), drops every cache, and returns the
        checksum of what is held, which equals `weights_checksum` of the weights taken over."""
        ...

    def close(self) -> None:
        """Frees what the sampler holds (engines, processes). It may be called more than once."""
        ...


class SamplerSource(Protocol):
    """A sampling engine's configuration: a frozen dataclass that opens a sampler on a policy."""

    def check(self) -> None:
        """Raises UserError when the engine is not installed. Asked before anything loads."""
        ...

    def open(self, policy: "Policy") -> Sampler:
        """A sampler that holds the policy's current weights as version 0."""
        ...
