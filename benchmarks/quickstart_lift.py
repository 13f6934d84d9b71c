"""What GRPO's lift in quickstart consists of, over seeds; writes benchmarks/results/quickstart_lift.json.

    python benchmarks/quickstart_lift.py runs/quickstart/seed0 runs/quickstart/seed1 runs/quickstart/seed2

Reads the stored responses of each evaluation, scores them again with the recipe's reward terms, and
asks each model once more for its most likely answers (temperature 0), so that three things can be
told apart: format, truth of the steps, and sharpening towards the most likely answer.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thinkrl.benchmarks.evaluate import evaluate_model
from thinkrl.benchmarks.metrics import paired_difference
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.rewards.term import RewardContext
from thinkrl.stages.experiment import Experiment
from thinkrl.tracking.rollout_files import read_rollouts

ROOT = Path(__file__).parents[1]
STAGES = {"cold_start": "1_after_cold_start", "refinement": "4_after_refinement", "grpo": "6_after_grpo"}
MODELS = {"cold_start": "0_cold_start", "refinement": "3_refinement", "grpo": "5_grpo"}


def measure(run: Path, experiment: Experiment) -> dict[str, Any]:
    """Every stage of one run, and the change from the stage before GRPO to the one after it."""
    results = {
        name: BenchmarkResult.from_json((run / "stages" / place / "result.json").read_text())
        for name, place in STAGES.items()
    }
    record = json.loads((run / "run.json").read_text())
    stages: dict[str, Any] = {}
    greedy: dict[str, BenchmarkResult] = {}
    for name, result in results.items():
        rollouts = read_rollouts(run / "stages" / STAGES[name] / "rollouts" / "000001.parquet").rollouts
        assert experiment.reward is not None
        scores = experiment.reward.score(rollouts, RewardContext())
        steps = scores.terms["true_steps"].values
        greedy[name] = at_temperature_zero(run / "stages" / MODELS[name] / "model", experiment)
        stages[name] = {
            "accuracy": result.accuracy,
            "interval": [result.interval.low, result.interval.high],
            "greedy_accuracy": greedy[name].accuracy,
            "pass@4": result.pass_at[4],
            "format_rate": result.mean("format_rate"),
            "true_step_share": float(np.mean(steps)),
            "all_steps_true": float(np.mean(steps == 1.0)),
            "thinking_tokens": result.mean("thinking_tokens"),
        }
    lift = paired_difference(results["refinement"].scores, results["grpo"].scores)
    greedy_lift = paired_difference(greedy["refinement"].scores, greedy["grpo"].scores)
    return {
        "seed": record["seed"],
        "stages": stages,
        "lift": [lift.difference, lift.interval.low, lift.interval.high],
        "greedy_lift": [greedy_lift.difference, greedy_lift.interval.low, greedy_lift.interval.high],
        "protocol": results["grpo"].protocol.hash,
        "prompts": results["grpo"].n,
        "samples": results["grpo"].k,
        "versions": record["versions"],
        "hardware": record["hardware"],
        "git": record["git"],
    }


def at_temperature_zero(folder: Path, experiment: Experiment) -> BenchmarkResult:
    """The benchmark with the most likely token everywhere, one sample a prompt."""
    assert experiment.benchmark is not None
    assert experiment.sampler is not None
    benchmark = replace(
        experiment.benchmark, samples=1, sampling=replace(experiment.benchmark.sampling, temperature=0.0)
    )
    policy = experiment.model.load(folder)
    return evaluate_model(policy, benchmark, experiment.sampler.open(policy), seed=0)[0]


def main(runs: list[str]) -> None:
    """Measures each run and writes the results."""
    composed = compose("quickstart")
    experiment = build(Experiment, composed.tree, composed)
    seeds = [measure(Path(run), experiment) for run in runs]
    target = ROOT / "benchmarks" / "results" / "quickstart_lift.json"
    target.write_text(json.dumps({"recipe": "quickstart", "seeds": seeds}, indent=1) + "\n")
    for seed in seeds:
        print(seed["seed"], "lift", seed["lift"], "greedy lift", seed["greedy_lift"])
        for name, numbers in seed["stages"].items():
            print("  ", name, {key: value for key, value in numbers.items() if key != "interval"})


if __name__ == "__main__":
    main(sys.argv[1:])
