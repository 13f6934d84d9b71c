"""A whole GRPO step of thinkrl against TRL's GRPOTrainer on the same work, alternating the two in one run.

    python benchmarks/grpo_step.py --trl-python VENV/bin/python [--cases short,long] [--rounds 5] [--model FOLDER]

VENV has TRL 1.16 with torch, transformers and accelerate; thinkrl does not depend on it. Both sides are processes of
their own and one is stopped while the other computes. A step is sampling, reward, advantage, one optimizer step, and
the new weights where the sampler reads them. Both are given the same questions with as many tokens, temperature 1
and nothing else on the logits, and make exactly as many tokens: an end token ends no response on either side. The
reward differs within every group. Neither evaluates, logs or saves. thinkrl runs as configured by default; TRL in the
fastest of the precisions and micro-batches tried here. Writes benchmarks/results/grpo_step.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

import step_work
from step_bound import ARITHMETIC, bound
from step_work import CASES, Case, Worker

from thinkrl.models.pretrained import PretrainedModel
from thinkrl.tracking.provenance import git_state, hardware, now, versions

RESULT = Path(__file__).parent / "results" / "grpo_step.json"
WEIGHTS = ("bfloat16", "bfloat16-autocast", "float32-autocast")
SAME = ("generated_tokens", "tokens_seen", "questions")


def micro_batches(case: Case, most_tokens: int) -> list[int]:
    """Responses a forward pass of the other trainer that divide the batch and fit in memory, largest first."""
    sizes = [case.samples // parts for parts in (1, 2, 4, 8) if case.samples % parts == 0]
    return [size for size in sizes if size * case.sequence_tokens <= most_tokens][:2]


def trl_settings(
    case: Case, python: str, setup: dict[str, Any], wanted: str, most_tokens: int, log: TextIO
) -> dict[str, Any]:
    """The other trainer's precision of weights and micro-batch: `wanted` as WEIGHTS:SIZE, or the fastest one tried."""
    if wanted != "auto":
        weights, _, size = wanted.partition(":")
        return {"weights": weights, "micro_batch": int(size or micro_batches(case, most_tokens)[0])}
    sizes = micro_batches(case, most_tokens)
    tried: dict[str, float] = {}

    def seconds(settings: dict[str, Any]) -> float:
        with Worker(python, "trl_worker.py", {**setup, **settings}, log) as worker:
            worker.call({})
            taken = float(worker.call({})["seconds"])
        tried[_name(settings)] = taken
        print(f"{case.name}: TRL with {settings} takes {taken:.2f} s", flush=True)
        return taken

    def fastest(candidates: list[dict[str, Any]]) -> dict[str, Any]:
        return min(candidates, key=lambda settings: tried.get(_name(settings)) or seconds(settings))

    best = fastest([{"weights": weights, "micro_batch": sizes[0]} for weights in WEIGHTS])
    best = fastest([{**best, "micro_batch": size} for size in sizes])
    return {**best, "tried": tried}


def _name(settings: dict[str, Any]) -> str:
    return f"{settings['weights']}:{settings['micro_batch']}"


def measure(case: Case, arguments: argparse.Namespace, model: Path, log: TextIO) -> dict[str, Any]:
    """All rounds of one case."""
    steps = arguments.rounds + 1
    questions = step_work.questions(case, steps * case.prompts, model)
    setup = {"case": case.name, "model": str(model), "questions": questions}
    least = {**setup, "questions": questions[: 2 * case.prompts]}
    python = arguments.trl_python
    settings = trl_settings(case, python, least, arguments.trl_settings, arguments.trl_most_tokens, log)
    # TRL's worker first: each is stopped at once after it has loaded the model.
    with (
        Worker(python, "trl_worker.py", {**setup, **settings}, log) as trl,
        Worker(sys.executable, "thinkrl_worker.py", setup, log) as ours,
    ):
        rounds: list[dict[str, Any]] = []
        for number in range(steps):
            pair: dict[str, Any] = {"thinkrl": ours.call({}), "trl": trl.call({}), "load": os.getloadavg()[0]}
            for name in SAME:
                if pair["thinkrl"][name] != pair["trl"][name]:
                    raise RuntimeError(f"the two did different work in round {number}: {name} in {pair}")
            expected = case.samples * case.new_tokens
            if pair["thinkrl"]["generated_tokens"] != expected:
                raise RuntimeError(f"expected {expected} generated tokens, got {pair['thinkrl']['generated_tokens']}")
            if pair["thinkrl"]["responses_with_advantage"] != case.samples:
                raise RuntimeError("a response without advantage would spare thinkrl work that TRL does")
            rounds.append(pair)
            print(f"{case.name} round {number}: " + _line(pair), flush=True)
        about = {"thinkrl": ours.about, "trl": {**trl.about, **settings}}
    return {"about": about, "warmup": rounds[0], "rounds": rounds[1:], **summary(case, rounds[1:])}


def _line(pair: dict[str, Any]) -> str:
    ours, trl = pair["thinkrl"]["seconds"], pair["trl"]["seconds"]
    return f"thinkrl {ours:.2f} s, TRL {trl:.2f} s, ratio {trl / ours:.2f}"


def summary(case: Case, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and what they come to."""
    sides = ("thinkrl", "trl")
    seconds = {side: [pair[side]["seconds"] for pair in rounds] for side in sides}
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    tokens = case.samples * case.new_tokens
    return {
        "seconds": seconds,
        "median_seconds": medians,
        "ratio_of_medians": medians["trl"] / medians["thinkrl"],
        "least_ratio": min(trl / ours for ours, trl in zip(seconds["thinkrl"], seconds["trl"], strict=True)),
        "ratio_of_best": min(seconds["trl"]) / min(seconds["thinkrl"]),
        "generated_tokens": tokens,
        "generated_tokens_per_second": {side: tokens / value for side, value in medians.items()},
        "peak_memory_bytes": {side: max(pair[side]["memory"]["peak"] for pair in rounds) for side in sides},
        "thinkrl_parts": {
            name: statistics.median(pair["thinkrl"]["parts"][name] for pair in rounds)
            for name in rounds[0]["thinkrl"]["parts"]
        },
        "learner_positions": statistics.median(pair["thinkrl"]["learner_positions"] for pair in rounds),
        "learner_positions_unshared": rounds[0]["thinkrl"]["learner_positions_unshared"],
    }


def machine(case: Case, model: Path, log: TextIO) -> dict[str, Any]:
    """Rates of products and memory, measured in a process of their own."""
    command = [sys.executable, str(Path(__file__).parent / "machine_rates.py"), str(model)]
    done = subprocess.run(
        [*command, "--decode-rows", str(case.samples)], check=True, stdout=subprocess.PIPE, stderr=log, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measures the cases and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", required=True, help="Python of an environment with TRL 1.16")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="folder or packaged model")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trl-settings", default="auto", help="auto, or such as bfloat16:32")
    parser.add_argument("--trl-most-tokens", type=int, default=5_000, help="of a micro-batch; 4096 take it 10 GB")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    model = PretrainedModel(arguments.model).fetch().resolve()
    config = json.loads((model / "config.json").read_text())
    result: dict[str, Any] = {
        "what": " ".join((__doc__ or "").split("\n\n", 2)[2].split()),
        "model": {"name": arguments.model, "config": config},
        "compute": "bfloat16; thinkrl keeps float32 master weights and moments, TRL what its setting says",
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
        "began": now(),
        "bound_arithmetic": list(ARITHMETIC.strip().splitlines()),
        "cases": {},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    log_path = Path(tempfile.mkdtemp(prefix="grpo_step_")) / "workers.log"
    print(f"what the two sides print goes to {log_path}", flush=True)
    with log_path.open("w") as log:
        for name in arguments.cases.split(","):
            case = CASES[name]
            rates = machine(case, model, log)
            measured = measure(case, arguments, model, log)
            limit = bound(config, case, rates, measured["learner_positions"])
            reached = {
                kind: limit[kind] / measured["median_seconds"]["thinkrl"] for kind in ("limit/peak", "limit/shapes")
            }
            result["cases"][name] = {**measured, "machine": rates, "bound": limit, "fraction_of_limit": reached}
            arguments.output.write_text(json.dumps({**result, "ended": now()}, indent=1) + "\n")
            print(json.dumps({"case": name, "reached": reached, **{k: measured[k] for k in (
                "median_seconds", "ratio_of_medians", "least_ratio", "peak_memory_bytes", "thinkrl_parts"
            )}}, indent=1), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
