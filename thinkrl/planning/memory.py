"""Memory of a stage by part, for one device.

Parts that are there for the whole stage add up, and so do those that are there while it runs, that is from the first
step on; the others belong to a phase (an update, sampling, a checkpoint, export, loading), and of the phases only the
largest counts. Sizes follow what the learner and the sampler allocate; each formula names its source.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from thinkrl.models.shapes import ModelShape
from thinkrl.planning.hardware import GIB, Hardware
from thinkrl.planning.settings import BFLOAT16, FLOAT32, LearnerSettings, SamplerSettings, in_own_blocks
from thinkrl.planning.work import StageWork

Phase = Literal["always", "running", "update", "sample", "checkpoint", "export", "load"]
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
_BUCKET = 50_000_000
"""Gradients that DeepSpeed sums over the processes at a time (`learning/deepspeed_learner.py`)."""


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
        phases: tuple[Phase, ...] = ("update", "sample", "checkpoint", "export", "load")
        return max(phases, key=lambda phase: sum(part.bytes for part in self.present(phase)))

    def present(self, phase: Phase) -> tuple[Part, ...]:
        """The device's parts that exist in a phase."""
        there = ("always", phase) if phase == "load" else ("always", "running", phase)
        return tuple(part for part in self.parts if not part.host and part.phase in there)

    @property
    def at_peak(self) -> tuple[Part, ...]:
        """The device's parts that exist at the peak."""
        return self.present(self.phase)

    @property
    def peak(self) -> int:
        """Bytes of the device at the peak."""
        return sum(part.bytes for part in self.at_peak)

    @property
    def host(self) -> int:
        """Bytes of main memory beside a GPU, all phases together."""
        return sum(part.bytes for part in self.parts if part.host)


@dataclass(frozen=True)
class Setting:
    """All that decides the memory of a stage."""

    shape: ModelShape
    compute_bytes: int
    work: StageWork
    learner: LearnerSettings | None
    sampler: SamplerSettings | None
    hardware: Hardware

    @property
    def processes(self) -> int:
        """Processes that the work is shared by."""
        return self.learner.processes if self.learner is not None else 1

    @property
    def written_out(self) -> bool:
        """Whether the learner computes the layers in its own blocks (`learning/block_body.py`): on a processor, for
        models whose weights are whole."""
        learner = self.learner
        whole = learner is not None and learner.share_prompts and learner.zero_stage < 3
        return whole and in_own_blocks(self.shape) and not self.hardware.gpu


def stage_memory(setting: Setting) -> StageMemory:
    """The memory of a stage for one process, part by part; parts of nothing are left out."""
    parts = [*_process(setting), *_weights(setting)]
    if setting.learner is not None:
        parts += [*_trained(setting, setting.learner), *_update(setting, setting.learner)]
    if setting.sampler is not None:
        parts += _sampling(setting, setting.sampler)
    parts = [part for part in parts if part.bytes > 0]
    return StageMemory((*parts, *_slack(parts, setting)))


def trained_parameters(shape: ModelShape, learner: LearnerSettings) -> int:
    """Parameters that have a gradient: all, or those of low-rank adapters."""
    if learner.adapter is None:
        return shape.parameters
    ends = [ends for name, ends in shape.projections.items() if name in (learner.adapter.targets or shape.projections)]
    lengths = sum(outputs for _, outputs in ends) if learner.adapter.dora else 0
    return shape.layers * (learner.adapter.rank * sum(map(sum, ends)) + lengths)


def moment_bytes(shape: ModelShape, learner: LearnerSettings) -> int:
    """Bytes of all optimizer moments (`learning/update_rules.py`): two of a weight in float32 or in 8 bits with a scale
    for 256, or with Muon one for matrices within the blocks."""
    count = trained_parameters(shape, learner)
    if learner.optimizer == "adamw_8bit":
        return 2 * count + 2 * FLOAT32 * count // 256
    hidden = 0
    if learner.optimizer == "muon":
        hidden = count if learner.adapter is not None else shape.layers * shape.matrices
    return 2 * FLOAT32 * count - FLOAT32 * hidden


def layer_activations(shape: ModelShape, size: int, *, written_out: bool, masked: bool) -> int:
    """Bytes that autograd keeps of one token in one layer, with numbers of `size` bytes.

    Of attention queries, keys, values and output, and of the gated feed-forward block gate, up and their product.
    Of each of two norms, input, scale and output. Where the blocks are not written out by the learner
    (`written_out`), norms keep the input in float32 and the normalised output too, the feed-forward block the
    activation of the gate, and attention the log-sum-exp; a dense mask (`masked`) makes keys and values as wide as
    queries. Norms of queries and keys (Qwen3) keep input and scale, and in modules the output.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    if written_out:
        norms = 2 * (FLOAT32 + 2 * size * shape.hidden)
        attention = 2 * size * (queries + keys)
        if shape.head_norms:
            attention += size * (queries + keys) + FLOAT32 * (shape.heads + shape.kv_heads)
        return norms + attention + 3 * size * shape.intermediate
    norms = 2 * (FLOAT32 * (shape.hidden + 1) + 2 * size * shape.hidden)
    attention = 2 * size * (queries + (queries if masked else keys)) + FLOAT32 * shape.heads
    if shape.head_norms:
        attention += (FLOAT32 + size) * (queries + keys) + FLOAT32 * (shape.heads + shape.kv_heads)
    return norms + attention + 4 * size * shape.intermediate


def activations(
    shape: ModelShape, size: int, tokens: int, *, checkpointing: bool, written_out: bool, masked: bool
) -> int:
    """Bytes of a micro-batch's forward pass that wait for the backward pass: the layers, the last norm, and the states
    that logits are made from; with checkpointing the layers' inputs, and all of the one layer that runs again."""
    ends = FLOAT32 + 2 * size * shape.hidden if written_out else FLOAT32 * (shape.hidden + 1) + 2 * size * shape.hidden
    layer = layer_activations(shape, size, written_out=written_out, masked=masked)
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
    """The weights of the forward pass, and what loading them takes: float32 weights where they are trained."""
    shape, size, learner, gpu = setting.shape, setting.compute_bytes, setting.learner, setting.hardware.gpu
    whole = shape.parameters * size
    if learner is None or learner.adapter is not None:
        mapped = shape.parameters * FLOAT32 if size == BFLOAT16 else 0
        return [
            Part("weights", whole, note=_precision(size)),
            Part("weight file", mapped, "load", "float32, mapped", host=gpu),
        ]
    found = [Part("weights", whole, note=_precision(size))]
    if learner.zero_stage == 3:
        # The policy's own module stays whole beside the divided one (`learning/deepspeed_learner.py`).
        gathered = (shape.matrices + shape.embedding) * size
        found += [
            Part("divided weights", whole // learner.shards, host=gpu and learner.offload == "all"),
            Part("gathered weights", gathered, "update", "of one layer and the head"),
        ]
    if learner.shards > 1:
        undivided = shape.parameters * FLOAT32 * (learner.shards - 1) // learner.shards
        found.append(Part("undivided float32 weights", undivided, "load", "until DeepSpeed has taken them"))
    return found


def _trained(setting: Setting, learner: LearnerSettings) -> list[Part]:
    """What is kept of every trained weight from step to step (`learning/optimizer.py`)."""
    shape, size = setting.shape, setting.compute_bytes
    count, moments = trained_parameters(shape, learner), moment_bytes(shape, learner)
    on_host = learner.offload != "none" and setting.hardware.gpu
    divided = learner.shards if learner.zero_stage >= 2 else 1
    own = size == FLOAT32 and learner.adapter is None and not learner.zero_stage
    every = setting.work.checkpoint_every
    saves = every is not None and every < setting.work.steps  # the last step needs none
    found = [
        Part("adapter", count * size if learner.adapter is not None else 0, "running", _precision(size)),
        Part("float32 weights", 0 if own else count * FLOAT32 // learner.shards, host=on_host),
        Part("gradient sums", count * FLOAT32 // divided, "running", "float32", host=on_host),
        Part("optimizer moments", moments // learner.shards, "running", learner.optimizer, host=on_host),
        Part(
            "checkpoint copies", count * FLOAT32 + moments if saves else 0, "checkpoint",
            "of weights and moments", host=setting.hardware.gpu,
        ),
    ]  # fmt: skip
    if learner.adapter is not None:
        exported = shape.parameters * FLOAT32
        found.append(Part("merged weights", exported, "export", "float32", host=setting.hardware.gpu))
        if setting.sampler is not None and setting.sampler.engine == "torch":
            merged = shape.layers * shape.matrices * size
            found.append(Part("merged weights to sample", merged, "running", "beside the base"))
    elif setting.work.reference:
        shards = learner.shards if learner.zero_stage == 3 else 1
        found.append(Part("reference model", shape.parameters * size // shards, note="for the KL term"))
    return found


def _update(setting: Setting, learner: LearnerSettings) -> list[Part]:
    """What one micro-batch needs (`learning/logprobs.py` bounds the logits). Activations go as gradients come, so the
    larger of the two counts."""
    shape, size = setting.shape, setting.compute_bytes
    tokens = update_tokens(setting.work, learner)
    kept = activations(
        shape, size, tokens, checkpointing=learner.gradient_checkpointing, written_out=setting.written_out,
        masked=learner.share_prompts and setting.hardware.gpu,
    )  # fmt: skip
    gradients = trained_parameters(shape, learner) * size
    rows = min(learner.logits_chunk_tokens, tokens)
    block = 6 * min(_BLOCK_ROWS, rows) * shape.vocabulary * FLOAT32
    bucket = 2 * FLOAT32 * min(shape.parameters, max(_BUCKET, shape.embedding)) if learner.zero_stage else 0
    return [
        Part("activations", kept, "update", f"{tokens} tokens"),
        Part("gradients beyond activations", max(0, gradients - kept), "update", _precision(size)),
        Part("logits", rows * shape.vocabulary * size + block, "update", f"a chunk of {rows} tokens"),
        Part("DeepSpeed's buckets", bucket, "update", "gradients on their way"),
    ]


def _sampling(setting: Setting, sampler: SamplerSettings) -> list[Part]:
    """What the engine needs; the torch engine keeps a prompt's keys and values once for its samples, and once more
    laid out for the batch (`sampling/kv_cache.py`)."""
    shape, size, work = setting.shape, setting.compute_bytes, setting.work
    if sampler.engine in ("vllm", "server"):
        return _vllm(setting, sampler)
    if sampler.engine == "elsewhere":
        return []
    sequences = -(-work.sequences // setting.processes)
    rows = min(sampler.batch_size, sequences)
    prompts = min(-(-work.prompts // setting.processes), -(-rows * work.prompts // work.sequences) + 1)
    capacity = -(-work.response.longest // _KV_QUANTUM) * _KV_QUANTUM
    positions = rows * capacity + 2 * prompts * work.prompt.longest
    drawn = rows if setting.hardware.gpu else min(rows, _DRAWN_ROWS)
    cached = f"{rows} samples x {capacity} and {prompts} prompts"
    found = [
        Part("KV cache", positions * shape.kv_token * size, "sample", cached),
        Part("logits to sample", rows * shape.vocabulary * size + 4 * drawn * shape.vocabulary * FLOAT32, "sample"),
    ]
    if sampler.joined_copies:
        # On a GPU single matrices and the head are used where they are; only joined ones are copies.
        copied = shape.layers * shape.matrices + shape.embedding
        if setting.hardware.gpu:
            queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
            copied = shape.layers * shape.hidden * (queries + 2 * keys)
        tables = 2 * shape.positions * shape.head_dim
        found.append(Part("sampler's joined weights", (copied + tables) * size, "running", "laid out for sampling"))
    return found


def _vllm(setting: Setting, sampler: SamplerSettings) -> list[Part]:
    """vLLM takes a share of the GPU, its weights included; asleep it holds little."""
    weights, gpu = setting.shape.parameters * setting.compute_bytes, setting.hardware.gpu
    shared = sampler.engine == "server"
    handed = [Part("weights on their way to vLLM", weights if shared else 0, "running", "shared memory", host=gpu)]
    if sampler.kv_cache_gib is not None or not gpu:
        share = weights + int((1.0 if sampler.kv_cache_gib is None else sampler.kv_cache_gib) * GIB)
        note = "weights of its own and its KV cache"
    else:
        share = int(sampler.memory_fraction * setting.hardware.memory)
        note = "memory_fraction of the GPU: its weights and KV cache"
    phase: Phase = "sample" if sampler.sleep and gpu else "running"
    times = sampler.replicas if shared else 1
    return [Part("vLLM", share * times, phase, note if phase == "running" else f"{note}; asleep otherwise"), *handed]


def _slack(parts: Sequence[Part], setting: Setting) -> list[Part]:
    """What the allocator holds beyond use, in the phase that is the peak."""
    held = StageMemory(tuple(parts))
    fixed = ("Python and libraries", "CUDA", "vLLM", "weight file")
    return [Part("allocator's slack", int(_SLACK * _sum(p for p in held.at_peak if p.name not in fixed)), held.phase)]


def _sum(parts: Iterable[Part]) -> int:
    return sum(part.bytes for part in parts)


def _precision(size: int) -> str:
    return {BFLOAT16: "bfloat16", FLOAT32: "float32"}[size]
