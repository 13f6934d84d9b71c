"""What a plan reads of learners and samplers: their fields where they have them, and what an absent field means.

Engines come and go; a plan knows them by the settings that decide memory and work, not by their class.
"""

from dataclasses import dataclass
from typing import Any

from thinkrl.models.shapes import ModelShape

BFLOAT16, FLOAT32 = 2, 4
"""Bytes of a number."""
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""What the learner and the sampler have blocks of their own for."""


@dataclass(frozen=True)
class AdapterSettings:
    """Low-rank adapters: their rank, the linear layers that get one (None: all within the blocks), DoRA or not."""

    rank: int
    targets: tuple[str, ...] | None = None
    dora: bool = False


@dataclass(frozen=True)
class LearnerSettings:
    """What decides a learner's memory and work; named like the fields they are read from."""

    micro_batch_tokens: int = 2048
    logits_chunk_tokens: int = 1024
    share_prompts: bool = True
    gradient_checkpointing: bool = False
    processes: int = 1
    zero_stage: int = 0
    offload: str = "none"
    adapter: AdapterSettings | None = None
    optimizer: str = "adamw"

    @property
    def shards(self) -> int:
        """Processes that a partitioned tensor is spread over."""
        return self.processes if self.zero_stage else 1


@dataclass(frozen=True)
class SamplerSettings:
    """What decides a sampler's memory and work.

    engine: `torch` shares the learner's weights, `vllm` holds its own in the same process, `server` in another
    process on the same device, `elsewhere` on other devices.
    """

    engine: str = "torch"
    batch_size: int = 64
    joined_copies: bool = True
    memory_fraction: float = 0.0
    kv_cache_gib: float | None = None
    sleep: bool = False
    replicas: int = 1


def in_own_blocks(shape: ModelShape) -> bool:
    """Whether the learner and the sampler compute a model of `shape` in blocks of their own."""
    return shape.family in _FAMILIES


def read_learner(learner: object) -> LearnerSettings:
    """The settings of a learner component; a field that it has not is off."""
    adapter: Any = getattr(learner, "adapter", None)
    low = None if adapter is None else AdapterSettings(adapter.rank, adapter.targets, adapter.dora)
    return LearnerSettings(
        micro_batch_tokens=getattr(learner, "micro_batch_tokens", 1),
        logits_chunk_tokens=getattr(learner, "logits_chunk_tokens", 1 << 30),
        share_prompts=getattr(learner, "share_prompts", False),
        gradient_checkpointing=getattr(learner, "gradient_checkpointing", False),
        processes=getattr(learner, "processes", 1),
        zero_stage=getattr(learner, "zero_stage", 0),
        offload=getattr(learner, "offload", "none"),
        adapter=low,
        optimizer=getattr(learner, "optimizer", "adamw"),
    )


def read_sampler(sampler: object, shape: ModelShape) -> SamplerSettings:
    """The settings of a sampler component for a model of `shape`."""
    plain = getattr(sampler, "plain_forward", None)
    return SamplerSettings(
        engine=_engine(sampler),
        batch_size=getattr(sampler, "batch_size", 64),
        joined_copies=plain is False and in_own_blocks(shape),
        memory_fraction=getattr(sampler, "memory_fraction", 0.0),
        kv_cache_gib=getattr(sampler, "kv_cache_gib", None),
        sleep=getattr(sampler, "sleep", False),
        replicas=getattr(sampler, "replicas", 1),
    )


def _engine(sampler: object) -> str:
    if hasattr(sampler, "plain_forward"):
        return "torch"
    if hasattr(sampler, "replicas"):
        return "elsewhere" if getattr(sampler, "urls", ()) or getattr(sampler, "devices", ()) else "server"
    return "vllm" if hasattr(sampler, "memory_fraction") else "elsewhere"
