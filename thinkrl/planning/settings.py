"""What a plan reads of learners and samplers: their fields where they have them, and what an absent field means.

Engines come and go; a plan knows them by the settings that decide memory and work, not by their class.
"""

from dataclasses import dataclass
from typing import Any

from thinkrl.models.shapes import ModelShape

BFLOAT16, FLOAT32 = 2, 4
"""Bytes of a number."""
ADAM_BYTES = 8
"""Both moments of a weight in float32."""


@dataclass(frozen=True)
class LearnerSettings:
    """What decides a learner's memory and work; named like the fields they are read from."""

    micro_batch_tokens: int = 1024
    logits_chunk_tokens: int = 1024
    share_prompts: bool = True
    gradient_checkpointing: bool = False
    processes: int = 1
    zero_stage: int = 0
    offload: bool = False
    adapter_rank: int = 0
    moment_bytes: int = ADAM_BYTES

    @property
    def shards(self) -> int:
        """Processes that a partitioned tensor is spread over."""
        return self.processes if self.zero_stage else 1


@dataclass(frozen=True)
class SamplerSettings:
    """What decides a sampler's memory and work. engine: `torch` shares the learner's weights, `vllm` holds its own on
    the same device, `elsewhere` is another process or machine."""

    engine: str = "torch"
    batch_size: int = 64
    joined_copies: bool = True
    memory_fraction: float = 0.0
    kv_cache_gib: float | None = None
    sleep: bool = False


def read_learner(learner: object) -> LearnerSettings:
    """The settings of a learner component."""
    adapter: Any = getattr(learner, "adapter", None)
    return LearnerSettings(
        micro_batch_tokens=getattr(learner, "micro_batch_tokens", 1024),
        logits_chunk_tokens=getattr(learner, "logits_chunk_tokens", 1024),
        share_prompts=getattr(learner, "share_prompts", False),
        gradient_checkpointing=getattr(learner, "gradient_checkpointing", False),
        processes=getattr(learner, "processes", 1),
        zero_stage=getattr(learner, "zero_stage", 0),
        offload=_is_on(getattr(learner, "offload", None)),
        adapter_rank=0 if adapter is None else int(getattr(adapter, "rank", 0)),
        moment_bytes=_moment_bytes(getattr(learner, "optimizer", None)),
    )


def read_sampler(sampler: object, shape: ModelShape) -> SamplerSettings:
    """The settings of a sampler component for a model of `shape`."""
    plain = getattr(sampler, "plain_forward", None)
    engine = "torch" if plain is not None else "elsewhere"
    if hasattr(sampler, "memory_fraction") and hasattr(sampler, "sleep"):
        engine = "vllm"
    return SamplerSettings(
        engine=engine,
        batch_size=getattr(sampler, "batch_size", 64),
        joined_copies=plain is False and shape.family in ("llama", "mistral", "qwen2", "qwen3"),
        memory_fraction=getattr(sampler, "memory_fraction", 0.0),
        kv_cache_gib=getattr(sampler, "kv_cache_gib", None),
        sleep=getattr(sampler, "sleep", False),
    )


def _is_on(value: object) -> bool:
    return value not in (None, False, "none")


def _moment_bytes(optimizer: object) -> int:
    """Bytes of optimizer moments for each trained weight."""
    name = (optimizer if isinstance(optimizer, str) else type(optimizer).__name__).lower()
    if "8bit" in name:
        return 2
    return FLOAT32 if "muon" in name else ADAM_BYTES
