"""Learning from preferences: direct preference optimisation (arXiv 2305.18290) and its kin, one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.preference import PairLikelihood, PreferenceLoss, response_logprobs
from thinkrl.config.component import Epochs, Steps
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.preferences import Preference, PreferenceSource, read_preferences
from thinkrl.learning.learner import Learner, LearnerSource
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.rollouts.streams import generator
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.stages.artifacts import FromStage, Kind, find_artifact
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

_TOKENS_PER_PAIR = 350
"""Learning from a short pair takes as long as sampling about this many tokens: twice a trace, and a pass without
gradient."""
_SPEC = SamplingSpec()
"""Log-probabilities are those of the model itself, at temperature 1."""


@dataclass(frozen=True, kw_only=True)
class PreferenceOptimisation(Stage):
    """Raises the likelihood of chosen over rejected responses, by a loss on pairs.

    The reference is the policy as the stage begins: its log-probabilities are read before the first step, once for each
    pair, and kept in the checkpoints, so no second model is held.
    """

    makes: ClassVar[tuple[Kind, ...]] = ("model",)

    pairs: PreferenceSource | FromStage
    """Where the pairs come from: a data source, or an earlier stage by name."""
    loss: PreferenceLoss = field(default_factory=PreferenceLoss)
    """The loss on a pair."""
    learner: LearnerSource
    """Optimizer and batching."""
    epochs: Epochs = 1
    """Passes over the pairs; each pass has its own order."""
    batch_size: int = 32
    """Pairs per optimizer step; the last step of a pass may hold fewer."""
    max_steps: Steps = 1_000_000
    """Ends the stage early after this many steps."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def needs(self) -> tuple[tuple[str, Kind], ...]:
        """The stage whose pairs are read, if any."""
        return ((self.pairs.stage, "pairs"),) if isinstance(self.pairs, FromStage) else ()

    def check(self) -> None:
        """Looks for what the learner needs, and reads the pairs, unless an earlier stage is to make them."""
        self.learner.check()
        if not isinstance(self.pairs, FromStage):
            self.pairs.preferences()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        source = f"stage {self.pairs.stage}" if isinstance(self.pairs, FromStage) else type(self.pairs).__name__
        return (
            f"preference optimisation ({self.loss.kind}) on pairs from {source}: {self.epochs} epochs in batches of"
            f" {self.batch_size}"
        )

    def work(self) -> float:
        """Pairs seen; those an earlier stage is to make count as one batch."""
        count = self.batch_size if isinstance(self.pairs, FromStage) else len(self.pairs.preferences())
        return min(self.epochs * count, self.max_steps * self.batch_size) * _TOKENS_PER_PAIR

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Trains and saves the model."""
        policy = context.load_policy(self.model_from, for_training=self.learner.needs_masters)
        renderer = ChatRenderer(policy.tokenizer)
        pairs = self._load(context)
        if not pairs:
            raise context.empty("there are no pairs to learn from")
        total = min(self.epochs * -(-len(pairs) // self.batch_size), self.max_steps)
        learner = self.learner.open(policy, total_steps=total, with_reference=False)
        state = context.resume(total, learner)
        saved: Any = state.values.get("reference")
        watch = Stopwatch()
        with watch("logprobs"):
            reference = self._reference(learner, pairs, total, renderer, context) if state.step == 0 else saved
        for step in range(state.step + 1, total + 1):
            epoch, chosen = self._batch(step, len(pairs), context)
            with watch("logprobs"):
                rollouts = pair_rollouts([pairs[index] for index in chosen], renderer)
                logprobs = learner.logprobs(rollouts, _SPEC)
                start = None if reference is None else np.asarray([reference[index] for index in chosen])
                weighed = self.loss.weigh(rollouts, logprobs, start)
            with watch("update"):
                # The first pass stands for the sampler: the mismatch of the row says what the two passes differ in.
                report = learner.update(
                    replace(rollouts, logprobs=logprobs), weighed.advantages, PairLikelihood(), _SPEC
                )
            row = {**report.row(), "loss": weighed.loss, **weighed.metrics, "epoch": epoch, "pairs": len(chosen)}
            context.finish_step(
                step, total, row, watch, every=self.checkpoint_every, learner=learner, reference=reference
            )
            watch = Stopwatch()
        return {"model": context.save_policy(policy, learner)}

    def _load(self, context: StageContext) -> Sequence[Preference]:
        if isinstance(self.pairs, FromStage):
            return read_preferences(find_artifact(context.produced, self.pairs.stage, "pairs").path)
        return self.pairs.preferences()

    def _batch(self, step: int, count: int, context: StageContext) -> tuple[int, list[int]]:
        """The epoch of step `step` (from 1), and its pairs."""
        epoch, batch = divmod(step - 1, -(-count // self.batch_size))
        order = generator(context.seed, context.name, "epoch", epoch).permutation(count)
        return epoch, [int(index) for index in order[batch * self.batch_size : (batch + 1) * self.batch_size]]

    def _reference(
        self, learner: Learner, pairs: Sequence[Preference], total: int, renderer: ChatRenderer, context: StageContext
    ) -> list[list[float]] | None:
        """Log-probability of the responses of each pair under the present weights, chosen then rejected; 0 for pairs
        that no step visits."""
        if not self.loss.reference:
            return None
        context.recorder.message(f"{context.name}: reading the reference's log-probabilities of {len(pairs)} pairs")
        found = [[0.0, 0.0] for _ in pairs]
        for step in range(1, min(total, -(-len(pairs) // self.batch_size)) + 1):
            _, batch = self._batch(step, len(pairs), context)
            rollouts = pair_rollouts([pairs[index] for index in batch], renderer)
            sums = response_logprobs(rollouts, learner.logprobs(rollouts, _SPEC))
            for place, index in enumerate(batch):
                found[index] = [float(sums[2 * place]), float(sums[2 * place + 1])]
        return found


def pair_rollouts(pairs: Sequence[Preference], renderer: ChatRenderer) -> Rollouts:
    """Chosen and rejected responses in turn, a group for each pair; what the template itself opens is given too."""
    opened = len(renderer.given_ids())
    groups = [
        Group(f"{number}", pair.prompt, renderer.prompt_ids(pair.prompt.messages)) for number, pair in enumerate(pairs)
    ]
    responses = [
        _response(f"{number}/{side}", f"{number}", text, *renderer.response_parts(text, given, end=True), opened)
        for number, pair in enumerate(pairs)
        for side, text, given in (
            ("chosen", pair.chosen, pair.chosen_given),
            ("rejected", pair.rejected, pair.rejected_given),
        )
    ]
    return Rollouts.from_responses(groups, responses)


def _response(
    name: str, group: str, text: str, ids: NDArray[np.int32], given: NDArray[np.bool_], opened: int
) -> Response:
    origins = np.where(given, Origin.GIVEN, Origin.SAMPLED).astype(np.uint8)
    origins[:opened] = Origin.GIVEN
    unknown = np.full(len(ids), np.nan, dtype=np.float32)
    return Response(
        response_id=name,
        group_id=group,
        text=text,
        finish_reason=FinishReason.STOP,
        token_ids=ids,
        origins=origins,
        logprobs=unknown,
        entropies=unknown,
        versions=np.where(origins == Origin.SAMPLED, 0, -1).astype(np.int32),
        char_ends=np.full(len(ids), len(text), dtype=np.int32),
    )
