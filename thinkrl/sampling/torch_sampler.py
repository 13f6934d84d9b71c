"""A sampler inside the training process, on the learner's own module."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinkrl.models.policy import Policy
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.block_decoder import BlockDecoder, supports
from thinkrl.sampling.budget import BudgetRule
from thinkrl.sampling.checksum import weights_checksum, weights_probe
from thinkrl.sampling.decoder import Decoder, ModuleDecoder
from thinkrl.sampling.distribution import draw
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.stops import StopRule
from thinkrl.sampling.stream import UniformStream


@dataclass(frozen=True)
class TorchSampler:
    """Plain torch sampling with a continuous batch: each prompt is read once for its whole group,
    finished samples leave, and waiting ones take their place."""

    batch_size: int = 64
    """Samples under way at once. More is faster until memory for keys and values runs out."""
    plain_forward: bool = False
    """Uses the module's own forward pass even where a faster decoder knows the architecture."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def check(self) -> None:
        """Nothing is needed beside torch."""

    def open(self, policy: Policy) -> "OpenTorchSampler":
        """A sampler that holds the policy's current weights as version 0."""
        fast = supports(policy.module) and not self.plain_forward
        decoder: Decoder = BlockDecoder(policy.module) if fast else ModuleDecoder(policy.module)
        return OpenTorchSampler(policy, decoder, self.batch_size)


@dataclass(eq=False)
class _Running:
    """A sample under way: where it belongs, its random stream, and what it has so far."""

    request: int
    place: int
    stream: UniformStream
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    finish_reason: FinishReason | None = None

    @property
    def drawn(self) -> int:
        """Tokens drawn so far, which is the position in the random stream."""
        return len(self.token_ids) - self.sampled.count(False)


@dataclass(eq=False)
class _Waiting:
    """A prompt with samples still to start. `prefilled` is set while only part of them has started."""

    request: int
    prompt: Tensor
    samples: deque[_Running]
    prefilled: Any = None


class OpenTorchSampler:
    """Holds the policy's weights of a known version; see `Sampler` for the contract."""

    def __init__(self, policy: Policy, decoder: Decoder, batch_size: int) -> None:
        self._policy = policy
        self._decoder = decoder
        self._batch_size = batch_size
        self._version = 0
        self._probe = ""
        self.sync(0)

    @property
    def version(self) -> int:
        """Version of the weights held."""
        return self._version

    def sync(self, version: int) -> str:
        """Takes over the policy's current weights, drops every cache, returns a checksum of what is held."""
        self._decoder.end()
        self._policy.refresh_module()
        self._decoder.refresh()
        self._version = version
        self._probe = weights_probe(self._policy.module.named_parameters())
        return weights_checksum(self._policy.module.named_parameters())

    def close(self) -> None:
        """Drops the batch and its caches; the weights are the policy's own."""
        self._decoder.end()

    @torch.inference_mode()
    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        """For each request, one sample per stream key, in order.

        Raises ValueError for an empty prompt or one that leaves no room for `max_new_tokens` positions,
        RuntimeError when the weights have changed since the last `sync`.
        """
        self._check(requests, spec)
        waiting = self._waiting(requests)
        done: list[list[Sample | None]] = [[None] * len(request.stream_keys) for request in requests]
        module = self._policy.module
        training = module.training
        stops = StopRule(self._policy.tokenizer, self._policy.stop_ids, spec)
        budget = None if spec.budget is None else BudgetRule(self._policy.tokenizer, spec.budget)
        batch = _Batch(self._decoder, stops, budget, spec, self._policy.device)
        module.train(False)
        try:
            self._decoder.begin(min(self._batch_size, sum(len(w.samples) for w in waiting)))
            while waiting or batch.running:
                free = self._free(len(batch.running), waiting)
                finished = batch.admit(waiting, free) if free else batch.step()
                for sample in finished:
                    done[sample.request][sample.place] = self._sample_of(sample)
        finally:
            self._decoder.end()
            module.train(training)
        return [[sample for sample in row if sample is not None] for row in done]

    def _free(self, running: int, waiting: Sequence[_Waiting]) -> int:
        """How many samples to start now: none until an eighth of the batch is free, to join in few steps."""
        free = self._batch_size - running
        left = sum(len(w.samples) for w in waiting)
        return free if left and free >= min(left, max(1, self._batch_size // 8)) else 0

    def _waiting(self, requests: Sequence[SampleRequest]) -> deque[_Waiting]:
        device = self._policy.device
        return deque(
            _Waiting(
                index,
                torch.from_numpy(request.prompt_ids.astype(np.int64)).to(device),
                deque(_Running(index, place, UniformStream(key)) for place, key in enumerate(request.stream_keys)),
            )
            for index, request in enumerate(requests)
            if request.stream_keys
        )

    def _check(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> None:
        positions = getattr(self._policy.module.config, "max_position_embeddings", None)
        for request in requests:
            length = len(request.prompt_ids)
            if not length:
                raise ValueError("prompt_ids must hold at least one token, got none")
            if positions is not None and length + spec.max_new_tokens > positions:
                raise ValueError(
                    f"a prompt of {length} tokens and max_new_tokens={spec.max_new_tokens} do not fit "
                    f"the model's {positions} positions"
                )
        if weights_probe(self._policy.module.named_parameters()) != self._probe:
            raise RuntimeError(f"the weights changed after version {self._version} was taken over; call sync first")

    def _sample_of(self, sample: _Running) -> Sample:
        if sample.finish_reason is None:
            raise RuntimeError("a sample was handed over before it ended")
        return Sample(
            token_ids=np.asarray(sample.token_ids, dtype=np.int32),
            logprobs=np.asarray(sample.logprobs, dtype=np.float32),
            entropies=np.asarray(sample.entropies, dtype=np.float32),
            finish_reason=sample.finish_reason,
            version=self._version,
            sampled=None if all(sample.sampled) else np.asarray(sample.sampled, dtype=np.bool_),
        )


class _Batch:
    """The samples under way, in the order of the decoder's rows."""

    def __init__(
        self,
        decoder: Decoder,
        stops: StopRule,
        budget: BudgetRule | None,
        spec: SamplingSpec,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._stops = stops
        self._budget = budget
        self._spec = spec
        self._device = device
        self.running: list[_Running] = []

    def admit(self, waiting: deque[_Waiting], free: int) -> list[_Running]:
        """Starts up to `free` samples and draws the first token of each; returns those that end with it.

        A prompt is read when its first sample starts, and kept until its last one has started.
        """
        newcomers: list[_Running] = []
        logits: list[Tensor] = []
        while waiting and len(newcomers) < free:
            group = waiting[0]
            if group.prefilled is None:
                group.prefilled = self._decoder.prefill(group.prompt)
            count = min(free - len(newcomers), len(group.samples))
            self._decoder.join(group.prefilled, count)
            logits.append(group.prefilled.logits.expand(count, -1))
            newcomers += [group.samples.popleft() for _ in range(count)]
            if not group.samples:
                waiting.popleft()
        self.running += newcomers
        return self._draw(newcomers, torch.cat(logits))

    def step(self) -> list[_Running]:
        """Draws one more token for every sample; returns those that end with it."""
        return self._draw(self.running, self._decoder.step(self._last_ids()))

    def _last_ids(self) -> Tensor:
        return torch.tensor([sample.token_ids[-1] for sample in self.running], device=self._device)

    def _draw(self, samples: Sequence[_Running], logits: Tensor) -> list[_Running]:
        uniforms = torch.tensor([s.stream.at(s.drawn) for s in samples], dtype=torch.float64)
        draws = draw(logits, uniforms.to(logits.device), self._spec)
        columns = (draws.token_ids.tolist(), draws.logprobs.tolist(), draws.entropies.tolist())
        for sample, token_id, logprob, entropy in zip(samples, *columns, strict=True):
            if sample.forced:
                self._append(sample, sample.forced.popleft(), nan, nan, drawn=False)
                sample.finish_reason = self._stops.cut(len(sample.token_ids))
                continue
            self._append(sample, token_id, logprob, entropy, drawn=True)
            sample.finish_reason = self._stops.finished(sample.token_ids)
            if self._budget is not None and sample.finish_reason is None and all(sample.sampled):
                sample.forced.extend(self._budget.insertion(sample.token_ids))
        return self._release()

    @staticmethod
    def _append(sample: _Running, token_id: int, logprob: float, entropy: float, *, drawn: bool) -> None:
        sample.token_ids.append(token_id)
        sample.logprobs.append(logprob)
        sample.entropies.append(entropy)
        sample.sampled.append(drawn)

    def _release(self) -> list[_Running]:
        """Takes ended samples out of the batch, filling each gap from behind."""
        finished = [sample for sample in self.running if sample.finish_reason is not None]
        if finished:
            left = len(self.running) - len(finished)
            stay = [row for row, sample in enumerate(self.running) if sample.finish_reason is None]
            behind = iter(reversed([row for row in stay if row >= left]))
            inside = {row for row in stay if row < left}
            rows = [row if row in inside else next(behind) for row in range(left)]
            self._decoder.keep(rows)
            self.running = [self.running[row] for row in rows]
        return finished
