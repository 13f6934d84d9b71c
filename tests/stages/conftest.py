"""Runs of stages that only count: what the runner does with them is what is tested."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from thinkrl.config.composed import Composed
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.stages.artifacts import Kind
from thinkrl.stages.context import StageContext
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.runner import Run, run_experiment
from thinkrl.stages.stage import Stage
from thinkrl.tracking.recorder import Stopwatch

torch.set_num_threads(1)

ran: list[tuple[str, int]] = []
"""Stage and step of everything that was really done."""


@dataclass(frozen=True, kw_only=True)
class Counting(Stage):
    """Counts to `steps`, with a checkpoint after each step."""

    makes: ClassVar[tuple[Kind, ...]] = ("model",)

    steps: int = 3
    fail_at: int = 0
    interrupt: bool = False

    def check(self) -> None:
        pass

    def work(self) -> float:
        return float(self.steps)

    def plan(self) -> str:
        return "count"

    def run(self, context: StageContext) -> Mapping[str, Path]:
        for step in range(context.resume(self.steps).step + 1, self.steps + 1):
            if step == self.fail_at:
                raise RuntimeError("as asked")
            ran.append((context.name, step))
            context.finish_step(step, self.steps, {"value": step / 7}, Stopwatch(), every=1)
        path = context.folder / "model"
        path.mkdir(exist_ok=True)
        (path / "weights").write_text(f"{context.name} {self.steps}")
        if self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        return {"model": path}


@pytest.fixture
def done() -> list[tuple[str, int]]:
    ran.clear()
    return ran


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Runs stages by name in a directory of the given name, with a cache of the test's own."""
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path / "cache"))

    def run(
        directory: str, stages: Mapping[str, Stage], more: Mapping[str, Any] | None = None, **experiment: Any
    ) -> Run:
        tree = {"model": {"source": "none"}, "seed": 0, "stages": {name: {"n": 1} for name in stages}, **(more or {})}
        composed = Composed(tree, {}, "counting", tmp_path / "counting.yaml")
        model: Any = None
        return run_experiment(
            Experiment(name="counting", model=model, stages=stages, **experiment), composed, tmp_path / directory
        )

    return run


@pytest.fixture
def counting() -> type[Counting]:
    return Counting


@pytest.fixture
def rollouts() -> Rollouts:
    """Two groups of two responses, two tokens each, of which the last was sampled."""
    groups = [
        Group(f"1/p{i}", Prompt(f"p{i}", (Message("user", f"question {i}"),), str(i)), np.asarray([1], np.int32))
        for i in range(2)
    ]
    nan = np.float32(np.nan)
    responses = [
        Response(
            response_id=f"{group.group_id}/{index}",
            group_id=group.group_id,
            text=f"answer {group.group_id} {index}",
            finish_reason=FinishReason.STOP,
            token_ids=np.asarray([5, 6], np.int32),
            origins=np.asarray([0, 1], np.uint8),
            logprobs=np.asarray([nan, -0.5], np.float32),
            entropies=np.asarray([nan, 0.5], np.float32),
            versions=np.asarray([-1, 0], np.int32),
            char_ends=np.asarray([3, 9], np.int32),
        )
        for group in groups
        for index in range(2)
    ]
    return Rollouts.from_responses(groups, responses)
