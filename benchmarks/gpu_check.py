"""What only a GPU can show, on a machine with one: `make gpu-check`, or

    python benchmarks/gpu_check.py [--trl-python VENV/bin/python] [--only torch] [--steps 20] [--folder FOLDER]

GRPO on quickstart's sums with SmolLM2-135M in bfloat16, rewarded by a coin so that every step learns:

    torch        sampler=torch and learner=torch on the GPU
    vllm         sampler=vllm in the training process
    vllm_sleep   the same with sampler.sleep=true

Each is a `thinkrl run` of its own. Checked: every step was done, with a finite loss, on the GPU; memory after the
last step is that after step 3; sampler and learner agree; sleep hands memory back. With --trl-python, TRL with vLLM in
its own process does the same amount of work, and tokens a second of whole steps are compared.

Exit code 0: all checks passed, and benchmarks/results/gpu_check.json holds the figures. 1: a check failed, or could
not be made (vLLM is not installed). 77: there is no GPU; nothing was checked and nothing written.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plan_accuracy import GRPO_ALONE

from thinkrl.tracking.provenance import git_state, hardware, versions

HERE = Path(__file__).parent
RESULT = HERE / "results" / "gpu_check.json"
PASSED, FAILED, NO_GPU = 0, 1, 77
PROMPTS, GROUP, NEW_TOKENS = 8, 8, 128
SETTLED = 3
"""Step after which memory may grow no more: by then every shape has been seen and graphs are captured."""
LEAK_BYTES = 64 << 20
"""Most that memory may grow from step 3 to the last: a block of torch's allocator or two (20 MiB each), and no more;
a copy of the weights is 257 MiB."""
MISMATCH = {"torch": 0.05, "vllm": 0.1, "vllm_sleep": 0.1}
"""Most that sampler and learner may differ, in nats a token, as a mean over a step. On a processor the torch sampler
differs by 0.004 in bfloat16 and vLLM by 0.05; the run itself refuses 0.1 at the first step."""
CASES: dict[str, tuple[str, ...]] = {
    "torch": ("sampler=torch",),
    "vllm": ("sampler=vllm", "sampler.memory_fraction=0.3", "sampler.max_length=1024"),
    "vllm_sleep": ("sampler=vllm", "sampler.memory_fraction=0.3", "sampler.max_length=1024", "sampler.sleep=true"),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    passed: bool
    found: str


def main(options: argparse.Namespace) -> int:
    """Runs the cases and checks them; returns the exit code."""
    import torch

    if not torch.cuda.is_available():
        print("gpu-check: this machine has no GPU that torch can use: nothing was checked, nothing was written.")
        return NO_GPU
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows, checks = {}, []
        for name in options.only or CASES:
            checks += run_and_check(name, folder, options.steps, rows)
        checks += check_sleep(rows.get("vllm"), rows.get("vllm_sleep"))
        speeds = {name: speed(found) for name, found in rows.items() if found}
        if options.trl_python is not None:
            speeds["trl_vllm"] = trl_speed(options.trl_python, options.steps)
    result = {
        "what": f"GRPO with SmolLM2-135M in bfloat16, {PROMPTS} x {GROUP} responses of up to {NEW_TOKENS} tokens",
        "gpu": torch.cuda.get_device_name(),
        "steps": options.steps,
        "checks": [asdict(check) for check in checks],
        "speed": speeds,
        "ratio_to_trl": ratio(speeds),
        "rows": rows,
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    report(checks, speeds)
    return PASSED if all(check.passed for check in checks) else FAILED


def run_and_check(name: str, folder: Path, steps: int, rows: dict[str, list[dict[str, Any]]]) -> list[Check]:
    """Runs a case, adds its rows to `rows`, and checks them; a case that cannot run is a check that failed."""
    if name != "torch" and importlib.util.find_spec("vllm") is None:
        return [Check(f"{name}: runs", False, "not run: vLLM is not installed (pip install vllm)")]
    try:
        rows[name] = run_case(name, folder, steps)
    except RuntimeError as error:
        return [Check(f"{name}: runs", False, str(error))]
    return check_rows(name, rows[name], steps)


def run_case(name: str, folder: Path, steps: int, overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rows of `thinkrl run` with the settings of case `name`. Raises RuntimeError with the end of its output."""
    file = folder / f"{name}.jsonl"
    file.unlink(missing_ok=True)
    settings = [
        *GRPO_ALONE, "model.dtype=bfloat16", "model.device=cuda", f"stages.grpo.steps={steps}",
        f"stages.grpo.prompts_per_step={PROMPTS}", f"stages.grpo.group_size={GROUP}",
        f"stages.grpo.sampling.max_new_tokens={NEW_TOKENS}", "stages.grpo.checkpoint_every=1000",
        "tracker={_target_:gpu_probe.MemoryTracker,path:" + json.dumps(str(file)) + "}", *CASES[name], *overrides,
    ]  # fmt: skip
    command = [sys.executable, "-m", "thinkrl", "run", "quickstart", *settings, "--dir", str(folder / name)]
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False)
    if done.returncode:
        raise RuntimeError(f"thinkrl run exited with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}")
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_rows(name: str, rows: Sequence[Mapping[str, Any]], steps: int) -> list[Check]:
    """The checks of one case."""
    return [
        check_steps(name, rows, steps),
        check_on_gpu(name, rows),
        check_leak(name, rows, "device_used"),
        check_leak(name, rows, "allocated"),
        check_mismatch(name, rows),
    ]


def check_steps(name: str, rows: Sequence[Mapping[str, Any]], steps: int) -> Check:
    """Every step was done, and its loss is a number."""
    done = [row.get("step") for row in rows]
    finite = all(isinstance(row.get("loss"), int | float) and math.isfinite(row["loss"]) for row in rows)
    passed = done == list(range(1, steps + 1)) and finite
    return Check(f"{name}: {steps} steps", passed, f"{len(done)} steps, losses {'finite' if finite else 'NOT finite'}")


def check_on_gpu(name: str, rows: Sequence[Mapping[str, Any]]) -> Check:
    """torch had at least float32 weights, moments and gradients of 135 M parameters on the GPU: 16 bytes of each."""
    most = max((row.get("most_allocated") or 0 for row in rows), default=0)
    return Check(f"{name}: on the GPU", most >= 16 * 134_515_008, f"torch allocated up to {most / 2**30:.2f} GiB there")


def check_leak(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> Check:
    """Memory after the last step is that after step 3, within `LEAK_BYTES`."""
    title = f"{name}: {key} after the last step as after step {SETTLED}"
    by_step = {row["step"]: row.get(key) for row in rows}
    first, last = by_step.get(SETTLED), by_step.get(max(by_step, default=0))
    if first is None or last is None or max(by_step) <= SETTLED:
        return Check(title, False, f"no figures for step {SETTLED} and a later one")
    growth = last - first
    found = f"{first / 2**20:.0f} MiB, then {growth / 2**20:+.1f} MiB (at most {LEAK_BYTES / 2**20:+.0f})"
    return Check(title, growth <= LEAK_BYTES, found)


def check_mismatch(name: str, rows: Sequence[Mapping[str, Any]]) -> Check:
    """Sampler and learner give sampled tokens the same log-probability, on average, at every step."""
    found = [row.get("mismatch/mean_abs") for row in rows]
    known = [value for value in found if isinstance(value, int | float) and math.isfinite(value)]
    passed = bool(known) and len(known) == len(found) and max(known) <= MISMATCH[name]
    shown = f"at most {max(known, default=math.nan):.4g} nats at {len(known)} of {len(found)} steps"
    return Check(f"{name}: sampler and learner agree", passed, f"{shown} (bound {MISMATCH[name]})")


def check_sleep(awake: Sequence[Mapping[str, Any]] | None, asleep: Sequence[Mapping[str, Any]] | None) -> list[Check]:
    """With sleep, less of the device is in use after a step, when the learner has it: by at least the weights of the
    engine (257 MiB). No check where one of the two was not run."""
    if not awake or not asleep:
        return []
    used = [statistics.median(row["device_used"] or 0 for row in rows) for rows in (awake, asleep)]
    freed = used[0] - used[1]
    return [Check("vllm_sleep: hands memory back", freed >= 2 * 134_515_008, f"{freed / 2**30:.2f} GiB less in use")]


def speed(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians over the steps after step 3: seconds of a step, its sampled tokens a second (all of the step's time
    counts), and those of sampling alone."""
    later = [row for row in rows if row["step"] > SETTLED]
    seconds = [sum(v for key, v in row.items() if key.startswith("seconds/")) for row in later]
    return {
        "step_seconds": statistics.median(seconds),
        "tokens_a_second": statistics.median(
            row["sampled_tokens"] / passed for row, passed in zip(later, seconds, strict=True)
        ),
        "sampling_tokens_a_second": statistics.median(row["time/tokens_per_second"] for row in later),
    }


def trl_speed(python: str, steps: int) -> dict[str, float]:
    """The same figures of TRL's GRPOTrainer with vLLM in its own process, run by an interpreter that has both."""
    from thinkrl.models.pretrained import PretrainedModel

    setup = {
        "model": str(PretrainedModel("smollm2-135m-instruct").fetch()), "steps": steps, "prompts": PROMPTS,
        "group": GROUP, "new_tokens": NEW_TOKENS, "vllm": True,
    }  # fmt: skip
    done = subprocess.run(
        [python, str(HERE / "gpu_trl.py"), json.dumps(setup)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"TRL's side exited with {done.returncode}: {done.stderr[-1500:]}")
    return trl_figures(json.loads(done.stdout.splitlines()[-1]))


def trl_figures(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians over the steps after step 3."""
    later = steps[SETTLED:]
    return {
        "step_seconds": statistics.median(step["seconds"] for step in later),
        "tokens_a_second": statistics.median(step["tokens"] / step["seconds"] for step in later),
    }


def ratio(speeds: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Tokens a second of whole steps over TRL's; empty where TRL was not run."""
    if "trl_vllm" not in speeds:
        return {}
    other = speeds["trl_vllm"]["tokens_a_second"]
    return {name: found["tokens_a_second"] / other for name, found in speeds.items() if name != "trl_vllm"}


def report(checks: Sequence[Check], speeds: Mapping[str, Mapping[str, float]]) -> None:
    """Prints what was found."""
    for check in checks:
        print(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.found}")
    for name, found in speeds.items():
        print(f"speed   {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    for name, factor in ratio(speeds).items():
        print(f"speed   {name} makes {factor:.2f} times the tokens a second of TRL with vLLM")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(CASES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--trl-python")
    sys.exit(main(parser.parse_args()))
