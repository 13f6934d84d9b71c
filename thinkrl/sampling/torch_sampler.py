"""A sampler inside the training process, on the learner's own module."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from thinkrl.models.policy import Policy
from thinkrl.sampling.block_decoder import BlockDecoder, supports
from thinkrl.sampling.budget import BudgetRule
from thinkrl.sampling.checksum import weights_checksum, weights_probe
from thinkrl.sampling.decoder import Decoder, ModuleDecoder
from thinkrl.sampling.packed_prompts import common_beginning
from thinkrl.sampling.running_batch import RunningBatch, RunningSample, WaitingGroup
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.stops import StopRule
from thinkrl.sampling.stream import UniformStream


@dataclass(frozen=True)
class TorchSampler:
    """Plain torch sampling with a continuous batch: each prompt is read once for its whole group, samples that
    are still the same are computed once, finished samples leave, and waiting ones take their place."""

    batch_size: int = 64
    """Samples under way at once. More is faster until memory for keys and values runs out."""
    plain_forward: bool = False
    """Uses the module's own forward pass even where a faster decoder knows the architecture."""
    compiled: bool = True
    """On a processor, uses kernels in C, compiled once per machine, where there is a C compiler. Their numbers differ
    from torch's by rounding."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def check(self) -> None:
        """Nothing is needed beside torch."""

    def open(self, policy: Policy) -> "OpenTorchSampler":
        """A sampler that holds the policy's current weights as version 0."""
        fast = supports(policy.module) and not self.plain_forward
        decoder: Decoder = BlockDecoder(policy.module, compiled=self.compiled) if fast else ModuleDecoder(policy.module)
        return OpenTorchSampler(policy, decoder, self.batch_size)


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
        if not waiting:
            return [[] for _ in requests]
        done: list[list[Sample | None]] = [[None] * len(request.stream_keys) for request in requests]
        module = self._policy.module
        training = module.training
        stops = StopRule(self._policy.tokenizer, self._policy.stop_ids, spec)
        budget = None if spec.budget is None else BudgetRule(self._policy.tokenizer, spec.budget)
        batch = RunningBatch(self._decoder, stops, budget, spec, self._policy.device)
        module.train(False)
        try:
            rows = min(self._batch_size, sum(len(group.samples) for group in waiting))
            self._decoder.begin(rows, common_beginning([group.prompt for group in waiting]))
            while waiting or batch.samples:
                free = self._free(batch.samples, waiting)
                finished = batch.admit(waiting, free) if free else batch.step()
                for sample in finished:
                    done[sample.request][sample.place] = self._sample_of(sample)
        finally:
            self._decoder.end()
            module.train(training)
        return [[sample for sample in row if sample is not None] for row in done]

    def _free(self, running: int, waiting: Sequence[WaitingGroup]) -> int:
        """How many samples to start now: none until an eighth of the batch is free, to join in few steps."""
        free = self._batch_size - running
        left = sum(len(group.samples) for group in waiting)
        return free if left and free >= min(left, max(1, self._batch_size // 8)) else 0

    def _waiting(self, requests: Sequence[SampleRequest]) -> deque[WaitingGroup]:
        device = self._policy.device
        return deque(
            WaitingGroup(
                torch.from_numpy(request.prompt_ids.astype(np.int64)).to(device),
                deque(RunningSample(index, place, UniformStream(key)) for place, key in enumerate(request.stream_keys)),
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

    def _sample_of(self, sample: RunningSample) -> Sample:
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
