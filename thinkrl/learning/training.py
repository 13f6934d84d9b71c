"""One optimizer step: its settings, and the loop over micro-batches that ends in one division."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from transformers import PreTrainedModel

from thinkrl.algorithms.types import LossOutputs, UpdateReport
from thinkrl.learning.columns import Sums
from thinkrl.learning.optimizer import MasterOptimizer, Optimizer
from thinkrl.learning.packing import Path, Row
from thinkrl.learning.schedule import Schedule, learning_rate_at
from thinkrl.learning.scorer import Scorer, check_shareable
from thinkrl.learning.shares import own_batches, pack_for
from thinkrl.learning.update_rules import OptimizerName, check_available
from thinkrl.models.policy import Policy
from thinkrl.parallel.ranks import Ranks


@dataclass(frozen=True)
class Training:
    """How float32 weights are stepped, and how responses are batched for it."""

    learning_rate: float = 1e-6
    """Peak learning rate."""
    optimizer: OptimizerName = "adamw"
    """`adamw`; `adamw_8bit`, which keeps moments in a quarter of the memory (needs bitsandbytes); or `muon` for
    matrices within the blocks with `adamw` for all else, at learning rates like AdamW's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's first and second moment."""
    epsilon: float = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices; norms and biases do not decay."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises to its peak."""
    schedule: Schedule = "constant"
    """What the learning rate does after warmup: stay, or fall until the last step."""
    final_share: float = 0.0
    """Share of the peak that a falling learning rate falls to."""
    max_gradient_norm: float | None = 1.0
    """Clips the gradient to this norm; null does not clip."""
    row_tokens: int = 2048
    """Tokens a row holds; a longer response has a row of its own. What a group shares is computed once for each of
    the rows that the group needs."""
    micro_batch_tokens: int = 2048
    """Tokens of one forward and backward pass, padding included where there is any. Changes speed and memory, never
    the gradient."""
    share_prompts: bool = True
    """Computes equal beginnings (the prompt of a group, and as far as responses agree) once, where that costs less
    (see `Scorer.sharing_pays`); false gives every response a row of its own."""
    gradient_checkpointing: bool = False
    """Recomputes each layer in the backward pass: less memory, a third more time."""
    compiled: bool = True
    """On a processor, uses kernels in C, compiled once per machine, where there is a C compiler. Their numbers differ
    from torch's by rounding."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share must be between 0 and 1, got {self.final_share}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be at least 0 and below 1, got {self.betas}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be above 0, got {self.epsilon}")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise ValueError(f"max_gradient_norm must be above 0, got {self.max_gradient_norm}")
        for name in ("row_tokens", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def check(self) -> None:
        """Raises ConfigError when the optimizer's package is not installed."""
        check_available(self.optimizer)

    @property
    def drops_inputs(self) -> bool:
        """Whether a pass in training leaves inputs out by chance."""
        return False

    def prepare(self, module: PreTrainedModel) -> None:
        """Refuses a module that cannot be trained as configured, and readies one that can."""
        if self.share_prompts:
            check_shareable(module)
        if (self.gradient_checkpointing or self.drops_inputs) and getattr(module.config, "attention_dropout", None):
            raise ValueError(
                "gradient_checkpointing must be false, and adapter.dropout 0, for a model with attention dropout"
            )
        if self.gradient_checkpointing:
            module.gradient_checkpointing_enable({"use_reentrant": False})
        # transformers gives the padding id's embedding no gradient, and the padding id is often one that ends turns.
        module.get_input_embeddings().padding_idx = None  # type: ignore[assignment]

    def optimizer_of(self, policy: Policy) -> MasterOptimizer:
        """The optimizer over the float32 weights of `policy`."""
        return MasterOptimizer(
            policy, betas=self.betas, epsilon=self.epsilon, weight_decay=self.weight_decay, rule=self.optimizer
        )

    def batches(self, scorer: Scorer, paths: Sequence[Path], ranks: Ranks) -> list[list[Row]]:
        """The micro-batches of this rank, as many as every other rank's."""
        share = self.share_prompts and scorer.sharing_pays(paths, self.row_tokens)
        rows = pack_for(ranks.size, paths, self.row_tokens, share=share)
        return own_batches(rows, self.micro_batch_tokens, ranks, joined=scorer.joins)

    def step(
        self,
        optimizer: Optimizer,
        batches: Sequence[list[Row]],
        loss: Callable[[list[Row]], LossOutputs],
        sums: Sums,
        *,
        version: int,
        total_steps: int,
        ranks: Ranks,
        count: float | None = None,
    ) -> UpdateReport:
        """Forward and backward over all micro-batches, then the one division and the optimizer step.

        Without any count the weights stay as they are.

        Args:
            loss: the sum and count of a micro-batch, with its graph.
            sums: what is known of the step before; the micro-batches are added to it.
            version: steps done before this one, of `total_steps`.
            count: what all counts will add up to, for optimizers that divide as they go; None where nobody knows yet.
        """
        seconds = {"forward": 0.0, "backward": 0.0, "optimizer": 0.0}
        rate = learning_rate_at(
            version, total_steps, self.learning_rate, self.warmup_steps, self.schedule, self.final_share
        )
        try:
            for rows in batches:
                with _timed(seconds, "forward"):
                    outputs = loss(rows)
                    sums.add(outputs)
                with _timed(seconds, "backward"):
                    optimizer.backward(outputs.loss.total, 1.0 if count is None else count)
            sums.add_ranks(ranks)
        except BaseException:
            optimizer.discard()
            raise
        if count is not None and not math.isclose(sums.count, count, rel_tol=1e-9):
            optimizer.discard()
            raise RuntimeError(f"the objective counts {sums.count} where it announced {count} before its losses")
        norm = 0.0
        if sums.count:
            with _timed(seconds, "optimizer"):
                norm = optimizer.step(sums.count if count is None else count, rate, self.max_gradient_norm)
        else:
            optimizer.discard()
        return UpdateReport(version + 1, sums.loss, norm, rate, sums.metrics(), seconds)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] += time.perf_counter() - start
