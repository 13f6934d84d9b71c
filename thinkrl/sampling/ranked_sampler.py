"""Sampling by several processes: each draws the samples of its own prompts, and all get all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinkrl.parallel.ranks import Ranks
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplingSpec

_KINDS = (Sample, FinishReason)


def engine_name(sampler: Sampler) -> str:
    """The name of the engine that draws the samples, whether by one process or by several."""
    return type(sampler.inner if isinstance(sampler, RankedSampler) else sampler).__name__


@dataclass(frozen=True, eq=False)
class RankedSampler:
    """Deals whole requests out to the ranks, one after the other; `inner` is this rank's sampler.

    Every rank calls it with the same requests. What is drawn does not depend on the number of ranks, because a
    sample depends on its own request alone.
    """

    inner: Sampler
    ranks: Ranks

    @property
    def version(self) -> int:
        """Version of the weights held."""
        return self.inner.version

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        """For each request, one sample per stream key, in order."""
        own = requests[self.ranks.rank :: self.ranks.size]
        parts = self.ranks.gather(self.inner.sample(own, spec) if own else [], "samples", _KINDS)
        return [parts[index % self.ranks.size][index // self.ranks.size] for index in range(len(requests))]

    def sync(self, version: int) -> str:
        """Takes over the policy's weights; RuntimeError when ranks then hold different ones."""
        checksums = self.ranks.gather(self.inner.sync(version), "checksums of the weights")
        if len(set(checksums)) > 1:
            raise RuntimeError(f"ranks hold different weights after version {version}: {', '.join(checksums)}")
        return str(checksums[0])

    def close(self) -> None:
        """Frees what this rank's sampler holds."""
        self.inner.close()
