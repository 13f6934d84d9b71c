"""The least time a GRPO step can take at measured rates: FLOPs over FLOP/s and bytes over bytes/s, phase by phase.

The count is of the work that is needed, whoever does it: each prompt is read once for its group, the learner reads
each different position once, nothing is computed twice, no log-probability pass, no dropped work. A phase takes at
least the longer of its arithmetic and its traffic.
"""

from dataclasses import dataclass
from typing import Any

from machine_rates import layer_products
from step_work import Case

ARITHMETIC = """
Per token, a layer's products cost 2 x (its matrix elements) FLOPs, the head 2 x vocabulary x hidden; attention costs
4 x heads x head_dim FLOPs per layer and token looked at; a backward pass costs twice its forward pass.
prefill:   prompts x prompt_tokens through the layers, one position of each prompt through the head.
decode:    new_tokens - 1 steps of all samples through layers and head (the first token comes from the prefill). Each
           step reads the weights (2 bytes each), a prompt's keys and values once for its group, a sample's own once.
forward:   learner_positions (as measured, equal beginnings once) through the layers, samples x new_tokens through the
           head. backward: twice that.
optimizer: traffic alone. The norm reads float32 gradients (4 bytes a weight); AdamW reads gradient, weight and two
           moments (16) and writes weight, moments and the bfloat16 copy (14).
sync:      traffic alone. The checksum reads the weights (2 bytes each), laying them out reads and writes them (4).
Left out: norms, activations, softmax, sampling, gradients of micro-batches, Python. So no program reaches the limit.
limit/peak uses the highest product rate measured in any shape and either precision; limit/shapes uses, for each
phase, the bfloat16 rates of the model's own shapes at the rows of that phase (the faster of plain and packed).
"""


@dataclass(frozen=True)
class Phase:
    """FLOPs by kind (layers, head, attention), and bytes moved."""

    layers: float = 0.0
    head: float = 0.0
    attention: float = 0.0
    traffic: float = 0.0

    @property
    def flops(self) -> float:
        """All of them."""
        return self.layers + self.head + self.attention


def phases(config: dict[str, Any], case: Case, learner_positions: float) -> dict[str, Phase]:
    """The work of a step."""
    shapes, depth = layer_products(config), config["num_hidden_layers"]
    layer = depth * sum(rows * columns for name, (rows, columns) in shapes.items() if name != "head")
    head = shapes["head"][0] * shapes["head"][1]
    weights = layer + head * (1 if config["tie_word_embeddings"] else 2)
    look = 4 * shapes["query"][0] * depth
    prompt, new, samples = case.prompt_tokens, case.new_tokens, case.samples
    prompt_looks = case.prompts * prompt * (prompt + 1) / 2
    new_looks = samples * sum(prompt + i for i in range(1, new))
    key_value = 2 * shapes["key_value"][0] * depth  # bytes a position, bfloat16
    steps = new - 1
    seen = steps * case.prompts * prompt + samples * sum(range(1, new))
    forward = Phase(
        2 * layer * learner_positions, 2 * head * samples * new, look * (prompt_looks + new_looks), 2 * weights
    )
    return {
        "prefill": Phase(2 * layer * case.prompts * prompt, 2 * head * case.prompts, look * prompt_looks, 2 * weights),
        "decode": Phase(
            2 * layer * samples * steps, 2 * head * samples * steps, look * new_looks,
            2 * weights * steps + key_value * seen,
        ),
        "forward": forward,
        "backward": Phase(2 * forward.layers, 2 * forward.head, 2 * forward.attention, 2 * forward.traffic),
        "optimizer": Phase(traffic=(4 + 16 + 14) * weights),
        "sync": Phase(traffic=(2 + 4) * weights),
    }  # fmt: skip


def bound(config: dict[str, Any], case: Case, rates: dict[str, Any], learner_positions: float) -> dict[str, Any]:
    """Seconds that each phase needs at least, at the machine's best and at the shapes' own rates."""
    peak = max(
        rate for shapes in rates["flop_per_second"].values() for shape in shapes.values() for rate in shape.values()
    )
    moved = max(rates["bytes_per_second"].values())
    work = phases(config, case, learner_positions)
    at_peak = {name: max(phase.flops / peak, phase.traffic / moved) for name, phase in work.items()}
    at_shapes = {}
    for name, phase in work.items():
        layers, head = _shape_rates(config, rates, name)
        arithmetic = (phase.layers + phase.attention) / layers + phase.head / head
        at_shapes[name] = max(arithmetic, phase.traffic / moved)
    return {
        "flops": {name: phase.flops for name, phase in work.items()},
        "bytes": {name: phase.traffic for name, phase in work.items()},
        "flop_per_second_peak": peak,
        "bytes_per_second": moved,
        "seconds_at_peak": at_peak,
        "seconds_at_shapes": at_shapes,
        "limit/peak": sum(at_peak.values()),
        "limit/shapes": sum(at_shapes.values()),
    }


def _shape_rates(config: dict[str, Any], rates: dict[str, Any], phase: str) -> tuple[float, float]:
    """FLOP/s of the layers' products together, and of the head's, at the rows of a phase."""
    rows = rates["decode_rows"] if phase == "decode" else rates["learn_rows"]
    measured = rates["flop_per_second"][f"bfloat16/{rows}"]

    def rate(name: str) -> float:
        found = measured[name]
        if phase == "backward":
            return float(2 / (1 / found["to_input"] + 1 / found["to_weight"]))
        return float(max(found["forward"], found["forward_packed"]))

    sizes = {name: outputs * inputs for name, (outputs, inputs) in layer_products(config).items() if name != "head"}
    return sum(sizes.values()) / sum(size / rate(name) for name, size in sizes.items()), rate("head")
