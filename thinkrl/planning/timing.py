"""Time of a step by part, from sizes, peak rates, and stated shares of those peaks that programs reach."""

from dataclasses import asdict, dataclass
from typing import Any

from thinkrl.models.shapes import ModelShape
from thinkrl.planning.memory import Setting, moment_bytes, trained_parameters
from thinkrl.planning.settings import FLOAT32, LearnerSettings, SamplerSettings


@dataclass(frozen=True)
class Assumptions:
    """Shares of the peaks that are assumed, and rates that are not the device's."""

    learning: float
    """Share of the matrix-product peak in forward and backward passes (model FLOPs utilisation)."""
    prefill: float
    """Share of the matrix-product peak when prompts are read."""
    decode_products: float
    """Share of the matrix-product peak when a batch is decoded."""
    decode_bandwidth: float
    """Share of the memory bandwidth when a batch is decoded."""
    optimizer_bandwidth: float
    """Share of the memory bandwidth in the optimizer step."""
    layer_seconds: float
    """Least time of a layer in a decoding step: launching its kernels."""
    disk: float = 0.4e9
    """Bytes per second of checkpoints, checksums included."""


PROCESSOR = Assumptions(0.6, 0.5, 0.4, 0.6, 0.6, layer_seconds=1e-4)
"""From runs on two cores that make 0.4 TFLOP/s of bfloat16 products (SmolLM2-135M: 700 tokens/s sampled, 1.65 s for a
supervised step of 6 short traces); other processors will differ."""
GPU_TORCH = Assumptions(0.35, 0.5, 0.3, 0.5, 0.7, layer_seconds=3e-4, disk=1e9)
"""What large models usually reach in plain torch; not measured here."""
GPU_VLLM = Assumptions(0.35, 0.5, 0.4, 0.6, 0.7, layer_seconds=2e-5, disk=1e9)
"""The same with vLLM's captured graphs; not measured here."""


@dataclass(frozen=True)
class StageTime:
    """Seconds of a step by part, and of the stage; tokens a step: sampled at most, read by the sampler, passed through
    the learner (equal beginnings once where it shares them)."""

    steps: int
    seconds: dict[str, float]
    sampled_tokens: int
    prompt_tokens: int
    learned_tokens: int
    assumptions: dict[str, Any]

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def stage(self) -> float:
        """Seconds of the stage, loading left out."""
        return self.steps * self.step


def stage_time(setting: Setting, response_tokens: float | None = None) -> StageTime:
    """Time of a stage's steps; responses have `response_tokens`, or their limit when None."""
    work, learner, sampler = setting.work, setting.learner, setting.sampler
    response = work.response.mean if response_tokens is None else min(response_tokens, work.response.longest)
    assumed = _assumptions(setting)
    processes = setting.processes
    seconds: dict[str, float] = {}
    prompt_tokens = sampled = learned = 0
    if sampler is not None:
        prompt_tokens, sampled = round(work.prompts * work.prompt.mean), round(work.sequences * response)
        seconds |= _sampling_seconds(setting, sampler, assumed, response, processes)
    if learner is not None:
        shared = work.prompts if learner.share_prompts else work.sequences
        learned = round(shared * work.prompt.mean + work.sequences * response)
        seconds |= _learning_seconds(setting, learner, assumed, learned, response, processes)
    return StageTime(work.steps, seconds, sampled, prompt_tokens, learned, asdict(assumed))


def forward_flops(shape: ModelShape, tokens: float, predicted: float, context: float) -> float:
    """Floating-point operations of a forward pass over `tokens`, each of which sees `context` others on average, with
    logits for `predicted` of them: 2 a parameter and token, and 4 a head entry and pair (scores, and values)."""
    products = 2.0 * tokens * shape.layers * shape.matrices
    attention = 4.0 * tokens * context * shape.layers * shape.heads * shape.head_dim
    return products + attention + 2.0 * predicted * shape.embedding


def _assumptions(setting: Setting) -> Assumptions:
    if not setting.hardware.gpu:
        return PROCESSOR
    return GPU_TORCH if setting.sampler is not None and setting.sampler.engine == "torch" else GPU_VLLM


def _sampling_seconds(
    setting: Setting, sampler: SamplerSettings, assumed: Assumptions, response: float, processes: int
) -> dict[str, float]:
    shape, work, hardware = setting.shape, setting.work, setting.hardware
    read = forward_flops(shape, work.prompts * work.prompt.mean, work.prompts, work.prompt.mean / 2)
    sequences = work.sequences / processes
    rows = min(sampler.batch_size, sequences)
    rounds = sequences / rows * response
    context = work.prompt.mean + response / 2
    products = forward_flops(shape, rows, rows, context) / (hardware.flops * assumed.decode_products)
    moved = (shape.layers * shape.matrices + shape.embedding + rows * context * shape.kv_token) * setting.compute_bytes
    fetched = moved / (hardware.bandwidth * assumed.decode_bandwidth)
    return {
        "reading prompts": read / processes / (hardware.flops * assumed.prefill),
        "sampling": rounds * max(products, fetched, shape.layers * assumed.layer_seconds),
    }


def _learning_seconds(
    setting: Setting, learner: LearnerSettings, assumed: Assumptions, tokens: float, response: float, processes: int
) -> dict[str, float]:
    """A backward pass costs two forward passes; with checkpointing a further one; without a gradient for the base
    weights (adapters) only the half that goes to the inputs."""
    shape, work, hardware = setting.shape, setting.work, setting.hardware
    predicted = work.sequences * response
    forward = forward_flops(shape, tokens, predicted, work.prompt.mean + response / 2)
    rate = hardware.flops * assumed.learning * processes
    backward = (1.0 if learner.adapter is not None else 2.0) + (1.0 if learner.gradient_checkpointing else 0.0)
    count, moments = trained_parameters(shape, learner), moment_bytes(shape, learner)
    moved = (count * (4 * FLOAT32 + setting.compute_bytes) + 2 * moments) / learner.shards
    saved = count * FLOAT32 + moments
    every = work.checkpoint_every
    saves = 0 if every is None else max(0, (work.steps - 1) // every)
    return {
        "forward": forward * work.passes / rate,
        "backward": backward * forward * work.passes / rate,
        "other log-probabilities": forward * work.forwards / rate,
        "optimizer": work.updates * moved / (hardware.bandwidth * assumed.optimizer_bandwidth),
        "checkpoints": saves * saved / assumed.disk / max(work.steps, 1),
    }
