"""vLLM inside the training process, on the same device."""

import gc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from thinkrl.config.component import UserError
from thinkrl.models.policy import Policy
from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.vllm_engine import (
    VLLMEngine,
    check_logprobs,
    check_weights,
    engine_environment,
    engine_folder,
    import_vllm,
    require_vllm,
)
from thinkrl.sampling.vllm_requests import Answer, Call, VLLMRequests

_NAME = "the vLLM engine in this process"


@dataclass(frozen=True, kw_only=True)
class VLLMSampler(VLLMEngine):
    """Samples with vLLM in the training process: weights are handed over as they lie in memory."""

    sleep: bool = False
    """Moves the engine's weights off the GPU and drops its caches while the learner works; GPUs only."""

    def open(self, policy: Policy) -> "OpenVLLMSampler":
        """A sampler that holds the policy's current weights as version 0."""
        require_vllm()
        if self.sleep and policy.device.type != "cuda":
            raise UserError(
                f"sampler.sleep must be false on {policy.device.type}: only a GPU's memory can be handed back"
            )
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise UserError("sampler=vllm runs in a single process; a learner of several needs sampler=vllm_server")
        sampler = OpenVLLMSampler(self, policy)
        try:
            sampler.sync(0)
        except BaseException:
            sampler.close()
            raise
        return sampler


class OpenVLLMSampler:
    """Holds weights of a known version in an engine of its own; see `Sampler` for the contract."""

    def __init__(self, config: VLLMSampler, policy: Policy) -> None:
        self._config = config
        self._policy = policy
        self._version = 0
        self._awake = True
        self._requests = VLLMRequests(policy, config.positions(policy))
        self._owns_groups = not torch.distributed.is_initialized()
        with engine_folder(policy) as folder, _visiting():
            self._engine: Any = _start({**config.arguments(policy, folder), "enable_sleep_mode": config.sleep})

    @property
    def version(self) -> int:
        """Version of the weights held."""
        return self._version

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        """For each request, one sample per stream key, in order; entropies are NaN.

        Raises what `VLLMRequests.sample` raises.
        """
        self._wake()
        try:
            return self._requests.sample(self._generate, requests, spec, self._version)
        finally:
            self._sleep()

    def sync(self, version: int) -> str:
        """Takes over the policy's current weights, drops every cache, and returns the checksum of what is held.

        Raises RuntimeError when the engine holds anything else afterwards, or samples with other log-probabilities.
        """
        self._wake()
        sent = weights_checksum(self._policy.named_weights())
        weights = self._policy.named_weights()
        (report,) = self._engine.collective_rpc("thinkrl_take", kwargs={"weights": weights, "version": version})
        if not self._engine.reset_prefix_cache():
            raise RuntimeError(f"{_NAME} did not drop its prefix cache")
        check_weights(_NAME, sent, report, version)
        self._version = version
        check_logprobs(_NAME, self._generate, self._policy, self._config.bound(self._policy))
        return str(report["checksum"])

    def close(self) -> None:
        """Shuts the engine down and frees its memory."""
        if self._engine is None:
            return
        with _visiting():
            self._engine.llm_engine.engine_core.shutdown()
            self._engine = None
            gc.collect()
            if self._owns_groups and torch.distributed.is_initialized():
                groups = import_vllm("vllm.distributed.parallel_state")
                groups.destroy_model_parallel()
                groups.destroy_distributed_environment()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _generate(self, calls: Sequence[Call]) -> list[Answer]:
        sampling_params = import_vllm("vllm").SamplingParams
        if not calls:
            return []
        # The engine draws from the global generator too, though nothing reads what it draws there.
        with torch.random.fork_rng(devices=[]):
            outputs = self._engine.generate(
                [{"prompt_token_ids": call.prompt_ids} for call in calls],
                [sampling_params(**call.parameters, detokenize=bool(call.parameters["stop"])) for call in calls],
                use_tqdm=False,
            )
        return [_answer(output.outputs[0]) for output in outputs]

    def _wake(self) -> None:
        if not self._awake:
            torch.cuda.empty_cache()  # the engine takes its memory from the device, not from what torch keeps
            self._engine.wake_up()
            self._awake = True

    def _sleep(self) -> None:
        if self._config.sleep and self._awake:
            self._engine.sleep(level=1)
            self._awake = False


def _answer(output: Any) -> Answer:
    ids = [int(token) for token in output.token_ids]
    return Answer(ids, [float(step[token].logprob) for step, token in zip(output.logprobs, ids, strict=True)])


def _start(arguments: dict[str, Any]) -> Any:
    os.environ.update(engine_environment())
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # The engine runs here, so that weights need not be copied to reach it.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    platform = import_vllm("vllm.platforms").current_platform
    if platform.is_cpu():
        # Otherwise a one-line comparison is compiled for fifteen seconds at the first token.
        type(platform).simple_compile_backend = "eager"
    return import_vllm("vllm").LLM(**arguments, disable_log_stats=True)


@contextmanager
def _visiting() -> Iterator[None]:
    """Puts back what an engine changes in the process it runs in: random states, the number of threads, and what the
    garbage collector leaves alone. vLLM collects several times; what was there before it need not be searched."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    hook = sys.excepthook
    gc.freeze()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        sys.excepthook = hook
        gc.unfreeze()
