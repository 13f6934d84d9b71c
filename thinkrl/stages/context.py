"""What a stage is given to work with: its inputs, its place in the run directory, and its memory."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from thinkrl.algorithms.types import NO_SIGNALS
from thinkrl.companions.companion import CompanionSource, CompanionStart
from thinkrl.companions.opened import Companions, without_companions
from thinkrl.data.traces import Trace, TraceSource, read_traces, write_traces
from thinkrl.environments.environment import Environment, OpenedEnvironment
from thinkrl.grading.verdict import Verdict
from thinkrl.judges.backend import Surroundings
from thinkrl.learning.learner import Learner, LearnerState
from thinkrl.models.policy import Policy
from thinkrl.models.saving import save_policy
from thinkrl.models.source import ModelSource
from thinkrl.parallel.ranks import Ranks, ranks
from thinkrl.rewards.result import RewardResult, TermResult
from thinkrl.rewards.reward import Reward
from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.ranked_sampler import RankedSampler
from thinkrl.sampling.sampler import Sampler, SamplerSource, SamplingSpec
from thinkrl.stages.artifacts import Artifact, FromStage, find_artifact, model_artifact, model_stage
from thinkrl.stages.interrupt import Interrupt
from thinkrl.stages.records import sample_table
from thinkrl.tracking.atomic import write_text
from thinkrl.tracking.checkpoints import CheckpointStore
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.progress import ProgressDisplay
from thinkrl.tracking.recorder import Recorder, Stopwatch
from thinkrl.tracking.rollout_files import Columns, StoredRollouts, read_rollouts, write_rollouts
from thinkrl.tracking.state import RunState

NO_COMPANIONS = Companions({})


@dataclass
class StageContext:
    """One stage's view of the run. A stage reads and writes nothing else.

    Where several processes run the stage together, each has a context: what is written, the first writes, and what
    is read from outside (rewards, checkpoints), the first reads and tells the others.

    name: the stage's name in the recipe. index, count: its place among the stages. folder: its own place.
    produced: what earlier stages made. checkpoints: the first process's, else None. start: where the metrics log
    stood when the stage began, so that a restart without a checkpoint begins there.
    plumbing: the scale's, see `Scale.plumbing`.
    """

    name: str
    index: int
    count: int
    folder: Path
    seed: int
    model: ModelSource
    produced: Mapping[str, Mapping[str, Artifact]]
    recorder: Recorder
    progress: ProgressDisplay
    checkpoints: CheckpointStore | None
    start: Mapping[str, int]
    interrupt: Interrupt
    plumbing: bool = False
    checkpoint_seconds: float = 0.0
    ranks: Ranks = field(default_factory=ranks)
    """The processes that run the stage together."""
    opened: ExitStack = field(default_factory=ExitStack)
    """Closed by the runner when the stage ends, however it ends."""

    def model_stage(self, model_from: str) -> str | None:
        """The stage whose model `model_from` names; None for the base model."""
        return model_stage(self.produced, model_from)

    def model_artifact(self, model_from: str) -> Artifact | None:
        """The model that `model_from` names; None for the base model."""
        return model_artifact(self.produced, model_from)

    def weights(self, model_from: str) -> Path | None:
        """The folder of the model that `model_from` names; None for the base model."""
        artifact = self.model_artifact(model_from)
        return artifact.path if artifact else None

    def load_policy(self, model_from: str, *, for_training: bool = False) -> Policy:
        """Loads the policy a stage starts from."""
        artifact = self.model_artifact(model_from)
        with self.ranks.first_alone("the first process's model"):
            return self.model.load(artifact.path if artifact else None, for_training=for_training, seed=self.seed)

    def open_sampler(self, source: SamplerSource, policy: Policy) -> Sampler:
        """A sampler on `policy`, closed when the stage ends."""
        sampler = source.open(policy)
        self.opened.callback(sampler.close)
        return sampler if self.ranks.size == 1 else RankedSampler(sampler, self.ranks)

    def open_environment(self, environment: Environment) -> Environment:
        """The environment with its models, if it has any, and its files in the stage's folder."""
        if not isinstance(environment, OpenedEnvironment):
            return environment
        return environment.open(Surroundings(self.model, self.weights, self.folder, self.seed, self.opened))

    def open_companions(
        self,
        sources: Mapping[str, CompanionSource],
        policy: Policy,
        sampler: Sampler,
        spec: SamplingSpec,
        total_steps: int,
    ) -> Companions:
        """Opens the models that work beside the policy."""

        start = CompanionStart(
            policy, self.model, self.weights, total_steps, self.seed, sampler, spec, self.name, self.folder, self.opened
        )
        return Companions.open(sources, start)

    def score(
        self,
        reward: Reward,
        rollouts: Rollouts,
        step: int,
        total: int,
        memory: MutableMapping[str, Any],
        signals: Mapping[str, Any] = NO_SIGNALS,
    ) -> RewardResult:
        """The rewards of step `step` (from 1) of `total`. The first process asks for them: a judge is asked once, and
        what runs into a time limit does so for all."""
        told: tuple[RewardResult, dict[str, Any]] | None = None
        if self.ranks.first:
            told = reward.score(rollouts, RewardContext(step - 1, total, memory, signals)), dict(memory)
        rewards, remembered = self.ranks.share(told, "rewards", (RewardResult, TermResult, Verdict, Ragged))
        memory.update(remembered)
        return cast(RewardResult, rewards)

    def load_traces(self, source: TraceSource | FromStage) -> Sequence[Trace]:
        """Supervised traces, from a data source or from an earlier stage."""
        if isinstance(source, FromStage):
            return read_traces(find_artifact(self.produced, source.stage, "traces").path)
        return source.traces()

    def stored_rollouts(self, stage: str) -> Iterator[StoredRollouts]:
        """All responses that an earlier stage sampled for its traces, step after step. Raises ConfigError when it did
        not."""
        folder = find_artifact(self.produced, stage, "traces").path.parent / "rollouts"
        for path in sorted(folder.glob("*.parquet")):
            yield read_rollouts(path)

    def resume(self, total: int, learner: Learner | None = None, companions: Companions = NO_COMPANIONS) -> RunState:
        """The state to go on from, of `total` steps: the last checkpoint, or step 0.

        Cuts off the metric rows of later steps, which are about to be repeated.
        """
        found = self.checkpoints.latest() if self.checkpoints is not None else None
        step, saved = self.ranks.share((found.step, found.values) if found else (None, {}), "the last checkpoint")
        if step is None:
            self.recorder.rewind(self.start)
            state = RunState(step=0)
        else:
            state = RunState(step, saved, found.tensors if found else {})
            self.recorder.rewind(state.values["metrics"])
            self.recorder.message(f"{self.name}: continuing after step {state.step} of {total}")
            if learner is not None:
                values: Any = state.values["learner"]
                learner.load_state(LearnerState(values=values, tensors=without_companions(state.tensors)))
            beside: Any = state.values.get("companions", {})
            companions.load_state(LearnerState(values=beside, tensors=state.tensors))
        self.progress.stage(self.name, self.index, self.count, total, done=state.step)
        return state

    def checkpoint(
        self, step: int, learner: Learner | None = None, companions: Companions = NO_COMPANIONS, **values: Any
    ) -> None:
        """Saves all that `resume` needs to go on after `step` steps."""
        learned = learner.state() if learner is not None else LearnerState({}, {})
        beside = companions.state()
        if self.checkpoints is not None:
            self.checkpoints.save(
                RunState(
                    step=step,
                    values={
                        **values,
                        "metrics": self.recorder.position,
                        "learner": learned.values,
                        "companions": beside.values,
                    },
                    tensors={**learned.tensors, **beside.tensors},
                )
            )

    def save_policy(self, policy: Policy, learner: Learner) -> Path:
        """Exports the policy with the learner's weights."""
        weights, folder = learner.weights(), self.folder / "model"
        return save_policy(policy, folder, weights) if self.ranks.first else folder

    def write_traces(self, traces: Sequence[Trace]) -> Path:
        """Writes the traces that the stage hands on."""
        path = self.folder / "traces.jsonl"
        return write_traces(path, traces) if self.ranks.first else path

    def write_text(self, path: Path, text: str) -> None:
        """Writes a file of the stage."""
        if self.ranks.first:
            write_text(path, text)

    def write_rollouts(self, step: int, rollouts: Rollouts, columns: Columns) -> None:
        """Stores every response of a step with `columns`, and shows some of them to the tracker. A repeated step
        leaves the same file."""
        if not self.ranks.first:
            return
        write_rollouts(self.folder / "rollouts" / f"{step:06d}.parquet", rollouts, columns, stage=self.name, step=step)
        self.recorder.samples(f"{self.name}/samples", *sample_table(rollouts, columns))

    def finish_step(
        self,
        step: int,
        total: int,
        row: Mapping[str, Any],
        watch: Stopwatch,
        *,
        every: int,
        learner: Learner | None = None,
        companions: Companions = NO_COMPANIONS,
        **values: Any,
    ) -> None:
        """Writes the step's metrics row, saves a checkpoint when one is due, and stops if Ctrl-C was pressed.

        The time a checkpoint takes stands in the next step's row: the row must be part of the checkpoint.
        The last step needs none, as the stage's artifacts follow it.
        """
        self.recorder.record(self.name, step, row, {**watch.seconds, "checkpoint": self.checkpoint_seconds})
        self.checkpoint_seconds = 0.0
        stop = self.ranks.any(self.interrupt.requested, f"the end of step {step} of {self.name}")
        if stop or (step % every == 0 and step < total):
            saving = Stopwatch()
            with saving("checkpoint"):
                self.checkpoint(step, learner, companions, **values)
            self.checkpoint_seconds = saving.seconds["checkpoint"]
        if stop:
            raise KeyboardInterrupt(f"stopped in stage '{self.name}' after step {step}, which is saved")

    def empty(self, reason: str) -> RunError:
        """The error of a stage that has nothing to work on."""
        return RunError(f"stage '{self.name}' cannot go on: {reason}")
