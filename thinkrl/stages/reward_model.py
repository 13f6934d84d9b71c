"""Training a reward model: the policy's backbone under a scalar head learns what responses are worth, one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from thinkrl.algorithms.score_loss import ScoreLoss, area_under_curve
from thinkrl.config.component import ConfigError, Epochs, Steps
from thinkrl.data.chat import ChatRenderer
from thinkrl.data.judged import JudgedResponse, JudgedSource, JudgedText, pairs_of
from thinkrl.data.step_values import read_step_values
from thinkrl.grading.verdict import Verdict
from thinkrl.learning.score_model import learn_scores, score_texts
from thinkrl.learning.value_model import ValueLearner, ValueModel
from thinkrl.models.heads import load_scalar_model, scalar_model
from thinkrl.models.policy import Policy
from thinkrl.models.pretrained import Dtype
from thinkrl.models.saving import save_policy
from thinkrl.models.source import ModelSource
from thinkrl.rollouts.streams import generator
from thinkrl.stages.artifacts import BASE, PREVIOUS, FromStage, Kind, find_artifact
from thinkrl.stages.context import StageContext
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

_TOKENS_PER_RESPONSE = 130
"""Learning from a short response takes as long as sampling about this many tokens, as with traces."""


class _Item(NamedTuple):
    """Texts that are learned from together, one or a better and a worse, and what each is worth."""

    texts: tuple[NDArray[np.int32], ...]
    worth: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TrainRewardModel(Stage):
    """Learns a score of responses to prompts, and measures it on prompts that are held out.

    The companion `RewardModel` of a later stage supplies the scores, by this stage's name. The head starts at zeros.
    """

    makes: ClassVar[tuple[Kind, ...]] = ("reward_model",)

    responses: JudgedSource | FromStage
    """Judged responses: a data source, or an earlier stage by its name: the step values that a search made, else all
    responses that it sampled, of which right ones are worth 1, wrong ones 0, and others are left out."""
    reads: JudgedText = field(default_factory=JudgedText)
    """What is read of a response."""
    model: ModelSource | None = None
    """Its backbone, where it is another model than the recipe's; then `model_from` names no stage."""
    continues: str | None = None
    """An earlier stage whose reward model it goes on from, by name; null begins with a head of zeros."""
    loss: ScoreLoss = field(default_factory=ScoreLoss)
    """The loss on responses, or on pairs of a better and a worse response to one prompt."""
    learner: ValueLearner = field(default_factory=ValueLearner)
    """Optimizer and batching."""
    epochs: Epochs = 1
    """Passes over the training responses; each pass has its own order."""
    batch_size: int = 32
    """Responses, or pairs, per optimizer step; the last step of a pass may hold fewer."""
    max_steps: Steps = 1_000_000
    """Ends the stage early after this many steps."""
    held_out: float = 0.1
    """Share of the prompts that are not learned from; accuracy and area under the curve are measured on them."""
    measure_every: int = 50
    """Steps between measurements; the last step measures too."""
    stop_at_accuracy: float | None = None
    """Ends the stage when held-out accuracy reaches this, for a reward model that is no better; null trains on."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_steps", "measure_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {self.held_out}")
        if self.model is not None and self.model_from not in (BASE, PREVIOUS):
            raise ValueError(f"model must be null where model_from names a stage, got {self.model_from!r} too")
        if self.stop_at_accuracy is not None and not 0 < self.stop_at_accuracy <= 1:
            raise ValueError(f"stop_at_accuracy must be above 0 and at most 1, got {self.stop_at_accuracy}")

    def needs(self) -> tuple[tuple[str, Kind], ...]:
        """The stage whose responses are read, if any, which hands on traces; and the one that is gone on from."""
        read = ((self.responses.stage, "traces"),) if isinstance(self.responses, FromStage) else ()
        return (*read, *(((self.continues, "reward_model"),) if self.continues else ()))

    def check(self) -> None:
        """Reads the responses, unless an earlier stage is to make them."""
        if not isinstance(self.responses, FromStage):
            self.responses.judged()

    def plan(self) -> str:
        """What will be done, with its sizes."""
        given = self.responses
        source = f"stage {given.stage}" if isinstance(given, FromStage) else type(given).__name__
        unit = "pairs" if self.loss.in_pairs else "responses"
        return f"reward model ({self.loss.kind}) on {unit} from {source}: {self.epochs} epochs of {self.batch_size}"

    def work(self) -> float:
        """Responses seen; those an earlier stage is to make count as one batch."""
        count = self.batch_size if isinstance(self.responses, FromStage) else len(self.responses.judged())
        return min(self.epochs * count, self.max_steps * self.batch_size) * _TOKENS_PER_RESPONSE

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Trains, measures and saves the reward model."""
        if context.ranks.size > 1:
            raise ConfigError(f"stage '{context.name}' trains a reward model, which learner.processes=1 only can")
        start = self._start(context)
        train, kept = self._split(self._load(context), ChatRenderer(start.tokenizer), context)
        batches = -(-len(train) // self.batch_size)
        total = min(self.epochs * batches, self.max_steps)
        model = self.learner.open(start, total)
        learner: Any = model  # its state is all that a checkpoint asks of a learner
        state = context.resume(total, learner)
        reached = bool(state.values.get("reached", False))
        for step in range(state.step + 1, total + 1):
            if reached:
                break
            watch = Stopwatch()
            epoch, batch = divmod(step - 1, batches)
            order = generator(context.seed, context.name, "epoch", epoch).permutation(len(train))
            chosen = [train[int(i)] for i in order[batch * self.batch_size : (batch + 1) * self.batch_size]]
            with watch("update"):
                report = learn_scores(model, *_joined(chosen), self.loss)
            row = {**report.row(), "epoch": epoch, "responses": sum(len(item.texts) for item in chosen)}
            if step % self.measure_every == 0 or step == total:
                with watch("signals"):
                    row |= self._measure(model, kept)
                reached = row["held_out/accuracy"] >= (self.stop_at_accuracy or np.inf)
            context.finish_step(
                step, total, row, watch, every=self.checkpoint_every, learner=learner, reached=bool(reached)
            )
        masters = model.model.masters
        assert masters is not None
        return {"reward_model": save_policy(model.model, context.folder / "reward_model", masters)}

    def _start(self, context: StageContext) -> Policy:
        """The backbone under a head of zeros, or the reward model to go on from."""
        anew = self.continues is None
        if self.model is None:
            policy = context.load_policy(self.model_from, for_training=anew)
        else:
            policy = self.model.load(None, for_training=anew, seed=context.seed)
        if self.continues is None:
            return scalar_model(policy, for_training=True)
        dtype: Dtype = "float32" if policy.module.dtype == torch.float32 else "bfloat16"
        folder = find_artifact(context.produced, self.continues, "reward_model").path
        return load_scalar_model(folder, dtype=dtype, for_training=True)

    def _load(self, context: StageContext) -> Sequence[JudgedResponse]:
        if not isinstance(self.responses, FromStage):
            return self.responses.judged()
        if "step_values" in context.produced[self.responses.stage]:
            return read_step_values(find_artifact(context.produced, self.responses.stage, "step_values").path)
        worth = {Verdict.CORRECT.value: 1.0, Verdict.WRONG.value: 0.0}
        found = []
        for stored in context.stored_rollouts(self.responses.stage):
            for row, verdict in enumerate(stored.columns["verdict"]):
                if verdict in worth:
                    found.append(
                        JudgedResponse(stored.rollouts.prompt(row), stored.rollouts.texts[row], worth[verdict])
                    )
        return found

    def _split(
        self, judged: Sequence[JudgedResponse], renderer: ChatRenderer, context: StageContext
    ) -> tuple[list[_Item], list[_Item]]:
        """What is learned from, and what is held out: no prompt is in both."""
        items = self._items(judged, self.reads, renderer)
        if len({name for name, _ in items}) < 2 and context.plumbing:
            context.recorder.message(f"{context.name}: too little to learn from; this scale goes on with any response")
            items = self._any(judged, renderer)
        prompts = sorted({name for name, _ in items})
        if len(prompts) < 2:
            raise context.empty(f"{len(prompts)} prompts have responses to learn from, and one is to be held out")
        count = min(max(1, round(self.held_out * len(prompts))), len(prompts) - 1)
        drawn = generator(context.seed, context.name, "held out").permutation(len(prompts))[:count]
        apart = {prompts[int(index)] for index in drawn}
        sides = [item for name, item in items if name not in apart], [item for name, item in items if name in apart]
        context.recorder.message(f"{context.name}: {len(sides[0])} to learn from, {len(sides[1])} held out")
        return sides

    def _items(
        self, judged: Sequence[JudgedResponse], reads: JudgedText, renderer: ChatRenderer
    ) -> list[tuple[str, _Item]]:
        """What can be read, with its prompt."""
        texts = [reads.token_ids(one.prompt, one.response, renderer) for one in judged]
        read = [(one, text) for one, text in zip(judged, texts, strict=True) if text is not None]
        places: Sequence[tuple[int, ...]] = [(place,) for place in range(len(read))]
        if self.loss.in_pairs:
            places = pairs_of([one for one, _ in read])
        return [
            (
                str(read[group[0]][0].prompt.messages),
                _Item(tuple(read[p][1] for p in group), tuple(read[p][0].worth for p in group)),
            )
            for group in places
        ]

    def _any(self, judged: Sequence[JudgedResponse], renderer: ChatRenderer) -> list[tuple[str, _Item]]:
        """Whole responses, each beside itself where pairs are learned from: to see that a recipe runs."""
        times = 2 if self.loss.in_pairs else 1
        whole = replace(self.reads, part="response")
        texts = [whole.token_ids(one.prompt, one.response, renderer) for one in judged]
        return [
            (str(one.prompt.messages), _Item((text,) * times, (one.worth,) * times))
            for one, text in zip(judged, texts, strict=True)
            if text is not None
        ]

    def _measure(self, model: ValueModel, items: Sequence[_Item]) -> dict[str, float]:
        """How well the held-out responses are judged; the variance is that of their scores."""
        texts, worth = _joined(items)
        scores = score_texts(model, texts)
        said, known = torch.from_numpy(scores), torch.from_numpy(worth)
        return {
            "held_out/loss": float(self.loss.losses(said, known).mean()),
            "held_out/accuracy": float(self.loss.correct(said, known).mean()),
            "held_out/auc": area_under_curve(scores, worth > 0.5),
            "held_out/variance": float(np.var(scores)),
            "held_out/responses": float(len(texts)),
        }


def _joined(items: Sequence[_Item]) -> tuple[list[NDArray[np.int32]], NDArray[np.float64]]:
    return [text for item in items for text in item.texts], np.asarray([w for item in items for w in item.worth])
