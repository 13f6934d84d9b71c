"""A stand-in for `thinkrl run`: writes a run directory at once, as a plan says, and can be slow, fail or hang."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from thinkrl.benchmarks.protocol import EvaluationProtocol
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.grading.verdict import Verdict
from thinkrl.sweeps.arguments import read_arguments
from thinkrl.sweeps.choice import Choice
from thinkrl.sweeps.folder import SweepFolder
from thinkrl.sweeps.means import Means
from thinkrl.sweeps.multirun import point_loader
from thinkrl.sweeps.sweep import Sweep

SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
from thinkrl.parallel.lifeline import watch_launcher

signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests were started in the background
watch_launcher(os.environ)
plan = json.loads(Path(sys.argv[1]).read_text())
overrides = [text for text in sys.argv[4:] if "=" in text]
directory = Path(sys.argv[sys.argv.index("--dir") + 1])
values = dict(text.split("=", 1) for text in overrides)
with open(plan["starts"], "a") as file:
    file.write(directory.name + "\\n")
mine = plan["points"].get(values.get("rate", ""), {})
if mine.get("fails"):
    print("error: " + mine["fails"], flush=True)
    sys.exit(1)
directory.mkdir(parents=True, exist_ok=True)
(directory / "run.json").write_text(json.dumps({"seed": int(values["seed"]), "stages": {}}))
rewards = mine.get("rewards", [])
with (directory / "metrics.jsonl").open("w") as log:
    for step, reward in enumerate(rewards, start=1):
        log.write(json.dumps({"stage": "rl", "step": step, "loss": 0.0, "reward/mean": reward}) + "\\n")
        log.flush()
deadline = time.monotonic() + 60
while len(Path(plan["starts"]).read_text().split()) < mine.get("together", 0):
    if time.monotonic() > deadline:
        sys.exit("nobody came")
    time.sleep(0.05)
try:
    time.sleep(mine.get("seconds", 0.0))
except KeyboardInterrupt:
    sys.exit(130)
stages = {"0_rl": {"status": "finished", "artifacts": {}}}
right = mine.get("right", {}).get(values["seed"], 0)
for number, (stage, extra) in enumerate((("test", 0), ("validation", 1)), start=1):
    result = dict(plan["results"][stage])
    verdicts = ["correct" if index < right + extra else "wrong" for index in range(len(result["prompt_ids"]))]
    result["verdicts"] = [[verdict] for verdict in verdicts]
    (directory / (stage + ".json")).write_text(json.dumps(result))
    made = {"result": {"path": stage + ".json", "fingerprint": "f"}}
    stages[f"{number}_{stage}"] = {"status": "finished", "artifacts": made}
(directory / "run.json").write_text(json.dumps({"seed": int(values["seed"]), "stages": stages}))
"""
PROMPTS = 8
CHOICE = Choice("accuracy", "validation", "test", on_validation=True)


def protocol(benchmark: str = "sums", **fields: Any) -> EvaluationProtocol:
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_new_tokens": 8}
    values: dict[str, Any] = {
        "benchmark": benchmark, "version": 1, "data": "d", "prompts": PROMPTS, "template": "t", "samples": 1,
        "sampling": sampling, "environment": {}, "extractor": {}, "grader": {"_target_": "g"}, "engine": "torch",
    }  # fmt: skip
    return EvaluationProtocol(**{**values, **fields})


def result(right: int, n: int = PROMPTS, ids: str = "p", **fields: Any) -> BenchmarkResult:
    """`n` prompts with one sample each, of which the first `right` are correct."""
    verdicts = tuple((Verdict.CORRECT if index < right else Verdict.WRONG,) for index in range(n))
    ones, falses = ((1,),) * n, ((False,),) * n
    return BenchmarkResult(
        protocol=replace(protocol(), **{"prompts": n, **fields}), model="m", seed=0,
        prompt_ids=tuple(f"{ids}{index}" for index in range(n)), verdicts=verdicts, answers=((None,),) * n,
        well_formed=falses, thinking_lengths=ones, response_lengths=ones, truncated=falses,
    )  # fmt: skip


@dataclass
class FakeRuns:
    """The plan of the fake runs of a test, and what they did."""

    folder: Path
    points: dict[str, dict[str, Any]]

    @property
    def command(self) -> tuple[str, ...]:
        (self.folder / "fake.py").write_text(SCRIPT)
        results = {stage: json.loads(result(0).to_json()) for stage in ("test", "validation")}
        plan = {"points": self.points, "starts": str(self.folder / "starts"), "results": results}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        return (sys.executable, str(self.folder / "fake.py"), str(self.folder / "plan.json"))

    @property
    def starts(self) -> list[str]:
        """Names of the runs that were started, in order."""
        path = self.folder / "starts"
        return path.read_text().split() if path.exists() else []


class FakeSweep(Sweep):
    """A sweep whose points are not composed: `rate` is no key of any recipe."""

    def _config(self, run: Any) -> str:
        return f"rate: {json.dumps(' '.join(run.point))}\nseed: {run.seed}\n"


def fake_sweep(place: Path, *overrides: str, means: Means | None = None, **fields: Any) -> FakeSweep:
    recipe = place / "recipe.yaml"
    recipe.write_text("name: fake\n")
    asked = read_arguments(overrides, point_loader(recipe))
    values: dict[str, Any] = {
        "recipe": "fake", "recipe_path": recipe, "recipes_dirs": (), "asked": asked, "fixed": asked.fixed, "added": (),
        "seed": 0 if asked.seed is None else asked.seed, "folder": SweepFolder(place / "sweep"), "choice": CHOICE,
        "means": means or Means(), "stop": None, "notes": (),
    }  # fmt: skip
    return FakeSweep(**{**values, **fields})
