"""Time by part, against counts of operations that torch itself makes, and against hand computation."""

from dataclasses import replace

import pytest
import torch
from plan_samples import H100, SETTING, WORK, small_module
from torch.utils.flop_counter import FlopCounterMode

from thinkrl.models.shapes import published_shapes, shape_from_config
from thinkrl.planning.hardware import find_hardware
from thinkrl.planning.lengths import Lengths
from thinkrl.planning.settings import LearnerSettings, SamplerSettings
from thinkrl.planning.timing import GPU_TORCH, forward_flops, stage_time


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_forward_pass_has_the_operations_that_torch_counts(family: str) -> None:
    module, tokens = small_module(family, 3, torch.float32), 40
    module.config._attn_implementation = "eager"  # the products of fused attention are not counted on a processor
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros((1, tokens), dtype=torch.int64))
    shape = shape_from_config(module.config.to_dict())
    # torch counts all pairs of tokens, also those that the causal mask hides.
    assert forward_flops(shape, tokens, tokens, tokens) == counter.get_total_flops()


def test_the_learner_costs_six_operations_a_parameter_and_token() -> None:
    time = stage_time(replace(SETTING, learner=LearnerSettings(share_prompts=False)))
    tokens = 64 * (100 + 824)
    assert time.learned_tokens == tokens
    products = 6 * tokens * 28 * published_shapes()["Qwen/Qwen2.5-7B"].matrices
    spent = (time.seconds["forward"] + time.seconds["backward"]) * H100.flops * GPU_TORCH.learning
    # Attention and logits are the rest.
    assert products < spent < 1.35 * products


def test_a_shared_prompt_is_read_once() -> None:
    shared, apart = (
        stage_time(replace(SETTING, learner=LearnerSettings(share_prompts=share))) for share in (True, False)
    )
    assert apart.learned_tokens - shared.learned_tokens == (64 - 8) * 100
    assert shared.prompt_tokens == 8 * 100
    assert shared.sampled_tokens == 64 * 824
    assert shared.seconds["forward"] < apart.seconds["forward"]


def test_checkpointing_costs_one_more_forward_pass() -> None:
    plain = stage_time(SETTING).seconds
    again = stage_time(replace(SETTING, learner=LearnerSettings(gradient_checkpointing=True))).seconds
    assert again["backward"] == pytest.approx(plain["backward"] + plain["forward"])


def test_other_passes_are_counted() -> None:
    work = replace(WORK, forwards=2, passes=3, updates=6)
    plain, more = stage_time(SETTING).seconds, stage_time(replace(SETTING, work=work)).seconds
    assert more["forward"] == pytest.approx(3 * plain["forward"])
    assert more["other log-probabilities"] == pytest.approx(2 * plain["forward"])
    assert more["optimizer"] == pytest.approx(6 * plain["optimizer"])


def test_decoding_few_samples_is_bound_by_what_is_read_and_costs_the_same_for_one() -> None:
    setting = replace(SETTING, sampler=SamplerSettings(engine="vllm", batch_size=64))
    one, two = (stage_time(replace(setting, work=replace(WORK, sequences=n))).seconds["sampling"] for n in (1, 2))
    assert one == pytest.approx(two, rel=0.01)
    read = 2 * (28 * SETTING.shape.matrices + SETTING.shape.embedding)
    assert one == pytest.approx(824 * read / (0.6 * 3350e9), rel=0.01)


def test_shorter_responses_take_less_and_none_is_longer_than_the_limit() -> None:
    whole, half, beyond = (stage_time(SETTING, tokens) for tokens in (None, 412, 5000))
    assert half.sampled_tokens == 64 * 412
    assert half.step < whole.step
    assert beyond.sampled_tokens == whole.sampled_tokens


def test_a_step_is_the_sum_of_its_parts_and_a_stage_of_its_steps() -> None:
    time = stage_time(SETTING)
    assert time.step == pytest.approx(sum(time.seconds.values()))
    assert time.stage == pytest.approx(10 * time.step)
    # Checkpoints after step 5; the last step makes none: 12 bytes a parameter, spread over ten steps.
    assert time.seconds["checkpoints"] == pytest.approx(12 * SETTING.shape.parameters / GPU_TORCH.disk / 10)
    assert all(share <= 1 for name, share in time.assumptions.items() if name not in ("disk",))


def test_eight_processes_share_the_work() -> None:
    one = stage_time(SETTING).seconds
    eight = stage_time(replace(SETTING, learner=LearnerSettings(processes=8, zero_stage=2))).seconds
    for part in ("forward", "backward", "optimizer"):
        assert eight[part] == pytest.approx(one[part] / 8)
    assert eight["sampling"] <= one["sampling"]


TWO_CORES = replace(find_hardware("cpu", measure=False), flops=0.4e12, bandwidth=20e9)
SMOL = replace(SETTING, shape=published_shapes()["HuggingFaceTB/SmolLM2-135M-Instruct"], hardware=TWO_CORES)


def test_sampling_is_near_what_was_measured_on_two_cores() -> None:
    """benchmarks/results/sampler_speed.json at commit 83de1f3: 64 samples of 64 tokens after prompts of 64 tokens,
    701 tokens a second."""
    work = replace(WORK, prompt=Lengths(64, 64, "test"), response=Lengths(64, 64, "test"))
    time = stage_time(replace(SMOL, work=work, learner=None))
    speed = time.sampled_tokens / (time.seconds["sampling"] + time.seconds["reading prompts"])
    assert 701 / 1.5 < speed < 701 * 1.5


def test_learning_is_near_what_was_measured_on_two_cores() -> None:
    """Quickstart's cold start with seed 0: 6 traces of 54 and 33 tokens take 1.65 s a step."""
    work = replace(WORK, prompts=6, sequences=6, prompt=Lengths(54, 60, "test"), response=Lengths(33, 35, "test"))
    seconds = stage_time(replace(SMOL, work=work, sampler=None)).seconds
    assert 1.65 / 1.5 < seconds["forward"] + seconds["backward"] + seconds["optimizer"] < 1.65 * 1.5
