"""Tokens per second of the torch sampler against transformers' `generate`, alternating in one run.

    python benchmarks/sampler_speed.py [--rounds 3]

The packaged SmolLM2-135M-Instruct in bfloat16, 8 prompts of 64 tokens x 8 samples x 64 new tokens at
temperature 1, no stop token on either side, so that both make the same number of tokens. Writes
benchmarks/results/sampler_speed.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
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

PROMPTS, SAMPLES, PROMPT_TOKENS, NEW_TOKENS = 8, 8, 64, 64


def prompts(policy: Policy) -> np.ndarray:
    """The same ordinary tokens every time, int32 [prompts, tokens]."""
    drawn = np.random.default_rng(0).integers(1000, 40_000, size=(PROMPTS, PROMPT_TOKENS))
    return drawn.astype(np.int32)


def timed(work: Callable[[], int]) -> float:
    """Tokens per second of one call, which returns how many it made."""
    begun = time.perf_counter()
    return work() / (time.perf_counter() - begun)


def main(rounds: int) -> None:
    """Measures and writes the result."""
    keep_freed_memory()
    policy = PretrainedModel("smollm2-135m-instruct").load()
    policy.stop_ids = frozenset()
    sampler = TorchSampler().open(policy)
    ids = prompts(policy)
    requests = [SampleRequest(row, tuple(range(8 * i, 8 * i + SAMPLES))) for i, row in enumerate(ids)]
    spec = SamplingSpec(temperature=1.0, max_new_tokens=NEW_TOKENS)
    batch = torch.from_numpy(np.repeat(ids, SAMPLES, axis=0).astype(np.int64))

    def ours() -> int:
        return sum(len(sample.token_ids) for group in sampler.sample(requests, spec) for sample in group)

    def generate() -> int:
        module: Any = policy.module
        made = module.generate(
            batch, attention_mask=torch.ones_like(batch), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
        )  # fmt: skip
        return int(made.numel() - batch.numel())

    timed(ours), timed(generate)  # the first call of each sets up caches
    speeds = {"thinkrl": [], "transformers_generate": []}
    for _ in range(rounds):
        speeds["thinkrl"].append(timed(ours))
        speeds["transformers_generate"].append(timed(generate))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    result = {
        "what": "tokens per second, SmolLM2-135M bf16, 8 prompts of 64 tokens x 8 samples x 64 new tokens",
        "tokens_per_second": speeds,
        "median": medians,
        "ratio": medians["thinkrl"] / medians["transformers_generate"],
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
    }
    target = Path(__file__).parent / "results" / "sampler_speed.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"median": medians, "ratio": result["ratio"]}, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
