"""Peak memory of one update as its tokens grow: logits in chunks against all logits at once.

    python benchmarks/learner_memory.py [--tokens 256 512 ...] [--vocabularies 49152 151936]

A two-layer model of width 256 in bfloat16, one forward and backward pass over all tokens of a batch (a micro-batch
as large as the batch). `chunked` is the learner as it is, with 256 rows of logits at a time. `whole` is what plain
training code does: all logits, in float32, through autograd's log-softmax. Each case runs in a process of its own.
`rss_mb` is how far the process's high-water mark rose above what it held before the update. `live_mb` and
`largest_mb` are exact: bytes of the tensors alive at a time and of the largest one, counted as operations make them
in a second update. Writes benchmarks/results/learner_memory.json.
"""

import argparse
import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "learning"))

from live_memory import LiveMemory  # type: ignore[import-not-found]  # noqa: E402

from thinkrl.algorithms.objective import ClippedObjective  # noqa: E402
from thinkrl.algorithms.types import Advantages  # noqa: E402
from thinkrl.learning import scorer  # noqa: E402
from thinkrl.learning.learner import Learner  # noqa: E402
from thinkrl.learning.logprobs import TokenScores  # noqa: E402
from thinkrl.learning.torch_learner import TorchLearner  # noqa: E402
from thinkrl.models.policy import Policy  # noqa: E402
from thinkrl.rollouts.prompt import Prompt  # noqa: E402
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts  # noqa: E402
from thinkrl.sampling.sampler import SamplingSpec  # noqa: E402
from thinkrl.tracking.provenance import git_state, hardware, versions  # noqa: E402

CHUNK, RESPONSE, PROMPT, WIDTH, LAYERS = 256, 128, 8, 256, 2
MOST_GB = 9.0
"""Cases of whole logits that would need more are left out, and named."""


def policy(vocabulary: int) -> Policy:
    """A random model with its float32 weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model_type: Any = LlamaForCausalLM
    module = model_type(config).eval()
    masters = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    return Policy(module.to(torch.bfloat16), None, frozenset({2}), "memory", masters)  # type: ignore[arg-type]


def batch(tokens: int, vocabulary: int) -> Rollouts:
    """Responses of `tokens` sampled tokens in all, to one short prompt."""
    rng = np.random.default_rng(0)
    group = Group("g", Prompt("p", ()), rng.integers(0, vocabulary, PROMPT).astype(np.int32))
    each = np.full(RESPONSE, 0.0, dtype=np.float32)
    return Rollouts.from_responses([group], [
        Response(
            f"r{i}", "g", "", FinishReason.STOP, rng.integers(0, vocabulary, RESPONSE).astype(np.int32),
            np.full(RESPONSE, Origin.SAMPLED, dtype=np.uint8), each - 10, each, each.astype(np.int32),
            each.astype(np.int32),
        )
        for i in range(tokens // RESPONSE)
    ])  # fmt: skip


def whole_scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, spec: SamplingSpec, **_: Any
) -> TokenScores:
    """Log-probabilities from all logits at once."""
    log_p = torch.nn.functional.linear(hidden, weight, bias).float().log_softmax(dim=-1)
    return TokenScores(log_p.gather(1, targets[:, None])[:, 0], None)


def status_kb(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


def one_case(way: str, tokens: int, vocabulary: int) -> dict[str, float]:
    """Memory of one update in this process."""
    torch.set_num_threads(1)
    if way == "whole":
        vars(scorer)["token_scores"] = whole_scores
    config = TorchLearner(row_tokens=2 * tokens, micro_batch_tokens=2 * tokens, logits_chunk_tokens=CHUNK)
    learner = config.open(policy(vocabulary), total_steps=9, with_reference=False)
    update(learner, batch(RESPONSE * 2, vocabulary))  # makes moments and sums, which stay
    rollouts = batch(tokens, vocabulary)
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed goes back, so that it counts when it is used again
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is held now
    before = status_kb("VmRSS")
    update(learner, rollouts)
    rss = status_kb("VmHWM") - before
    with LiveMemory(unit="bytes") as memory:
        update(learner, rollouts)
    megabyte = 1e6
    return {"rss_mb": rss * 1024 / megabyte, "live_mb": memory.peak / megabyte, "largest_mb": memory.largest / megabyte}


def update(learner: Learner, rollouts: Rollouts) -> None:
    """One update with advantages of either sign."""
    values = np.where(np.arange(len(rollouts)) % 2, 1.0, -1.0)
    column = rollouts.token_ids.with_values(values[rollouts.token_ids.row_ids])
    kept = np.ones(len(rollouts), dtype=np.bool_)
    learner.update(rollouts, Advantages(column, kept), ClippedObjective(), SamplingSpec())


def main(tokens: list[int], vocabularies: list[int]) -> None:
    """Measures every case and writes the result."""
    cases = []
    for vocabulary in vocabularies:
        for count in tokens:
            for way in ("chunked", "whole"):
                case: dict[str, Any] = {"way": way, "tokens": count, "vocabulary": vocabulary}
                if way == "whole" and count * vocabulary * 12 > MOST_GB * 1e9:
                    case["left_out"] = f"needs more than {MOST_GB:g} GB"
                else:
                    command = [sys.executable, __file__, "--case", way, str(count), str(vocabulary)]
                    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
                    case |= json.loads(ran.stdout.splitlines()[-1])
                print(json.dumps(case), flush=True)
                cases.append(case)
    slopes = {
        f"{way}, vocabulary {vocabulary}": _slope(
            [case for case in cases if (case["way"], case["vocabulary"]) == (way, vocabulary) and "live_mb" in case]
        )
        for way in ("chunked", "whole")
        for vocabulary in vocabularies
    }
    result = {
        "what": f"peak memory of an update, {LAYERS} layers of width {WIDTH}, bf16, {CHUNK} rows of logits at a time",
        "cases": cases,
        "kb_per_token": slopes,
        "versions": versions(),
        "hardware": hardware(),
        "git": git_state(),
    }
    target = ROOT / "benchmarks" / "results" / "learner_memory.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(slopes, indent=1))


def _slope(cases: list[dict[str, Any]]) -> dict[str, float]:
    """Bytes that the last doubling of tokens adds, per token, in kB."""
    first, last = cases[-2:]
    added = last["tokens"] - first["tokens"]
    return {name: 1e3 * (last[name] - first[name]) / added for name in ("rss_mb", "live_mb")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[49_152, 151_936])
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(one_case(arguments.case[0], int(arguments.case[1]), int(arguments.case[2]))))
    else:
        main(arguments.tokens, arguments.vocabularies)
