"""Runs every arm with every seed, each in a process of its own; what is finished is not run again."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from thinkrl.config.component import UserError
from thinkrl.reproduction.claim import Claim

Report = Callable[[str], None]
_TAIL_LINES = 15


@dataclass(frozen=True)
class ArmRun:
    """One run of a claim: an arm, a seed, and where it goes."""

    arm: str
    seed: int
    overrides: tuple[str, ...]
    directory: Path

    def __str__(self) -> str:
        return f"{self.arm}, seed {self.seed}"


def plan_runs(
    claim: Claim, seeds: Sequence[int], overrides: Sequence[str], folder: Path, jobs: int = 1
) -> list[ArmRun]:
    """Every arm with every seed, `jobs` seeds after `jobs` seeds, so that a broken claim shows early and runs that go
    on side by side have different seeds: those of one seed begin with the same stages and would wait for each other.

    `overrides` apply to all arms; those of an arm come after them.
    """
    together = [seeds[start : start + jobs] for start in range(0, len(seeds), jobs)]
    return [
        ArmRun(arm, seed, (*overrides, *changes, f"seed={seed}"), folder / arm / f"seed{seed}")
        for some in together
        for arm, changes in claim.arms.items()
        for seed in some
    ]


def run_all(runs: Sequence[ArmRun], recipe: str, recipes_dirs: Sequence[Path], jobs: int, report: Report) -> None:
    """Runs or continues all of `runs`, `jobs` at a time.

    Stages that arms share are computed once, by the first that reaches them; another that comes to them meanwhile
    waits (the stage cache). Raises UserError naming the runs that failed, after the others have ended, with the
    end of their output.
    """
    environment = job_environment(jobs)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        failures = list(pool.map(lambda run: _run(run, recipe, recipes_dirs, environment, report), runs))
    failed = {run: tail for run, tail in zip(runs, failures, strict=True) if tail is not None}
    if failed:
        told = "\n".join(f"{run}:\n{tail}" for run, tail in failed.items())
        raise UserError(f"{len(failed)} of {len(runs)} runs failed; the same command goes on with the others.\n{told}")


def _run(
    run: ArmRun, recipe: str, recipes_dirs: Sequence[Path], environment: Mapping[str, str], report: Report
) -> str | None:
    """Runs one; None, or the end of its output when it failed."""
    command = [sys.executable, "-m", "thinkrl", "run", recipe, *run.overrides, "--dir", str(run.directory)]
    for folder in recipes_dirs:
        command += ["--recipes-dir", str(folder)]
    run.directory.parent.mkdir(parents=True, exist_ok=True)
    log = run.directory.with_suffix(".log")
    started = time.monotonic()
    report(f"{run}: started, output in {log}")
    with log.open("ab") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        report(f"{run}: failed with exit code {done.returncode}")
        return _tail(log)
    report(f"{run}: finished after {time.monotonic() - started:.0f} s")
    return None


def job_environment(jobs: int) -> Mapping[str, str]:
    """The caller's, with the width of a log file, and processors shared out: jobs that all want every core wait
    for one another instead of computing."""
    environment = {**os.environ, "COLUMNS": "120"}
    if jobs > 1 and "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // jobs))
    return environment


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])
