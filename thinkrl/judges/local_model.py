"""A judge's model in this process: any sampling engine on any policy folder."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from thinkrl.config.component import ConfigError
from thinkrl.data.chat import ChatRenderer
from thinkrl.judges.backend import Arrived, Surroundings
from thinkrl.judges.judgement import Call, Reply
from thinkrl.models.policy import Policy
from thinkrl.models.source import ModelSource
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplerSource, SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """Asks a model that is loaded beside the policy; torch or vLLM samples its replies, torch reads its options."""

    model: ModelSource | None = None
    """The model, such as a folder of weights; null takes the recipe's."""
    model_from: str = "base"
    """Its weights: `base`, or those that an earlier stage of the recipe made, by its name."""
    sampler: SamplerSource = field(default_factory=TorchSampler)
    """Sampling engine."""
    batch_seconds: float = 3600.0
    """Calls of a batch that have not begun by then have a fault."""
    at_once: int = 64
    """Calls handed to the engine at a time."""

    def __post_init__(self) -> None:
        if not self.batch_seconds > 0:
            raise ValueError(f"batch_seconds must be above 0, got {self.batch_seconds}")
        if self.at_once < 1:
            raise ValueError(f"at_once must be at least 1, got {self.at_once}")

    def check(self, sampling: SamplingSpec) -> None:
        """Looks for the sampling engine."""
        self.sampler.check()

    def open(self, surroundings: Surroundings) -> "OpenLocalModel":
        """Loads the model."""
        source = self.model or surroundings.model
        if source is None:
            raise ConfigError("a judge in this process needs a model: set backend.model")
        policy = source.load(surroundings.weights(self.model_from), seed=surroundings.seed)
        sampler = self.sampler.open(policy)
        surroundings.closing.callback(sampler.close)
        return OpenLocalModel(self, policy, sampler)


class OpenLocalModel:
    """A loaded model; see `OpenBackend` for the contract."""

    def __init__(self, config: LocalModel, policy: Policy, sampler: Sampler) -> None:
        self._config = config
        self._policy = policy
        self._sampler = sampler
        self._renderer = ChatRenderer(policy.tokenizer)
        self._weights = weights_checksum(policy.named_weights())

    @property
    def identity(self) -> Mapping[str, Any]:
        """The weights and the template, wherever they came from, and the engine."""
        engine = type(self._sampler).__name__
        return {
            "kind": "local_model",
            "weights": self._weights,
            "template": self._renderer.fingerprint,
            "engine": engine,
        }

    def ask(self, calls: Sequence[Call], sampling: SamplingSpec, arrived: Arrived) -> list[Reply]:
        """A reply to each call, in order."""
        replies: list[Reply] = []
        begun = time.monotonic()
        for start in range(0, len(calls), self._config.at_once):
            part = calls[start : start + self._config.at_once]
            if time.monotonic() - begun > self._config.batch_seconds:
                late = f"not asked before the batch's {self._config.batch_seconds:g} s were over"
                found = [Reply(fault=late, attempts=0)] * len(part)
            else:
                found = self._answers(part, sampling)
            for reply in found:
                arrived(len(replies), reply)
                replies.append(reply)
        return replies

    def _answers(self, calls: Sequence[Call], sampling: SamplingSpec) -> list[Reply]:
        prompts = [self._renderer.prompt_ids(call.messages) for call in calls]
        faults = [
            self._too_long(ids, 0 if c.options else sampling.max_new_tokens)
            for ids, c in zip(prompts, calls, strict=True)
        ]
        replies = [Reply(fault=fault) for fault in faults]
        written = [place for place, call in enumerate(calls) if not faults[place] and not call.options]
        requests = [SampleRequest(prompts[place], (calls[place].key,)) for place in written]
        for place, (sample,) in zip(written, self._sampler.sample(requests, sampling), strict=True):
            replies[place] = self._reply(sample)
        for place, call in enumerate(calls):
            if not faults[place] and call.options:
                replies[place] = Reply(options=self._options(prompts[place], call.options))
        return replies

    def _too_long(self, prompt_ids: Any, new_tokens: int) -> str:
        positions = getattr(self._policy.module.config, "max_position_embeddings", None)
        if positions is None or len(prompt_ids) + new_tokens <= positions:
            return ""
        return f"a prompt of {len(prompt_ids)} tokens and {new_tokens} new ones do not fit {positions} positions"

    def _reply(self, sample: Sample) -> Reply:
        ids = [int(token) for token in sample.token_ids]
        if sample.finish_reason is FinishReason.STOP and ids and ids[-1] in self._policy.stop_ids:
            ids.pop()
        text = self._policy.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return Reply(str(text), cut=sample.finish_reason is FinishReason.LENGTH)

    @torch.inference_mode()
    def _options(self, prompt_ids: Any, options: Sequence[str]) -> dict[str, float]:
        """Log-probability that the reply begins with each option: the sum over the option's tokens."""
        tokenizer, module = self._policy.tokenizer, self._policy.module
        tokens = {option: [int(t) for t in tokenizer.encode(option, add_special_tokens=False)] for option in options}
        logprobs: dict[tuple[int, ...], torch.Tensor] = {}
        found = {}
        for option, ids in tokens.items():
            if not ids:
                continue
            before = tuple(ids[:-1])
            if before not in logprobs:
                whole = np.concatenate([prompt_ids, np.asarray(before, dtype=np.int64)]).astype(np.int64)
                logits = module(input_ids=torch.from_numpy(whole)[None].to(self._policy.device), use_cache=False).logits
                logprobs[before] = logits[0, len(prompt_ids) - 1 :].float().log_softmax(-1)
            rows = logprobs[before]
            found[option] = float(sum(rows[place, token] for place, token in enumerate(ids)))
        return found
