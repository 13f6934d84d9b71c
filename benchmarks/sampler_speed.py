"""Tokens per second of the torch sampler against transformers' `generate`, alternating in one run.

    python benchmarks/sampler_speed.py [--rounds 3] [--cases even,ragged,long]

The packaged SmolLM2-135M-Instruct in bfloat16 at temperature 1. `even` and `long`: no stop token on either
side, so that both make the same number of tokens. `ragged`: one token in forty ends a response, so that
lengths vary from 1 to the limit; tokens after a response's end are not counted for either side. Writes
benchmarks/results/sampler_speed.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinkrl.models.allocator import keep_freed_memory
from thinkrl.models.policy import Policy
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler
from thinkrl.tracking.provenance import git_state, hardware, versions


@dataclass(frozen=True)
class Case:
    """What is sampled. `stop_every`: ids divisible by it end a response; 0 for none."""

    prompts: int
    samples: int
    prompt_tokens: int
    new_tokens: int
    stop_every: int = 0


CASES = {
    "even": Case(8, 8, 64, 64),
    "ragged": Case(16, 8, 64, 128, stop_every=40),
    "long": Case(4, 16, 512, 64),
}


def prompts(case: Case) -> np.ndarray:
    """The same ordinary tokens every time, int32 [prompts, tokens]."""
    drawn = np.random.default_rng(0).integers(1000, 40_000, size=(case.prompts, case.prompt_tokens))
    return drawn.astype(np.int32)


def timed(work: Callable[[], int]) -> float:
    """Tokens per second of one call, which returns how many it made."""
    begun = time.perf_counter()
    return work() / (time.perf_counter() - begun)


def measure(policy: Policy, case: Case, rounds: int) -> dict[str, Any]:
    """Alternates the two, and returns what was found."""
    stops = list(range(0, len(policy.tokenizer), case.stop_every)) if case.stop_every else []
    policy.stop_ids = frozenset(stops)
    sampler = TorchSampler().open(policy)
    ids = prompts(case)
    requests = [SampleRequest(row, tuple(range(case.samples * i, case.samples * (i + 1)))) for i, row in enumerate(ids)]
    spec = SamplingSpec(temperature=1.0, max_new_tokens=case.new_tokens)
    batch = torch.from_numpy(np.repeat(ids, case.samples, axis=0).astype(np.int64))
    lengths: dict[str, list[int]] = {"thinkrl": [], "transformers_generate": []}

    def ours() -> int:
        lengths["thinkrl"] = [len(sample.token_ids) for group in sampler.sample(requests, spec) for sample in group]
        return sum(lengths["thinkrl"])

    def generate() -> int:
        module: Any = policy.module
        made = []
        for part in batch.split(64):  # as many rows at a time as the sampler has under way
            ending: dict[str, Any] = {"eos_token_id": stops, "pad_token_id": 0} if stops else {}
            made += module.generate(
                part, attention_mask=torch.ones_like(part), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=case.new_tokens, min_new_tokens=1 if stops else case.new_tokens, **ending,
            )[:, case.prompt_tokens :].tolist()  # fmt: skip
        ends = [next((i + 1 for i, token in enumerate(row) if token in policy.stop_ids), len(row)) for row in made]
        lengths["transformers_generate"] = ends
        return sum(ends)

    timed(ours), timed(generate)  # the first call of each sets up caches
    speeds: dict[str, list[float]] = {"thinkrl": [], "transformers_generate": []}
    for _ in range(rounds):
        speeds["thinkrl"].append(timed(ours))
        speeds["transformers_generate"].append(timed(generate))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "work": vars(case),
        "tokens_per_second": speeds,
        "median": medians,
        "ratio": medians["thinkrl"] / medians["transformers_generate"],
        "mean_length": {name: statistics.mean(values) for name, values in lengths.items()},
    }


def main(rounds: int, cases: list[str]) -> None:
    """Measures and writes the result; cases that are not asked for keep what the file says of them."""
    keep_freed_memory()
    policy = PretrainedModel("smollm2-135m-instruct").load()
    target = Path(__file__).parent / "results" / "sampler_speed.json"
    target.parent.mkdir(exist_ok=True)
    stored = json.loads(target.read_text()).get("cases", {}) if target.exists() else {}
    for name in cases:
        stored[name] = {
            **measure(policy, CASES[name], rounds),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "hardware": hardware(),
            "git": git_state(),
        }
        print(name, json.dumps({key: stored[name][key] for key in ("median", "ratio", "mean_length")}))
        what = "tokens per second of samples under way at once, SmolLM2-135M bf16, temperature 1"
        target.write_text(json.dumps({"what": what, "cases": stored}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(CASES))
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.cases)
