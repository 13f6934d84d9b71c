"""Peak memory that `thinkrl plan` predicts on a processor, against the peak of the run itself.

    python benchmarks/plan_accuracy.py [--folder FOLDER] [--case quickstart --case larger]

Recipes at their real sizes with few steps: quickstart (SmolLM2-135M), the same pipeline's GRPO on a Llama of 0.36
billion parameters that is drawn at random from a config, and GRPO in micro-batches so large that activations, not the
copies of a checkpoint, make the peak. Each runs in a process of its own, whose peak is
what the kernel counted for it (ru_maxrss). Checkpoints are written as in a real run, but after the first step.
Writes benchmarks/results/plan_accuracy.json. FOLDER holds weights and runs; by default a temporary one.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkrl.tracking.provenance import git_state, hardware, versions

BOUND = 0.2
"""Most that the prediction may differ from the peak, as a share of the peak."""
RESULT = Path(__file__).parent / "results" / "plan_accuracy.json"
FEW_STEPS = (
    "reuse=false",
    "tracker=none",
    "stages.cold_start.checkpoint_every=1",
    "stages.selection.prompt_count=16",
    "stages.refinement.max_steps=2",
    "stages.refinement.checkpoint_every=1",
    "stages.grpo.steps=2",
    "stages.grpo.checkpoint_every=1",
    "benchmark.max_prompts=8",
)
GRPO_ALONE = (
    "~stages.cold_start",
    "~stages.after_cold_start",
    "~stages.selection",
    "~stages.refinement",
    "~stages.after_refinement",
    "~stages.after_grpo",
    "reuse=false",
    "tracker=none",
    "stages.grpo.reward.terms={coin:{term:{_target_:thinkrl.rewards.random_reward.RandomReward}}}",
)
"""Quickstart's GRPO from the base model, with a reward that differs within every group, so that every step learns."""
CASES = ["quickstart", "larger", "activations"]
LARGER = {
    "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
    "num_attention_heads": 15, "num_key_value_heads": 5, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
"""The shape of SmolLM2-360M (arXiv 2502.02737)."""


@dataclass(frozen=True)
class Case:
    """A recipe with overrides, and what it shows."""

    what: str
    overrides: tuple[str, ...]


def main(folder: Path, chosen: list[str]) -> int:
    """Runs the cases, writes the result, and returns 1 when one is out of bounds."""
    cases = {
        "quickstart": Case("quickstart from weights that can already add", FEW_STEPS + trained(folder)),
        "larger": Case(
            "GRPO with a Llama of 0.36 B drawn at random, rewarded by a coin",
            (*GRPO_ALONE, "stages.grpo.steps=2", "stages.grpo.checkpoint_every=1", *drawn(folder)),
        ),
        "activations": Case(
            "GRPO with SmolLM2-135M and no checkpoint, in micro-batches of 4096 tokens, rewarded by a coin",
            (*GRPO_ALONE, "stages.grpo.steps=2", "learner.micro_batch_tokens=4096"),
        ),
    }
    results = {name: measure(cases[name], folder / f"run_{name}") for name in chosen}
    result = {
        "what": "peak memory of a whole run on a processor: predicted by thinkrl plan, and counted by the kernel",
        "bound": BOUND,
        "cases": results,
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in results.items():
        print(f"{name}: predicted {row['predicted_mib']} MiB, measured {row['measured_mib']} MiB, {row['error']:+.1%}")
    return int(any(abs(row["error"]) > BOUND for row in results.values()))


def measure(case: Case, directory: Path) -> dict[str, Any]:
    """Plans a case, runs it, and compares."""
    asked = ["plan", "quickstart", *case.overrides, "--hardware", "cpu", "--no-measure", "--json"]
    plan = subprocess.run([sys.executable, "-m", "thinkrl", *asked], capture_output=True, text=True, check=True)
    predicted = json.loads(plan.stdout)
    shutil.rmtree(directory, ignore_errors=True)
    peak = peak_of_run(case.overrides, directory)
    stage = predicted["stages"][predicted["peak_stage"]]
    return {
        "what": case.what,
        "overrides": [text for text in case.overrides if not text.startswith("model.source=")],
        "parameters": predicted["parameters"],
        "predicted_mib": round(predicted["peak_bytes"] / 2**20),
        "measured_mib": round(peak / 2**20),
        "error": predicted["peak_bytes"] / peak - 1,
        "peak_stage": predicted["peak_stage"],
        "peak_phase": stage["memory"]["peak_phase"],
        "parts_mib": {part["name"]: round(part["bytes"] / 2**20) for part in stage["memory"]["parts"]},
    }


def peak_of_run(overrides: tuple[str, ...], directory: Path) -> int:
    """Bytes at the peak of `thinkrl run`, as the kernel counted them for that process alone.

    Raises RuntimeError with the end of its output when it fails.
    """
    command = [sys.executable, "-m", "thinkrl", "run", "quickstart", *overrides, "--dir", str(directory)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{output.read()[-3000:]}")
    return usage.ru_maxrss * 1024


def trained(folder: Path) -> tuple[str, ...]:
    """Quickstart's selection needs a model that gets some sums right: one of an earlier run (FOLDER/trained), with a
    short cold start, or the whole cold start, which takes a few minutes more."""
    earlier = folder / "trained"
    if not (earlier / "config.json").is_file():
        return ("stages.cold_start.max_steps=60",)
    gentle = "stages.cold_start.learner.learning_rate=0"
    return (f"model.source={earlier}", "model.stop_tokens=[]", "stages.cold_start.max_steps=2", gentle)


def drawn(folder: Path) -> tuple[str, ...]:
    """The larger model's weights, drawn once, with the tokenizer of SmolLM2."""
    place = folder / "larger"
    if not (place / "config.json").is_file():
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        from thinkrl.models.pretrained import PretrainedModel

        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**LARGER)).save_pretrained(place)
        AutoTokenizer.from_pretrained(PretrainedModel("smollm2-135m-instruct").fetch()).save_pretrained(place)
    return (f"model.source={place}",)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", action="append", choices=CASES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(main(options.folder or Path(scratch), options.case or CASES))
