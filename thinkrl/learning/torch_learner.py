"""The learner in plain torch: token-budget micro-batches, one division, float32 weights."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from thinkrl.algorithms.types import Advantages, LossOutputs, Objective, SumCount, UpdateReport
from thinkrl.learning.adapted_policy import AdapterOptimizer, attach
from thinkrl.learning.adapters import Adapter
from thinkrl.learning.columns import Columns, Sums
from thinkrl.learning.learner import Example, LearnerState
from thinkrl.learning.optimizer import Optimizer
from thinkrl.learning.packing import Path, Row, example_paths, pack, rollout_paths
from thinkrl.learning.scorer import Scored, Scorer, ScoreRows
from thinkrl.learning.shares import NOTHING
from thinkrl.learning.training import Training
from thinkrl.models.policy import Policy
from thinkrl.parallel.ranks import ranks
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.sampling.sampler import SamplingSpec


@dataclass(frozen=True)
class TorchLearner(Training):
    """Steps float32 weights, or adapters on frozen ones; the module computes in its own precision.

    Losses and gradients are sums, added up over micro-batches in float32 and divided once by the count
    of the whole optimizer step, so that neither depends on how responses are batched.
    """

    logits_chunk_tokens: int = 1024
    """Rows of logits that exist at a time, each as wide as the vocabulary: at 152,000 words 1024 rows are 0.3 GB in
    bfloat16. Logits of a micro-batch that fits are made once, others again in the backward pass."""
    adapter: Adapter | None = None
    """Low-rank adapters that are trained in place of the weights; null trains the weights."""
    processes: int = 1
    """Processes that sample and learn together, each its share, on one machine or several. `thinkrl run` starts them,
    unless a launcher (torchrun, deepspeed, srun) did."""
    wait_minutes: float = 30.0
    """Longest that a process waits for the others, in minutes, before the run ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapter is not None and self.adapter.dropout and self.share_prompts:
            raise ValueError(
                "share_prompts must be false with adapter.dropout above 0, which would drop the same inputs of a prompt"
                " for all its responses, got true"
            )
        if not self.wait_minutes > 0:
            raise ValueError(f"wait_minutes must be above 0, got {self.wait_minutes}")
        for name in ("logits_chunk_tokens", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def needs_masters(self) -> bool:
        """Whether the policy must be loaded with float32 master weights: unless adapters are trained in their place."""
        return self.adapter is None

    @property
    def drops_inputs(self) -> bool:
        """Whether adapters drop some of their inputs in training."""
        return self.adapter is not None and self.adapter.dropout > 0

    def open(self, policy: Policy, total_steps: int, with_reference: bool) -> "OpenTorchLearner":
        """Takes `policy` for training.

        Args:
            policy: loaded for training; its module and master weights are changed in place by updates. With an
                adapter no masters are needed: its weights stay, and are the reference (`adapted_policy.attach`).
            total_steps: optimizer steps the schedule is laid over.
            with_reference: keeps a frozen copy of the present weights, in the module's precision.
        """
        if self.adapter is not None:
            return self._open_adapter(self.adapter, policy, total_steps, with_reference)
        self.prepare(policy.module)
        scorer = self.scorer(policy.module)
        reference = None
        if with_reference:
            reference = self.scorer(copy.deepcopy(policy.module).requires_grad_(False).train(False))
        return OpenTorchLearner(self, policy, total_steps, scorer, reference, self.optimizer_of(policy))

    def _open_adapter(
        self, adapter: Adapter, policy: Policy, total_steps: int, with_reference: bool
    ) -> "OpenTorchLearner":
        adapted = attach(adapter, policy)
        self.prepare(adapted.module)
        reference = self.scorer(adapted.base) if with_reference else None
        optimizer = AdapterOptimizer(
            adapted, betas=self.betas, epsilon=self.epsilon, weight_decay=self.weight_decay, rule=self.optimizer
        )
        return OpenTorchLearner(self, policy, total_steps, self.scorer(adapted.module), reference, optimizer)

    def scorer(self, module: PreTrainedModel) -> Scorer:
        """The forward pass over `module` as configured."""
        return Scorer(
            module,
            self.logits_chunk_tokens,
            branches=self.share_prompts,
            checkpointing=self.gradient_checkpointing,
            compiled=self.compiled,
        )


class OpenTorchLearner:
    """A `Learner` on one policy.

    scorer: the forward pass over the weights that are trained. reference: the same over the frozen starting
    weights, or None. optimizer: owns gradients, moments and float32 weights.
    """

    def __init__(
        self,
        config: TorchLearner,
        policy: Policy,
        total_steps: int,
        scorer: Scorer,
        reference: ScoreRows | None,
        optimizer: Optimizer,
    ) -> None:
        self._config = config
        self._policy = policy
        self._total_steps = total_steps
        self._scorer = scorer
        self._reference = reference
        self._optimizer = optimizer
        self._ranks = ranks()
        self._version = 0

    @property
    def version(self) -> int:
        """Optimizer steps done, those on batches without a valid token among them."""
        return self._version

    def logprobs(self, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        """Current log-probabilities under `spec`, float32, aligned with `token_ids`, NaN where given."""
        return self._logprobs(self._scorer, rollouts, spec)

    def reference_logprobs(self, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        """The same from the frozen starting weights; ValueError when opened without a reference."""
        return self._logprobs(self._frozen(), rollouts, spec)

    def update(
        self,
        rollouts: Rollouts,
        advantages: Advantages,
        objective: Objective,
        spec: SamplingSpec,
        old_logprobs: Ragged | None = None,
    ) -> UpdateReport:
        """One optimizer step on all kept responses (see `Learner.update`).

        Where advantages alone make the loss, responses with none (flat groups) are not computed: they add
        to the count and to nothing else, so the gradient is the same; other metrics leave them out, except that
        one of them is read for the mismatch when there is nothing else.
        `mismatch/mean_abs` and `mismatch/max_abs` compare the sampler's log-probabilities with the
        learner's before the step, in nats. Without any valid token the loss is 0 and the weights stay,
        but the version rises.
        """
        columns = Columns(rollouts, advantages, old_logprobs, self._policy.device)
        reference = self._frozen() if objective.needs_reference else None
        largest = 0.0

        def loss(scored: Scored, rows: Sequence[Row]) -> LossOutputs:
            nonlocal largest
            with torch.no_grad():
                frozen = None if reference is None else reference(rows, spec).logprobs
            if not len(scored.logprobs):  # this rank has run out of rows
                return LossOutputs(SumCount(scored.logprobs.sum(), 0.0))
            outputs = objective(columns.loss_inputs(scored, frozen))
            mismatch = columns.mismatch(scored)
            largest = max(largest, float(mismatch.max()) if len(mismatch) else 0.0)
            mean = SumCount(mismatch.sum(dtype=torch.float64), float(mismatch.numel()))
            return LossOutputs(outputs.loss, {**outputs.metrics, "mismatch/mean_abs": mean})

        rows = np.flatnonzero(advantages.kept)
        count = columns.count(rows, objective)
        flat = np.zeros(0, dtype=np.int64)
        if not objective.needs_reference and not objective.needs_entropy:
            pulls = columns.with_advantage()
            rows, flat = rows[pulls[rows]], rows[~pulls[rows]]
        paths = rollout_paths(rollouts, rows)
        uncomputed = columns.count(flat, objective)
        report = self._step(paths, spec, loss, count, with_entropy=objective.needs_entropy, uncomputed=uncomputed)
        if paths:
            largest = max(self._ranks.gather(largest, "the largest mismatch"))
            return replace(report, metrics={**report.metrics, "mismatch/max_abs": largest})
        return replace(report, metrics={**report.metrics, **self._spot_check(columns, rollouts, flat, spec)})

    def _spot_check(
        self, columns: Columns, rollouts: Rollouts, rows: NDArray[np.int64], spec: SamplingSpec
    ) -> dict[str, float]:
        """The mismatch of one response, where a batch of flat groups left nothing to compute."""
        paths = rollout_paths(rollouts, rows)[:1]
        if not paths:
            return {}
        with torch.no_grad():
            mismatch = columns.mismatch(self._scorer(pack(paths, 1, share=False), spec))
        if not len(mismatch):
            return {}
        return {"mismatch/mean_abs": float(mismatch.mean()), "mismatch/max_abs": float(mismatch.max())}

    def supervise(self, examples: Sequence[Example]) -> UpdateReport:
        """One optimizer step of cross-entropy on the predicted targets (token mean over the whole step)."""

        def loss(scored: Scored, rows: Sequence[Row]) -> LossOutputs:
            return LossOutputs(SumCount(-scored.logprobs.sum(), float(scored.logprobs.numel())))

        count = float(sum(len(example.predicted) for example in examples))
        return self._step(example_paths(examples), SamplingSpec(), loss, count, with_entropy=False)

    def weights(self) -> Mapping[str, Tensor]:
        """The float32 weights of the plain model, by parameter name."""
        return self._optimizer.weights()

    def state(self) -> LearnerState:
        """Weights, optimizer moments and counters; copies."""
        inner = self._optimizer.state()
        return LearnerState({"version": self._version, **inner.values}, inner.tensors)

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit; refuses a state of another model. The reference is not part of it:
        it is the weights the learner was opened on."""
        self._optimizer.load_state(int(str(state.values["optimizer_steps"])), state.tensors)
        self._version = int(str(state.values["version"]))

    def _step(
        self,
        paths: Sequence[Path],
        spec: SamplingSpec,
        loss: Callable[[Scored, Sequence[Row]], LossOutputs],
        count: float,
        *,
        with_entropy: bool,
        uncomputed: float = 0.0,
    ) -> UpdateReport:
        """One optimizer step (`Training.step`) on the scores of `paths`.

        count: what the sum of all losses is divided by. uncomputed: what responses that are known to have no
            loss add to the count.
        """

        def scored_loss(rows: list[Row]) -> LossOutputs:
            return loss(self._scorer(rows, spec, with_entropy=with_entropy), rows)

        with _training(self._scorer.module, self._config, self._version):
            report = self._config.step(
                self._optimizer,
                # Without a loss the gradient is 0, which still steps: moments fade and weights decay.
                self._batches(paths) or [[NOTHING]] * (count > 0),
                scored_loss,
                Sums(uncomputed if self._ranks.first else 0.0),
                version=self._version,
                total_steps=self._total_steps,
                ranks=self._ranks,
                count=count,
            )
        self._version = report.version
        return report

    def _logprobs(self, scorer: ScoreRows, rollouts: Rollouts, spec: SamplingSpec) -> Ragged:
        values = np.full(len(rollouts.token_ids.values), np.nan, dtype=np.float32)
        own: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        with torch.no_grad():
            for rows in self._batches(rollout_paths(rollouts, np.arange(len(rollouts)))):
                scored = scorer(rows, spec)
                own.append((scored.columns, scored.logprobs.float().cpu().numpy()))
        for parts in self._ranks.gather(own, "log-probabilities"):
            for columns, logprobs in parts:
                values[columns] = logprobs
        return rollouts.token_ids.with_values(values)

    def _batches(self, paths: Sequence[Path]) -> list[list[Row]]:
        return self._config.batches(self._scorer, paths, self._ranks)

    def _frozen(self) -> ScoreRows:
        if self._reference is None:
            raise ValueError("with_reference must be true when reference log-probabilities are asked for, got false")
        return self._reference


@contextmanager
def _training(module: PreTrainedModel, config: TorchLearner, step: int) -> Iterator[None]:
    """Training mode, which transformers asks for before it checkpoints layers, and which drops inputs of adapters;
    never when sampling. What is dropped is a function of the adapter's seed, the step and the order of rows."""
    module.train(config.gradient_checkpointing or config.drops_inputs)
    try:
        with torch.random.fork_rng(enabled=config.drops_inputs):
            if config.adapter is not None and config.drops_inputs:
                torch.manual_seed(stream_key(config.adapter.seed, "dropout", step, ranks().rank))
            yield
    finally:
        module.train(False)
