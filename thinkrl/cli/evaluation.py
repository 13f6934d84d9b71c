"""The configuration of `thinkrl evaluate`."""

from dataclasses import dataclass, field

from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.config.scale import Scale
from thinkrl.models.source import ModelSource
from thinkrl.sampling.sampler import SamplerSource


@dataclass(frozen=True)
class Evaluation:
    """A model measured on a benchmark."""

    model: ModelSource
    """The model that answers."""
    benchmark: Benchmark
    """What is asked, and how it is graded."""
    sampler: SamplerSource
    """Sampling engine."""
    seed: int = 0
    """Every sample is a function of this seed, its prompt and its number."""
    scale: Scale = field(default_factory=Scale)
    """Caps on sizes; `scale=smoke` asks a few prompts."""
