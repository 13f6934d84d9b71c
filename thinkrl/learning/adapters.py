"""Low-rank adapters: small trained matrices beside weights that stay as they are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Adapter:
    """W' = W + s B A with B [m, r] and A [r, n] trained and W [m, n] frozen (LoRA, arXiv 2106.09685); s = alpha / r,
    or alpha / sqrt(r) with `rslora` (arXiv 2312.03732).

    `dora` trains the length of each row too: W' = diag(l / |W + s B A|) (W + s B A), the norm taken over rows and
    held constant in the backward pass (arXiv 2402.09353, eq. 5 and section 4.3). A starts uniform in
    +-1 / sqrt(n), B at 0 and l at |W|, so that W' = W. The layers are peft's.
    """

    rank: int = 16
    """Columns of B and rows of A, r."""
    alpha: float = 32.0
    """Numerator of the scale s."""
    rslora: bool = False
    """Divides by the root of the rank, so that the scale of what is learned does not fall with rank."""
    dora: bool = False
    """Trains the length of each row of a weight apart from its direction."""
    dropout: float = 0.0
    """Share of inputs to A that are dropped in training; needs learner.share_prompts=false."""
    targets: tuple[str, ...] | None = None
    """Last names of the linear layers that get an adapter, such as q_proj; null takes all within the blocks."""
    seed: int = 0
    """Fixes where A starts, and dropout."""
    export: bool = False
    """Saves the adapter in peft's format too, in the folder `adapter` of the exported model."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if self.targets is not None and not self.targets:
            raise ValueError("targets must name a layer, or be null for all, got none")

    @property
    def scale(self) -> float:
        """The factor s of B A."""
        return float(self.alpha / (self.rank**0.5 if self.rslora else self.rank))


@dataclass(frozen=True)
class Low:
    """Names of the trained tensors of one adapted weight: A [r, n], B [m, r] and, with DoRA, the lengths l [m]."""

    a: str
    b: str
    lengths: str | None
