"""Rejection sampling: sample several responses a prompt, keep those that are verified, hand them on as traces.

`SamplingStage` is the part that other stages share which sample, score and keep.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from thinkrl.config.component import BatchPrompts, GroupSize, PromptCount
from thinkrl.data.order import order_prompts
from thinkrl.data.source import PromptSource
from thinkrl.data.traces import Trace
from thinkrl.environments.environment import Environment, check_environment
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.result import RewardResult
from thinkrl.rewards.reward import Reward
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.spans import given_spans, spans_of
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.rollouts.streams import generator
from thinkrl.sampling.sampler import SamplerSource, SamplingSpec
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.records import batch_metrics, reward_columns
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch


@dataclass(frozen=True)
class Selection:
    """Which verified responses of a prompt are kept."""

    rule: Literal["first", "shortest", "highest_reward", "random"] = "first"
    """What is kept first: as sampled, fewest tokens, highest reward, or at random."""
    per_prompt: int = 1
    """At most this many a prompt."""
    minimum_reward: float | None = None
    """A verified response also needs this total reward; null asks for none."""

    def __post_init__(self) -> None:
        if self.per_prompt < 1:
            raise ValueError(f"per_prompt must be at least 1, got {self.per_prompt}")

    def choose(self, rows: Sequence[int], rollouts: Rollouts, rewards: RewardResult, seed: int) -> list[int]:
        """The rows of one prompt that are kept, best first; equal texts count once."""
        order = list(rows)
        if self.rule == "shortest":
            order.sort(key=lambda row: int(rollouts.token_ids.lengths[row]))
        elif self.rule == "highest_reward":
            order.sort(key=lambda row: -float(rewards.totals[row]))
        elif self.rule == "random":
            order = (
                [
                    order[int(i)]
                    for i in generator(seed, "selection", rollouts.response_ids[order[0]]).permutation(len(order))
                ]
                if order
                else []
            )
        if self.minimum_reward is not None:
            order = [row for row in order if rewards.totals[row] >= self.minimum_reward]
        return order[: self.per_prompt]


@dataclass(frozen=True)
class Kept:
    """What is kept of one batch.

    entries: JSON values, a prompt id first; they are gathered over the stage, in its checkpoints too. columns: what the
    rollout file says of each response. metrics: by name.
    """

    entries: list[list[Any]]
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SamplingStage(Stage):
    """Samples `samples` responses for each prompt and scores them; what is kept of them, a subclass says."""

    prompts: PromptSource
    """Where prompts come from."""
    environment: Environment
    """How a prompt becomes rollouts."""
    reward: Reward
    """Judges responses: its verdict decides what is verified."""
    sampler: SamplerSource
    """Sampling engine."""
    sampling: SamplingSpec
    """How tokens are drawn."""
    prompt_count: PromptCount = 64
    """Prompts visited, each once; all of them when the source has fewer."""
    prompts_per_step: BatchPrompts = 16
    """Prompts sampled at a time."""
    samples: GroupSize = 8
    """Responses sampled per prompt."""
    checkpoint_every: int = 1
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        for name in ("prompt_count", "prompts_per_step", "samples", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def check(self) -> None:
        """Reads the prompts, and looks for the sampling engine."""
        self.sampler.check()
        check_environment(self.environment)
        order_prompts(self.prompts, self.prompts_per_step, seed=0)

    def work(self) -> float:
        """Tokens sampled at most."""
        return self.prompt_count * self.samples * self.sampling.max_new_tokens

    def run(self, context: StageContext) -> Mapping[str, Path]:
        """Samples, scores, keeps, and hands on."""
        policy = context.load_policy(self.model_from)
        sampler = context.open_sampler(self.sampler, policy)
        environment = context.open_environment(self.environment)
        order = order_prompts(self.prompts, self.prompts_per_step, context.seed)
        count = min(self.prompt_count, len(order))
        total = -(-count // self.prompts_per_step)
        state = context.resume(total)
        saved: Any = state.values.get("kept", [])
        entries: list[list[Any]] = list(saved)
        memory: Any = state.values.get("reward", {})
        for step in range(state.step + 1, total + 1):
            watch = Stopwatch()
            with watch("sample"):
                prompts = order.batch(step - 1, self.prompts_per_step)[: count - (step - 1) * self.prompts_per_step]
                rollouts = environment.rollout(
                    policy, sampler, prompts, self.samples, self.sampling,
                    seed=context.seed, stage=context.name, step=step,
                )  # fmt: skip
            with watch("reward"):
                rewards = context.score(self.reward, rollouts, step, total, memory)
                kept = self.keep(rollouts, rewards, context)
            entries += kept.entries
            context.write_rollouts(step, rollouts, {**reward_columns(rewards), **kept.columns})
            measured = batch_metrics(rollouts, rewards, self.sampling, watch, len(prompts))
            row = {**measured, **kept.metrics, "yield/total_kept": len(entries)}
            context.finish_step(step, total, row, watch, every=self.checkpoint_every, kept=entries, reward=memory)
        return self.hand_on(entries, {prompt.prompt_id: prompt for prompt in order.prompts}, context)

    @abstractmethod
    def keep(self, rollouts: Rollouts, rewards: RewardResult, context: StageContext) -> Kept:
        """What is kept of one batch."""

    @abstractmethod
    def hand_on(
        self, entries: Sequence[Sequence[Any]], prompts: Mapping[str, Prompt], context: StageContext
    ) -> Mapping[str, Path]:
        """Writes what was kept over all batches; `prompts` are those of the source, by id."""


@dataclass(frozen=True, kw_only=True)
class RejectionSampling(SamplingStage):
    """Samples `samples` responses for each prompt and keeps verified ones, without duplicates, by a selection rule.

    What was given in a response, such as the words of tools, is given in its trace.
    """

    makes: ClassVar[tuple[Kind, ...]] = ("traces",)

    selection: Selection = Selection()
    """Which verified responses are kept."""

    def plan(self) -> str:
        """What will be done, with its sizes."""
        return (
            f"rejection sampling: {self.samples} responses for each of {self.prompt_count} prompts,"
            f" keep {self.selection.per_prompt} verified a prompt ({self.selection.rule})"
        )

    def keep(self, rollouts: Rollouts, rewards: RewardResult, context: StageContext) -> Kept:
        """Verified responses, with the yield: verified share, prompts with any, duplicates dropped."""
        chosen: list[int] = []
        verified = duplicates = solved = 0
        for rows in rollouts.rows_by_group().values():
            good = [int(row) for row in rows if self._verified(int(row), rollouts, rewards)]
            different = first_of_each_text(good, rollouts)
            verified, solved = verified + len(good), solved + bool(good)
            duplicates += len(good) - len(different)
            chosen += self.selection.choose(different, rollouts, rewards, context.seed)
        if not chosen and context.plumbing:
            context.recorder.message(f"{context.name}: nothing verified; this scale goes on with any response")
            chosen = [int(rows[0]) for rows in rollouts.rows_by_group().values()]
        metrics = {
            "yield/verified": verified / len(rollouts),
            "yield/prompts_solved": solved / len(rollouts.groups),
            "yield/duplicates": float(duplicates),
            "yield/kept": float(len(chosen)),
        }
        entries = [
            [rollouts.prompt(row).prompt_id, rollouts.texts[row], given_spans(rollouts.response(row))] for row in chosen
        ]
        return Kept(entries, {"kept": [row in set(chosen) for row in range(len(rollouts))]}, metrics)

    def hand_on(
        self, entries: Sequence[Sequence[Any]], prompts: Mapping[str, Prompt], context: StageContext
    ) -> Mapping[str, Path]:
        """Writes the kept traces."""
        if not entries:
            raise context.empty("no sampled response was verified and selected, so there is nothing to hand on")
        traces = [Trace(prompts[prompt_id], text, spans_of(given)) for prompt_id, text, given in entries]
        return {"traces": context.write_traces(traces)}

    def _verified(self, row: int, rollouts: Rollouts, rewards: RewardResult) -> bool:
        return (
            rewards.verdicts[row] is Verdict.CORRECT
            and rollouts.finish_reasons[row] is FinishReason.STOP
            and not np.isnan(rewards.totals[row])
        )


def first_of_each_text(rows: Sequence[int], rollouts: Rollouts) -> list[int]:
    """Those of `rows` whose text no row before them has, white space around it aside."""
    seen: dict[str, int] = {}
    for row in rows:
        seen.setdefault(rollouts.texts[row].strip(), row)
    return list(seen.values())
