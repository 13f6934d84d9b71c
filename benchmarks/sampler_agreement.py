"""How far the sampler's log-probabilities are from the learner's, and how much a sample depends on its batch.

    python benchmarks/sampler_agreement.py

The packaged SmolLM2-135M-Instruct in float32 and bfloat16, on sums. Writes
benchmarks/results/sampler_agreement.json: the largest and the mean difference in nats at three temperatures
and with truncation; and the share of samples that come out token by token alike in a batch of 64, in another
order, and with nothing beside them, with how near the tie was where they part. These numbers do not depend on
how busy the machine is.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinkrl.environments.single_turn import SingleTurn
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.models.allocator import keep_freed_memory
from thinkrl.models.policy import Policy
from thinkrl.models.pretrained import Dtype, PretrainedModel
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.sampling.stream import UniformStream
from thinkrl.sampling.torch_sampler import TorchSampler
from thinkrl.tracking.provenance import git_state, hardware, versions

SPECS = {
    "temperature 0.6": SamplingSpec(temperature=0.6, max_new_tokens=32),
    "temperature 1.0": SamplingSpec(temperature=1.0, max_new_tokens=32),
    "temperature 1.3": SamplingSpec(temperature=1.3, max_new_tokens=32),
    "truncated": SamplingSpec(temperature=1.0, top_k=50, top_p=0.9, min_p=0.02, max_new_tokens=32),
}


def questions(count: int) -> list[Prompt]:
    """Sums of two numbers."""
    return [Prompt(f"p{i}", (Message("user", f"What is {17 * i + 3} + {23 * i + 8}?"),)) for i in range(count)]


def differences(policy: Policy, spec: SamplingSpec) -> dict[str, float]:
    """|sampler - learner| over the tokens of 4 prompts x 4 samples."""
    rollouts = SingleTurn().rollout(policy, TorchSampler().open(policy), questions(4), 4, spec, 0, "agreement", 1)
    learned = TorchLearner(learning_rate=0.0).open(policy, 1, False).logprobs(rollouts, spec)
    found = np.abs(learned.values - rollouts.logprobs.values)[rollouts.sampled]
    return {"max": float(found.max()), "mean": float(found.mean()), "tokens": int(rollouts.sampled.sum())}


def independence(policy: Policy) -> dict[str, Any]:
    """16 prompts x 4 samples together, against the same in another order, joining late, and one at a time."""
    spec = replace(SPECS["temperature 1.0"], max_new_tokens=24)
    prompt_ids = [
        np.asarray(policy.tokenizer.encode(prompt.messages[0].content), dtype=np.int32) for prompt in questions(16)
    ]
    requests = [SampleRequest(ids, tuple(range(4 * i, 4 * i + 4))) for i, ids in enumerate(prompt_ids)]
    together = TorchSampler(batch_size=64).open(policy).sample(requests, spec)
    order = np.random.default_rng(0).permutation(16)
    moved = TorchSampler(batch_size=10).open(policy).sample([requests[i] for i in order], spec)
    alone = TorchSampler(batch_size=1).open(policy)
    firsts = [alone.sample([SampleRequest(r.prompt_ids, r.stream_keys[:1])], spec)[0][0] for r in requests]
    pairs = {
        "batches of 10 in another order": [
            Pair(requests[i], j, together[i][j], moved[place][j]) for place, i in enumerate(order) for j in range(4)
        ],
        "alone": [Pair(requests[i], 0, together[i][0], single) for i, single in enumerate(firsts)],
    }
    return {name: compared(policy, both) for name, both in pairs.items()}


@dataclass(frozen=True, eq=False)
class Pair:
    """The same sample, number `index` of a request, drawn in two batches."""

    request: SampleRequest
    index: int
    one: Sample
    other: Sample

    @property
    def agreeing(self) -> int | None:
        """Equal tokens at the start; None if all are equal."""
        a, b = self.one.token_ids.tolist(), self.other.token_ids.tolist()
        if a == b:
            return None
        return next((t for t, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    def distance(self, policy: Policy) -> float:
        """How far the random number is from the tokens drawn with it at the first difference, in probability.

        By the module's own forward pass. 0 is inside a token's share; a near-tie is a small number.
        """
        at = self.agreeing
        assert at is not None
        ids = np.concatenate([self.request.prompt_ids, self.one.token_ids[:at]]).astype(np.int64)
        with torch.inference_mode():
            logits = policy.module(torch.from_numpy(ids)[None]).logits[0, -1]
        ends = logits.double().softmax(-1).cumsum(-1)
        uniform = UniformStream(self.request.stream_keys[self.index]).at(at)
        found = []
        for sample in (self.one, self.other):
            token = int(sample.token_ids[at])
            begin = float(ends[token - 1]) if token else 0.0
            found.append(max(begin - uniform, uniform - float(ends[token]), 0.0))
        return max(found)


def compared(policy: Policy, pairs: Sequence[Pair]) -> dict[str, Any]:
    """How many are alike, and where and how closely those that are not part."""
    differing = [pair for pair in pairs if pair.agreeing is not None]
    found: dict[str, Any] = {"samples": len(pairs), "alike": 1 - len(differing) / len(pairs)}
    if differing:
        distances = [pair.distance(policy) for pair in differing]
        found["tokens_before_the_first_difference"] = sorted(pair.agreeing or 0 for pair in differing)
        found["random_number_outside_the_token_by"] = {"mean": float(np.mean(distances)), "max": max(distances)}
    return found


def main() -> None:
    """Measures both precisions and writes the result."""
    keep_freed_memory()
    found: dict[str, Any] = {}
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    for dtype in dtypes:
        policy = PretrainedModel("smollm2-135m-instruct", dtype=dtype).load(for_training=True)
        found[dtype] = {
            "difference_in_nats": {name: differences(policy, spec) for name, spec in SPECS.items()},
            "independence_of_the_batch": independence(policy),
        }
        print(dtype, json.dumps(found[dtype], indent=1))
    result = {
        "what": "sampler against learner, and samples against their batch; SmolLM2-135M",
        "specifications": {name: asdict(spec) for name, spec in SPECS.items()},
        **found,
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
    }
    target = Path(__file__).parent / "results" / "sampler_agreement.json"
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
