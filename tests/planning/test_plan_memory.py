"""Memory by part, against hand computation and against tensors that autograd really keeps."""

from dataclasses import replace

import pytest
import torch
from plan_samples import FAMILIES, QWEN_7B, SETTING, WORK, P, small_module

from thinkrl.learning.optimizer import MasterOptimizer
from thinkrl.models.policy import Policy
from thinkrl.models.shapes import ModelShape, shape_from_config
from thinkrl.planning.hardware import GIB
from thinkrl.planning.lengths import Lengths
from thinkrl.planning.memory import (
    Setting,
    StageMemory,
    activations,
    layer_activations,
    stage_memory,
    trained_parameters,
    update_tokens,
)
from thinkrl.planning.settings import LearnerSettings, SamplerSettings


def sizes(setting: Setting) -> dict[str, int]:
    return {part.name: part.bytes for part in stage_memory(setting).parts}


def kept_bytes(module: torch.nn.Module, tokens: int) -> int:
    """Bytes of different storages that autograd keeps of a forward pass, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros((1, tokens), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module.base_model(ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_of_a_layer_are_what_autograd_keeps(family: str, dtype: torch.dtype) -> None:
    tokens = 96
    two, three = (small_module(family, layers, dtype) for layers in (2, 3))
    difference = kept_bytes(three, tokens) - kept_bytes(two, tokens)
    shape = shape_from_config(two.config.to_dict())
    assert difference == tokens * layer_activations(shape, dtype.itemsize)
    # The copy of the last states that the logits are made from is the learner's; rotary tables and ids are the rest.
    whole = activations(shape, dtype.itemsize, tokens, checkpointing=False) - tokens * shape.hidden * dtype.itemsize
    assert kept_bytes(two, tokens) - whole == tokens * (2 * shape.head_dim * dtype.itemsize + 8)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    shape = QWEN_7B
    plain = activations(shape, 2, 1000, checkpointing=False)
    saved = plain - activations(shape, 2, 1000, checkpointing=True)
    assert saved == 1000 * (shape.layers - 1) * layer_activations(shape, 2) - 1000 * shape.layers * 2 * shape.hidden


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_the_optimizer_keeps_is_what_it_allocates(dtype: torch.dtype) -> None:
    module = small_module("llama", 2, torch.float32)
    masters = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    module.to(dtype)
    if dtype == torch.float32:
        masters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    optimizer = MasterOptimizer(
        Policy(module, None, frozenset(), "m", masters), betas=(0.9, 0.9), epsilon=1e-8, weight_decay=0.0
    )  # type: ignore[arg-type]
    optimizer.backward(module.base_model(torch.zeros((1, 4), dtype=torch.int64)).last_hidden_state.sum(), 1.0)
    optimizer.step(1.0, 1e-3, None)
    moments = [m for name, rule in optimizer._rules.items() for m in rule.current(masters[name]).values()]
    tensors = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in (*module.parameters(), *masters.values(), *optimizer._sums.values(), *moments)
    }
    shape = shape_from_config(module.config.to_dict())
    found = sizes(replace(SETTING, shape=shape, compute_bytes=dtype.itemsize, sampler=None))
    names = ("weights", "float32 weights", "gradient sums", "optimizer moments")
    planned = sum(found.get(name, 0) for name in names)
    unused = module.lm_head.weight.numel()  # untied, and no part of the loss of this test
    assert planned - sum(tensors.values()) == pytest.approx(unused * 12, abs=8)


def test_parts_of_a_seven_billion_model_by_hand() -> None:
    found = sizes(SETTING)
    assert found["weights"] == 2 * P
    assert found["float32 weights"] == found["gradient sums"] == 4 * P
    assert found["optimizer moments"] == 8 * P
    # 64 samples, 1024 positions, 28 layers, 4 key and value heads of 128, two of them, in bfloat16.
    assert found["KV cache"] == 64 * 1024 * 28 * 4 * 128 * 2 * 2
    assert found["logits"] == 1024 * 152_064 * 2 + 6 * 32 * 152_064 * 4
    assert "reference model" not in found
    assert "sampler's joined weights" not in found


def test_the_largest_phase_counts_and_the_others_do_not() -> None:
    memory = stage_memory(SETTING)
    assert memory.phase == "update"
    assert memory.peak == sum(part.bytes for part in memory.at_peak)
    assert not any(part.name == "KV cache" for part in memory.at_peak)
    many = replace(SETTING, sampler=SamplerSettings(batch_size=64, joined_copies=False))
    longer = replace(many, work=replace(WORK, response=Lengths(4000, 4000, "test"), sequences=4000))
    assert stage_memory(replace(longer, sampler=SamplerSettings(batch_size=4000))).phase == "sample"


def test_a_reference_model_is_kept_for_a_kl_term_alone_and_an_adapter_needs_none() -> None:
    work = replace(WORK, reference=True)
    assert sizes(replace(SETTING, work=work))["reference model"] == 2 * P
    lora = LearnerSettings(adapter_rank=16)
    found = sizes(replace(SETTING, work=work, learner=lora))
    assert "reference model" not in found
    # Rank 16 on q, k, v, o, gate, up and down of each of 28 layers: 16 (in + out) each.
    q, kv, ff, h = 3584, 512, 18944, 3584
    expected = 28 * 16 * (2 * (h + q) + 2 * (h + kv) + 3 * (h + ff))
    assert trained_parameters(QWEN_7B, lora) == expected
    assert found["optimizer moments"] == 8 * expected


@pytest.mark.parametrize(
    ("stage", "weights", "masters", "sums", "moments"), [(1, 2, 0.5, 4, 1), (2, 2, 0.5, 0.5, 1), (3, 0.25, 0.5, 0.5, 1)]
)
def test_zero_stages_spread_what_they_say_over_eight_devices(stage, weights, masters, sums, moments) -> None:
    found = sizes(replace(SETTING, learner=LearnerSettings(processes=8, zero_stage=stage)))
    assert found["weights"] == pytest.approx(weights * P)
    assert found["float32 weights"] == pytest.approx(masters * P)
    assert found["gradient sums"] == pytest.approx(sums * P)
    assert found["optimizer moments"] == pytest.approx(moments * P)


def test_offload_moves_the_optimizer_to_main_memory() -> None:
    settings = LearnerSettings(processes=8, zero_stage=2, offload=True)
    memory = stage_memory(replace(SETTING, learner=settings))
    assert {"float32 weights", "optimizer moments", "gradient sums"} <= {p.name for p in memory.parts if p.host}
    assert memory.peak < stage_memory(replace(SETTING, learner=replace(settings, offload=False))).peak


def test_vllm_takes_its_share_of_the_gpu_and_none_of_the_update_when_it_sleeps() -> None:
    awake = SamplerSettings(engine="vllm", memory_fraction=0.4)
    assert sizes(replace(SETTING, sampler=awake))["vLLM"] == int(0.4 * 80 * GIB)
    asleep = stage_memory(replace(SETTING, sampler=replace(awake, sleep=True, memory_fraction=0.1)))
    assert asleep.phase == "update"
    assert not any(part.name == "vLLM" for part in asleep.at_peak)
    assert sizes(replace(SETTING, sampler=replace(awake, kv_cache_gib=2)))["vLLM"] == 2 * P + 2 * GIB


def test_a_micro_batch_holds_the_longest_sequence_and_no_more_than_there_is() -> None:
    long = replace(WORK, response=Lengths(3000, 3000, "test"))
    assert update_tokens(long, LearnerSettings(micro_batch_tokens=1024)) == 3200
    few = replace(WORK, prompts=1, sequences=2, response=Lengths(10, 10, "test"), prompt=Lengths(20, 20, "test"))
    assert update_tokens(few, LearnerSettings(micro_batch_tokens=1024)) == 41
    assert update_tokens(few, LearnerSettings(micro_batch_tokens=1024, share_prompts=False)) == 61
    assert update_tokens(WORK, LearnerSettings(micro_batch_tokens=2048)) == 2048


@pytest.mark.parametrize("change", ["micro_batch_tokens", "batch_size", "logits_chunk_tokens", "response"])
def test_more_of_anything_never_takes_less(change: str) -> None:
    def peak(factor: int) -> StageMemory:
        learner = LearnerSettings(
            micro_batch_tokens=1024 * (factor if change == "micro_batch_tokens" else 4),
            logits_chunk_tokens=256 * (factor if change == "logits_chunk_tokens" else 1),
        )
        sampler = SamplerSettings(batch_size=16 * (factor if change == "batch_size" else 1))
        length = 512 * (factor if change == "response" else 1)
        work = replace(WORK, response=Lengths(length, length, "test"))
        return stage_memory(replace(SETTING, work=work, learner=learner, sampler=sampler))

    peaks = [sum(part.bytes for part in peak(factor).parts) for factor in (1, 2, 4)]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1]


def test_the_shape_of_the_test_model_is_read_right() -> None:
    shape = shape_from_config(small_module("qwen3", 2, torch.float32).config.to_dict())
    assert shape == ModelShape("qwen3", 2, 64, 160, 4, 2, 16, 50, shape.tied, 256)
