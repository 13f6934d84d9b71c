"""Memory by part, against hand computation and against tensors that autograd really keeps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plan_samples import FAMILIES, QWEN_7B, SETTING, WORK, P, small_module

from thinkrl.learning.block_body import BlockBody
from thinkrl.learning.branch_attention import branch_buckets
from thinkrl.learning.learner import Example
from thinkrl.learning.optimizer import MasterOptimizer
from thinkrl.learning.packing import example_paths, pack
from thinkrl.learning.update_rules import update_rules
from thinkrl.models.policy import Policy
from thinkrl.models.shapes import ModelShape, shape_from_config
from thinkrl.planning.hardware import GIB, find_hardware
from thinkrl.planning.lengths import Lengths
from thinkrl.planning.memory import (
    Setting,
    StageMemory,
    activations,
    layer_activations,
    moment_bytes,
    stage_memory,
    trained_parameters,
    update_tokens,
)
from thinkrl.planning.settings import AdapterSettings, LearnerSettings, SamplerSettings


def sizes(setting: Setting) -> dict[str, int]:
    return {part.name: part.bytes for part in stage_memory(setting).parts}


def kept_bytes(module: torch.nn.Module, tokens: int, way: str) -> int:
    """Bytes of different storages that autograd keeps of a forward pass, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(tokens, dtype=torch.int64)
    mask = torch.zeros((1, 1, tokens, tokens), dtype=module.dtype)
    example = Example(ids.numpy().astype(np.int32), np.zeros(1, dtype=np.int32))
    buckets = branch_buckets(pack(example_paths([example]), tokens, share=True))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if way == "written out":
            BlockBody(module)(ids, torch.arange(tokens), buckets)
        else:
            module.base_model(ids[None], attention_mask=mask if way == "masked" else None, use_cache=False)
    mask_bytes = mask.untyped_storage().nbytes() if way == "masked" else 0
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) - mask_bytes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("way", ["written out", "module", "masked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_of_a_layer_are_what_autograd_keeps(family: str, way: str, dtype: torch.dtype) -> None:
    tokens, size = 96, dtype.itemsize
    two, three = (small_module(family, layers, dtype) for layers in (2, 3))
    ways = {"written_out": way == "written out", "masked": way == "masked"}
    difference = kept_bytes(three, tokens, way) - kept_bytes(two, tokens, way)
    shape = shape_from_config(two.config.to_dict())
    assert difference == tokens * layer_activations(shape, size, **ways)
    # The copy of the last states that logits are made from is the learner's; rotary tables and ids are the rest.
    whole = activations(shape, size, tokens, checkpointing=False, **ways) - tokens * shape.hidden * size
    assert kept_bytes(two, tokens, way) - whole == tokens * (2 * shape.head_dim * size + 8)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_layer() -> None:
    shape, ways = QWEN_7B, {"written_out": False, "masked": False}
    plain = activations(shape, 2, 1000, checkpointing=False, **ways)
    saved = plain - activations(shape, 2, 1000, checkpointing=True, **ways)
    layer = layer_activations(shape, 2, **ways)
    assert saved == 1000 * (shape.layers - 1) * layer - 1000 * shape.layers * 2 * shape.hidden


def test_the_learner_computes_its_own_blocks_on_a_processor_alone() -> None:
    processor = replace(SETTING, hardware=find_hardware("cpu", measure=False))
    assert processor.written_out
    assert not SETTING.written_out
    assert not replace(processor, shape=replace(QWEN_7B, family="gemma3")).written_out
    assert not replace(processor, learner=LearnerSettings(share_prompts=False)).written_out
    assert not replace(processor, learner=LearnerSettings(zero_stage=3)).written_out


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
    # 64 samples of 832 positions, and 8 prompts of 200 twice: 28 layers, 4 key and value heads of 128, in bfloat16.
    assert found["KV cache"] == (64 * 832 + 2 * 8 * 200) * 28 * 4 * 128 * 2 * 2
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


def test_loading_needs_float32_weights_whole_and_nothing_that_comes_later() -> None:
    spread = LearnerSettings(processes=8, zero_stage=3)
    memory = stage_memory(replace(SETTING, learner=spread, sampler=SamplerSettings("server", memory_fraction=0.5)))
    names = {part.name for part in memory.present("load")}
    assert {"weights", "float32 weights", "undivided float32 weights"} <= names
    assert not names & {"vLLM", "gradient sums", "optimizer moments", "activations", "sampler's joined weights"}
    whole = [p.bytes for p in memory.present("load") if "float32" in p.name]
    assert sum(whole) == pytest.approx(4 * P)


def test_what_an_adapter_exports_is_in_main_memory_beside_a_gpu() -> None:
    lora = replace(SETTING, learner=LearnerSettings(adapter=AdapterSettings(16)))
    (merged,) = (part for part in stage_memory(lora).parts if part.name == "merged weights")
    assert merged.host
    assert merged.bytes == 4 * P
    here = replace(lora, hardware=find_hardware("cpu", measure=False))
    assert "merged weights" in {part.name for part in stage_memory(here).present("export")}


def test_a_reference_model_is_kept_for_a_kl_term_alone_and_an_adapter_needs_none() -> None:
    work = replace(WORK, reference=True)
    assert sizes(replace(SETTING, work=work))["reference model"] == 2 * P
    lora = LearnerSettings(adapter=AdapterSettings(16))
    found = sizes(replace(SETTING, work=work, learner=lora))
    assert "reference model" not in found
    # Rank 16 on q, k, v, o, gate, up and down of each of 28 layers: 16 (in + out) each.
    q, kv, ff, h = 3584, 512, 18944, 3584
    expected = 28 * 16 * (2 * (h + q) + 2 * (h + kv) + 3 * (h + ff))
    assert trained_parameters(QWEN_7B, lora) == expected
    assert found["optimizer moments"] == 8 * expected
    assert found["float32 weights"] == found["gradient sums"] == 4 * expected
    two = LearnerSettings(adapter=AdapterSettings(8, ("q_proj", "v_proj"), dora=True))
    assert trained_parameters(QWEN_7B, two) == 28 * (8 * (h + q) + 8 * (h + kv) + q + kv)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_are_as_many_as_the_rule_keeps(optimizer: str) -> None:
    module = small_module("qwen3", 2, torch.float32)
    weights = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    ends = {name for name in weights if "embed" in name or "lm_head" in name}
    rules = update_rules(optimizer, weights, ends, betas=(0.9, 0.9), epsilon=1e-8, weight_decay=0.0)
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    for rule in dict.fromkeys(rules.values()):
        rule.step(1e-3)
    kept = sum(m.nbytes for name, rule in rules.items() for m in rule.current(weights[name]).values())
    shape = shape_from_config(module.config.to_dict())
    assert moment_bytes(shape, LearnerSettings(optimizer=optimizer)) == kept


def test_moments_in_8_bits_take_a_quarter() -> None:
    whole, small = (moment_bytes(QWEN_7B, LearnerSettings(optimizer=o)) for o in ("adamw", "adamw_8bit"))
    assert whole == 8 * P
    assert 0.25 * whole < small < 0.26 * whole


@pytest.mark.parametrize(
    ("stage", "weights", "masters", "sums", "moments"),
    [(1, 2, 0.5, 4, 1), (2, 2, 0.5, 0.5, 1), (3, 2.25, 0.5, 0.5, 1)],
)
def test_zero_stages_spread_what_they_say_over_eight_devices(stage, weights, masters, sums, moments) -> None:
    found = sizes(replace(SETTING, learner=LearnerSettings(processes=8, zero_stage=stage)))
    assert found["weights"] + found.get("divided weights", 0) == pytest.approx(weights * P)
    assert found["float32 weights"] == pytest.approx(masters * P)
    assert found["undivided float32 weights"] + found["float32 weights"] == pytest.approx(4 * P)
    assert found["gradient sums"] == pytest.approx(sums * P)
    assert found["optimizer moments"] == pytest.approx(moments * P)


def test_offload_moves_the_optimizer_to_main_memory() -> None:
    settings = LearnerSettings(processes=8, zero_stage=2, offload="optimizer")
    memory = stage_memory(replace(SETTING, learner=settings))
    assert {"float32 weights", "optimizer moments", "gradient sums"} <= {p.name for p in memory.parts if p.host}
    assert memory.peak < stage_memory(replace(SETTING, learner=replace(settings, offload="none"))).peak


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
