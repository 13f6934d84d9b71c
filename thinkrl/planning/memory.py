"""Memory of a stage by part, for one device.

Parts that are there for the whole stage add up; the others belong to a phase (an update, sampling, a checkpoint,
loading), and of the phases only the largest counts. Sizes follow what the learner and the sampler allocate; each
formula names its source.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from thinkrl.models.shapes import ModelShape
from thinkrl.planning.hardware import GIB, Hardware
from thinkrl.planning.settings import BFLOAT16, FLOAT32, LearnerSettings, SamplerSettings
from thinkrl.planning.work import StageWork

Phase = Literal["always", "update", "sample", "checkpoint", "load"]
MIB = 1 << 20
_LIBRARIES = 470 * MIB
"""Python with torch, transformers and what a run imports: 450 to 480 MiB measured (torch 2.13 for processors)."""
_CUDA_CONTEXT = 600 * MIB
"""What CUDA and its libraries hold on a GPU for one process, by general experience; not measured here."""
_SLACK, _GPU_SLACK = 0.08, 0.03
"""Memory that an allocator holds beyond what is in use: freed blocks of the wrong size. On a processor measured
(`benchmarks/plan_accuracy.py`), on a GPU assumed."""
_KV_QUANTUM = 64
_BLOCK_ROWS = 32
_DRAWN_ROWS = 8


@dataclass(frozen=True)
class Part:
    """Bytes of one kind in one phase. host: in main memory although the device is a GPU."""

    name: str
    bytes: int
    phase: Phase = "always"
    note: str = ""
    host: bool = False


@dataclass(frozen=True)
class StageMemory:
    """The parts of a stage."""

    parts: tuple[Part, ...]

    @property
    def phase(self) -> Phase:
        """The phase with the largest sum, which is when the peak is reached."""
        phases: tuple[Phase, ...] = ("update", "sample", "checkpoint", "load")
        return max(phases, key=self._of)

    @property
    def at_peak(self) -> tuple[Part, ...]:
        """The device's parts that exist at the peak."""
        return tuple(part for part in self.parts if not part.host and part.phase in ("always", self.phase))

    @property
    def peak(self) -> int:
        """Bytes of the device at the peak."""
        return self._of("always") + self._of(self.phase)

    @property
    def host(self) -> int:
        """Bytes of main memory beside a GPU, all phases together."""
        return sum(part.bytes for part in self.parts if part.host)

    def _of(self, phase: str) -> int:
        return sum(part.bytes for part in self.parts if part.phase == phase and not part.host)


@dataclass(frozen=True)
class Setting:
    """All that decides the memory of a stage."""

    shape: ModelShape
    compute_bytes: int
    work: StageWork
    learner: LearnerSettings | None
    sampler: SamplerSettings | None
    hardware: Hardware


def stage_memory(setting: Setting) -> StageMemory:
    """The memory of a stage, part by part; parts of nothing are left out."""
    parts = [*_process(setting), *_weights(setting)]
    if setting.learner is not None:
        parts += [*_trained(setting, setting.learner), *_update(setting, setting.learner)]
    if setting.sampler is not None:
        parts += _sampling(setting, setting.sampler)
    parts = [part for part in parts if part.bytes > 0]
    return StageMemory((*parts, *_slack(parts, setting)))


def trained_parameters(shape: ModelShape, learner: LearnerSettings) -> int:
    """Parameters that have a gradient: all, or those of low-rank adapters on every matrix of every layer."""
    if not learner.adapter_rank:
        return shape.parameters
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    ends = 2 * (shape.hidden + queries) + 2 * (shape.hidden + keys) + 3 * (shape.hidden + shape.intermediate)
    return shape.layers * learner.adapter_rank * ends


def layer_activations(shape: ModelShape, size: int) -> int:
    """Bytes that autograd keeps of one token in one layer, with numbers of `size` bytes.

    Of each of two norms: the input in float32, its scale, and the normalised output twice; of attention: queries,
    keys, values, output, and the log-sum-exp; of the gated feed-forward block: gate, its activation, up, and their
    product. Norms of queries and keys (Qwen3) keep the input in float32, its scale and the output.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * (FLOAT32 * (shape.hidden + 1) + 2 * size * shape.hidden)
    attention = 2 * size * (queries + keys) + FLOAT32 * shape.heads
    feed_forward = 4 * size * shape.intermediate
    if shape.head_norms:
        attention += (FLOAT32 + size) * (queries + keys) + FLOAT32 * (shape.heads + shape.kv_heads)
    return norms + attention + feed_forward


def activations(shape: ModelShape, size: int, tokens: int, *, checkpointing: bool) -> int:
    """Bytes of a micro-batch's forward pass that wait for the backward pass: the layers, the last norm, and the states
    that logits are made from; with checkpointing the layers' inputs, and all of the one layer that runs again."""
    ends = FLOAT32 * (shape.hidden + 1) + 2 * size * shape.hidden
    layer = layer_activations(shape, size)
    layers = shape.layers * size * shape.hidden + layer if checkpointing else shape.layers * layer
    return tokens * (layers + ends)


def update_tokens(work: StageWork, learner: LearnerSettings) -> int:
    """Tokens of the largest micro-batch."""
    longest = work.prompt.longest + work.response.longest
    shared = work.prompts * work.prompt.longest if learner.share_prompts else work.sequences * work.prompt.longest
    step = (shared + work.sequences * work.response.longest) / max(work.updates // max(work.passes, 1), 1)
    return max(longest, min(learner.micro_batch_tokens, int(step / learner.processes) + 1))


def _process(setting: Setting) -> list[Part]:
    if setting.hardware.gpu:
        return [
            Part("CUDA", _CUDA_CONTEXT, note="context and libraries; assumed"),
            Part("Python and libraries", _LIBRARIES, host=True),
        ]
    return [Part("Python and libraries", _LIBRARIES, note="measured once, not on this machine")]


def _weights(setting: Setting) -> list[Part]:
    shape, size = setting.shape, setting.compute_bytes
    learner = setting.learner
    shards = learner.shards if learner is not None and learner.zero_stage == 3 else 1
    found = [Part("weights", shape.parameters * size // shards, note=_precision(size))]
    if shards > 1:
        gathered = (shape.matrices + shape.embedding) * size
        found.append(Part("gathered weights", gathered, "update", "of one layer and the head"))
        if setting.sampler is not None and setting.sampler.engine == "torch":
            found.append(Part("whole weights to sample", shape.parameters * size, note="the sampler's module"))
    if learner is None and size == BFLOAT16:
        found.append(
            Part("weight file", shape.parameters * FLOAT32, "load", "float32, mapped", host=setting.hardware.gpu)
        )
    return found


def _trained(setting: Setting, learner: LearnerSettings) -> list[Part]:
    """What is kept of every trained weight from step to step (`learning/optimizer.py`)."""
    count = trained_parameters(setting.shape, learner)
    shards, on_host = learner.shards, learner.offload and setting.hardware.gpu
    partitioned = shards if learner.zero_stage >= 2 else 1
    masters = 0 if setting.compute_bytes == FLOAT32 and shards == 1 else count * FLOAT32 // shards
    every = setting.work.checkpoint_every
    saves = every is not None and every < setting.work.steps  # the last step needs none
    copied = count * (FLOAT32 + learner.moment_bytes) // shards if saves else 0
    found = [
        Part("float32 weights", masters, host=on_host),
        Part("gradient sums", count * FLOAT32 // partitioned, note="float32", host=on_host),
        Part("optimizer moments", count * learner.moment_bytes // shards, host=on_host),
        Part("checkpoint copies", copied, "checkpoint", "of weights and moments", host=setting.hardware.gpu),
    ]
    if setting.work.reference and not learner.adapter_rank:
        size = setting.shape.parameters * setting.compute_bytes
        found.append(Part("reference model", size, note="for the KL term"))
    return found


def _update(setting: Setting, learner: LearnerSettings) -> list[Part]:
    """What one micro-batch needs (`learning/logprobs.py` bounds the logits). Activations go as gradients come, so the
    larger of the two counts; gradients of the first micro-batch become the sums where compute is float32."""
    shape, size, work = setting.shape, setting.compute_bytes, setting.work
    tokens = update_tokens(work, learner)
    kept = activations(shape, size, tokens, checkpointing=learner.gradient_checkpointing)
    gradients = trained_parameters(shape, learner) * size
    rows = min(learner.logits_chunk_tokens, tokens)
    block = 6 * min(_BLOCK_ROWS, rows) * shape.vocabulary * FLOAT32
    return [
        Part("activations", kept, "update", f"{tokens} tokens"),
        Part("gradients beyond activations", max(0, gradients - kept), "update", _precision(size)),
        Part("logits", rows * shape.vocabulary * size + block, "update", f"a chunk of {rows} tokens"),
    ]


def _sampling(setting: Setting, sampler: SamplerSettings) -> list[Part]:
    shape, size = setting.shape, setting.compute_bytes
    if sampler.engine == "vllm":
        return _vllm(setting, sampler)
    if sampler.engine == "elsewhere":
        return []
    rows = min(sampler.batch_size, setting.work.sequences)
    longest = setting.work.prompt.longest + setting.work.response.longest
    capacity = -(-longest // _KV_QUANTUM) * _KV_QUANTUM
    drawn = rows if setting.hardware.gpu else min(rows, _DRAWN_ROWS)
    found = [
        Part("KV cache", rows * capacity * shape.kv_token * size, "sample", f"{rows} samples x {capacity} tokens"),
        Part("logits to sample", rows * shape.vocabulary * size + 4 * drawn * shape.vocabulary * FLOAT32, "sample"),
    ]
    if sampler.joined_copies:
        # On a GPU single matrices and the head are used where they are; only joined ones are copies.
        copied = shape.layers * shape.matrices + shape.embedding
        if setting.hardware.gpu:
            queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
            copied = shape.layers * shape.hidden * (queries + 2 * keys + 2 * shape.intermediate)
        tables = 2 * shape.positions * shape.head_dim
        found.append(Part("sampler's joined weights", (copied + tables) * size, note="laid out for sampling"))
    return found


def _vllm(setting: Setting, sampler: SamplerSettings) -> list[Part]:
    """vLLM takes a share of the GPU, its weights included; asleep it holds little."""
    weights = setting.shape.parameters * setting.compute_bytes
    if not setting.hardware.gpu:
        cache = int((1.0 if sampler.kv_cache_gib is None else sampler.kv_cache_gib) * GIB)
        return [Part("vLLM", weights + cache, note="weights of its own and its KV cache")]
    share = int(sampler.memory_fraction * setting.hardware.memory)
    if sampler.kv_cache_gib is not None:
        share = weights + int(sampler.kv_cache_gib * GIB)
    if sampler.sleep:
        return [Part("vLLM", share, "sample", "asleep while the learner works")]
    return [Part("vLLM", share, note="memory_fraction of the GPU: its weights and KV cache")]


def _slack(parts: Sequence[Part], setting: Setting) -> list[Part]:
    """What the allocator holds beyond use, in the phase that is the peak."""
    held = StageMemory(tuple(parts))
    fixed = ("Python and libraries", "CUDA", "vLLM", "weight file")
    return [Part("allocator's slack", int(_SLACK * _sum(p for p in held.at_peak if p.name not in fixed)), held.phase)]


def _sum(parts: Iterable[Part]) -> int:
    return sum(part.bytes for part in parts)


def _precision(size: int) -> str:
    return {BFLOAT16: "bfloat16", FLOAT32: "float32"}[size]
