"""Runs the real command line in a process of its own that a test can kill.

The processes are forked from a server that has imported everything already, so a start takes
milliseconds. A kill point names the n-th time the process comes by some place; there it gets
SIGKILL, as from a machine that lost power.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["thinkrl.stages.experiment", "thinkrl.stages.runner", "reasoning_gym"])

PLACES = {
    "row": ("thinkrl.tracking.metrics", "MetricsLog.append"),
    "tensors": ("thinkrl.tracking.checkpoints", "_write_checked"),
    "checkpoint": ("thinkrl.tracking.checkpoints", "CheckpointStore.save"),
    "rollouts": ("thinkrl.stages.context", "write_rollouts"),
    "model": ("thinkrl.models.saving", "_write"),
    "stage": ("thinkrl.tracking.directory", "RunDirectory.finish_stage"),
}


SMALL = (
    "scale=smoke", "tracker=none", "reuse=false",
    "stages.cold_start.max_steps=3", "stages.cold_start.batch_size=3", "stages.cold_start.checkpoint_every=1",
    "stages.grpo.steps=4", "stages.grpo.checkpoint_every=1", "benchmark.samples=1", "benchmark.prompts.size=4",
    "stages.selection.prompt_count=4",
)  # fmt: skip
"""Quickstart in seconds: every stage has several steps and a checkpoint after each."""


def small_quickstart(directory: Path) -> list[str]:
    """The arguments that run it in `directory`."""
    return ["run", "quickstart", *SMALL, "--dir", str(directory)]


def start(args: Sequence[str], log: Path, kill: tuple[str, int] | None = None, folder: Path | None = None) -> Any:
    """Starts `thinkrl ARGS` in `folder`, writing what it prints to `log`."""
    process = _CONTEXT.Process(target=_run, args=(list(args), str(log), kill, folder))
    process.start()
    return process


def finish(process: Any, seconds: float = 240) -> int:
    """Waits for the exit code; negative is the signal that ended it."""
    process.join(seconds)
    assert process.exitcode is not None, f"still running after {seconds} s"
    return int(process.exitcode)


def _run(args: list[str], log: str, kill: tuple[str, int] | None, folder: Path | None) -> None:
    import torch

    from thinkrl.cli.app import app

    torch.set_num_threads(1)
    if folder is not None:
        os.chdir(folder)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["thinkrl", *args]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if kill is not None:
        _arm(*kill)
    sys.exit(app(args))


def _arm(place: str, count: int) -> None:
    """From the `count`-th call on, the place kills its process before it does anything."""
    import importlib

    module_name, attribute = PLACES[place]
    owner: Any = importlib.import_module(module_name)
    *path, name = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)
