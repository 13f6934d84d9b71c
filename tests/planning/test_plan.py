"""Plans of composed recipes: what the stages do, whether they fit, and what would make them fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plan_samples import SETTING

from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.learning.adapters import Adapter
from thinkrl.learning.deepspeed_learner import DeepSpeedLearner
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.planning.hardware import find_hardware
from thinkrl.planning.memory import Setting
from thinkrl.planning.plan import Plan, _changes, fits, make_plan, what_would_fit
from thinkrl.planning.settings import AdapterSettings, LearnerSettings, SamplerSettings, read_learner, read_sampler
from thinkrl.sampling.torch_sampler import TorchSampler
from thinkrl.sampling.vllm_sampler import VLLMSampler
from thinkrl.sampling.vllm_server_sampler import VLLMServerSampler
from thinkrl.stages.experiment import Experiment


def planned(*overrides: str, hardware: str = "h100", recipe: str = "quickstart") -> Plan:
    composed = compose(recipe, overrides, ())
    return make_plan(build(Experiment, composed.tree, composed), find_hardware(hardware, measure=False))


def test_stages_have_the_sizes_of_the_recipe() -> None:
    works = {stage.name: stage.work for stage in planned().stages}
    assert list(works) == [
        "cold_start", "after_cold_start", "selection", "refinement", "after_refinement", "grpo", "after_grpo",
    ]  # fmt: skip
    assert (works["grpo"].steps, works["grpo"].prompts, works["grpo"].sequences) == (60, 8, 64)
    assert works["grpo"].response.longest == 44
    assert (works["cold_start"].steps, works["cold_start"].sequences) == (60, 6)
    assert works["selection"].steps == 3
    assert works["after_grpo"].sequences == 400
    assert works["cold_start"].sampler is None
    assert works["selection"].learner is None
    assert not works["grpo"].reference
    assert works["refinement"].response == works["selection"].response


def test_a_kl_term_brings_a_reference_model_and_its_passes() -> None:
    with_kl = planned("algorithm.objective.kl={_target_:thinkrl.algorithms.kl.KLLoss,coefficient:0.1}")
    grpo = with_kl.stages[5]
    assert grpo.work.reference
    assert grpo.work.forwards == 1
    assert "reference model" in {part.name for part in grpo.memory.parts}


def test_a_small_recipe_fits_a_large_gpu_and_a_large_model_does_not() -> None:
    small, large = planned(), planned("model=qwen2_5_32b")
    assert small.fits
    assert all(not stage.changes for stage in small.stages)
    assert not large.fits
    assert large.largest.memory.peak > 16 * 32_763_876_352


def test_the_json_adds_up() -> None:
    made = planned("model=qwen2_5_7b", hardware="8xh100-80gb").as_json()
    assert made["parameters"] == 7_615_616_512
    assert made["peak_bytes"] == max(stage["memory"]["peak_bytes"] for stage in made["stages"].values())
    for stage in made["stages"].values():
        memory, phase = stage["memory"], stage["memory"]["peak_phase"]
        phases = ("always", phase) if phase == "load" else ("always", "running", phase)
        parts = [p["bytes"] for p in memory["parts"] if not p["host"] and p["phase"] in phases]
        assert memory["peak_bytes"] == sum(parts)
        assert stage["time"]["seconds_step"] == pytest.approx(sum(stage["time"]["seconds"].values()))
        assert stage["fits"] == (memory["peak_bytes"] <= 0.9 * 80 * 2**30)
    assert made["seconds"] == pytest.approx(sum(s["time"]["seconds_stage"] for s in made["stages"].values()))


CROWDED = replace(SETTING, learner=LearnerSettings(micro_batch_tokens=16384, logits_chunk_tokens=16384))
SMALL = replace(CROWDED, shape=replace(SETTING.shape, layers=8, vocabulary=32000))


def apply(setting: Setting, texts: tuple[str, ...]) -> Setting:
    for text, change in _changes(setting):
        if text in texts:
            setting = change(setting)
    return setting


@pytest.mark.parametrize("name", ["8xh100-80gb", "h100", "2xa100-40gb", "l40s", "rtx4090"])
@pytest.mark.parametrize("setting", [SETTING, CROWDED, SMALL], ids=["7b", "crowded", "small"])
def test_the_changes_that_are_named_make_it_fit_and_none_is_idle(setting: Setting, name: str) -> None:
    setting = replace(setting, hardware=find_hardware(name))
    if fits(setting):
        return
    texts = what_would_fit(setting)
    if not texts:
        assert not fits(apply(setting, tuple(text for text, _ in _changes(setting))))
        return
    assert fits(apply(setting, texts))
    for text in texts:
        assert not fits(apply(setting, tuple(other for other in texts if other != text)))


def test_a_long_micro_batch_is_shortened_before_anything_dearer_is_changed() -> None:
    setting = replace(SMALL, shape=replace(SMALL.shape, layers=4), hardware=find_hardware("a100-40gb"))
    assert not fits(setting)
    changes = what_would_fit(setting)
    assert changes
    assert all("tokens=" in text for text in changes)


def test_vllm_that_takes_too_much_is_given_less_or_sleeps() -> None:
    small = replace(SETTING, shape=replace(SETTING.shape, layers=8), hardware=find_hardware("h100"))
    server = replace(small, sampler=SamplerSettings("server", memory_fraction=0.85))
    assert not fits(server)
    assert [text.partition("=")[0] for text in what_would_fit(server)] == ["sampler.memory_fraction"]
    inside = replace(small, sampler=SamplerSettings("vllm", memory_fraction=0.6))
    assert what_would_fit(inside)[0] == "sampler.sleep=true"


def test_a_model_that_one_gpu_cannot_hold_is_spread_over_eight() -> None:
    changes = what_would_fit(SETTING)
    assert changes == ("learner=deepspeed learner.processes=8 learner.zero_stage=2",)


def test_engines_are_read_by_their_fields() -> None:
    learner = DeepSpeedLearner(processes=4, zero_stage=3, offload="all", micro_batch_tokens=4096)
    found = read_learner(learner)
    assert (found.zero_stage, found.processes, found.shards, found.offload) == (3, 4, 4, "all")
    assert (found.micro_batch_tokens, found.optimizer, found.adapter) == (4096, "adamw", None)
    adapted = read_learner(TorchLearner(adapter=Adapter(rank=8, dora=True), processes=2))
    assert adapted.adapter == AdapterSettings(8, None, True)
    assert adapted.shards == 1

    shape = SETTING.shape
    vllm = read_sampler(VLLMSampler(memory_fraction=0.3, sleep=True), shape)
    assert (vllm.engine, vllm.memory_fraction, vllm.sleep) == ("vllm", 0.3, True)
    assert read_sampler(VLLMServerSampler(), shape).engine == "server"
    assert read_sampler(VLLMServerSampler(urls=("http://a:1",)), shape).engine == "elsewhere"
    assert read_sampler(VLLMServerSampler(devices=("1",)), shape).engine == "elsewhere"
    assert read_sampler(TorchSampler(batch_size=7), shape) == SamplerSettings(batch_size=7)
    assert not read_sampler(TorchSampler(plain_forward=True), shape).joined_copies


@pytest.mark.parametrize("choice", sorted(p.stem for p in (Path(__file__).parents[2] / "conf/learner").glob("*.yaml")))
def test_every_shipped_learner_is_read_with_its_own_settings(choice: str) -> None:
    found: Any = planned(f"learner={choice}", "learner.micro_batch_tokens=1234").stages[0].work.learner
    assert read_learner(found).micro_batch_tokens == 1234
    assert read_learner(found).processes == found.processes


@pytest.mark.parametrize("choice", sorted(p.stem for p in (Path(__file__).parents[2] / "conf/sampler").glob("*.yaml")))
def test_every_shipped_sampler_is_known(choice: str) -> None:
    sampler = planned(f"sampler={choice}").stages[1].work.sampler
    engine = read_sampler(sampler, SETTING.shape).engine
    assert engine == {"torch": "torch", "vllm": "vllm", "vllm_server": "server"}[choice]


def test_what_is_unknown_of_the_data_is_assumed_and_said(tmp_path: Path) -> None:
    made = planned(f"stages.grpo.prompts={{_target_:thinkrl.data.files.FilePrompts,path:{tmp_path}/none.jsonl}}")
    prompt = {stage.name: stage.work.prompt for stage in made.stages}["grpo"]
    assert prompt.source.startswith("assumed: ")
    assert "none.jsonl" in prompt.source
    assert prompt.mean == prompt.longest > 0


def test_prompts_are_counted_with_the_models_own_tokenizer() -> None:
    """The byte tokenizer makes one token of each byte, so the count can be made by hand."""
    made = planned("model=tiny")
    system = "Think step by step in <think></think>, then answer in <answer></answer>."
    composed = compose("quickstart", ["model=tiny"], ())
    prompts = build(Experiment, composed.tree, composed).data.prompts()[:200]
    marks = sum(len(mark) - 1 for mark in ("<think>", "</think>", "<answer>", "</answer>"))
    fixed = len(f"\x01system\n{system}\x01\n\x01user\n\x01\n\x01assistant\n") - marks
    by_hand = [fixed + len(prompt.messages[-1].content) for prompt in prompts]
    grpo = {stage.name: stage.work for stage in made.stages}["grpo"]
    assert grpo.prompt.longest == max(by_hand)
    assert grpo.prompt.mean == pytest.approx(sum(by_hand) / len(by_hand))
