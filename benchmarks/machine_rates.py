"""What this machine can do with a model's matrix products, and how fast it moves bytes.

    python benchmarks/machine_rates.py FOLDER [--decode-rows 32] [--learn-rows 1024]

Prints JSON: FLOP/s of every product of a layer and of the head, forward and backward, in bfloat16 and float32, and
bytes per second of reading, copying and adding.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from thinkrl.models.allocator import keep_freed_memory
from thinkrl.sampling.linear import FrozenLinear

_SECONDS = 0.15
_BANDWIDTH_BYTES = 256 << 20
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of the fastest call, after two that do not count: the rate is to be a limit."""
    work(), work()
    taken: list[float] = []
    while sum(taken) < _SECONDS or len(taken) < 3:
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def layer_products(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of each different matrix of the model, by name."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    return {
        "query": (config["num_attention_heads"] * head, hidden),
        "key_value": (2 * config["num_key_value_heads"] * head, hidden),
        "output": (hidden, config["num_attention_heads"] * head),
        "gate_up": (2 * wide, hidden),
        "down": (hidden, wide),
        "head": (config["vocab_size"], hidden),
    }


def product_rates(outputs: int, inputs: int, rows: int, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of x [rows, inputs] times a weight [outputs, inputs], plain and laid out beforehand, and of the two
    products of its backward pass."""
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    gradient = torch.randn(rows, outputs).to(dtype)
    packed = FrozenLinear(weight, None)
    works: dict[str, Callable[[], object]] = {
        "forward": lambda: torch.nn.functional.linear(x, weight),
        "forward_packed": lambda: packed(x),
        "to_input": lambda: gradient @ weight,
        "to_weight": lambda: gradient.t() @ x,
    }
    return {name: 2 * rows * outputs * inputs / seconds_of(work) for name, work in works.items()}


def bandwidth() -> dict[str, float]:
    """Bytes per second that are read or written, of tensors far larger than the caches."""
    a, b, c = (torch.ones(_BANDWIDTH_BYTES // 4) for _ in range(3))
    return {
        "read": _BANDWIDTH_BYTES / seconds_of(a.sum),
        "copy": 2 * _BANDWIDTH_BYTES / seconds_of(lambda: b.copy_(a)),
        "add": 3 * _BANDWIDTH_BYTES / seconds_of(lambda: torch.add(a, b, out=c)),
    }


def rates(config: dict[str, Any], decode_rows: int, learn_rows: int) -> dict[str, Any]:
    """Everything, by dtype, rows and product."""
    products: dict[str, Any] = {}
    for dtype_name, dtype in DTYPES.items():
        for rows in (decode_rows, learn_rows):
            products[f"{dtype_name}/{rows}"] = {
                name: product_rates(outputs, inputs, rows, dtype)
                for name, (outputs, inputs) in layer_products(config).items()
            }
    return {
        "flop_per_second": products,
        "bytes_per_second": bandwidth(),
        "decode_rows": decode_rows,
        "learn_rows": learn_rows,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--decode-rows", type=int, default=32)
    parser.add_argument("--learn-rows", type=int, default=1024)
    arguments = parser.parse_args()
    keep_freed_memory()
    config = json.loads((arguments.model / "config.json").read_text())
    print(json.dumps(rates(config, arguments.decode_rows, arguments.learn_rows)))
