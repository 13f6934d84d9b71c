"""Two processes learn what one does: plainly, and under every stage of ZeRO; their checkpoints are interchangeable."""

import gc
import importlib.util
import weakref
from typing import Any

import many_steps
import pytest
import torch
from many_steps import SETTINGS, learn, run_ranks

from thinkrl.learning import deepspeed_learner
from thinkrl.learning.deepspeed_learner import DeepSpeedLearner
from thinkrl.learning.learner import LearnerState
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.sampling.sampler import SamplingSpec

if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed", allow_module_level=True)

HALF = 3
PLAIN = TorchLearner(**SETTINGS)
SOURCES = {"torch": PLAIN, **{f"stage {s}": DeepSpeedLearner(zero_stage=s, **SETTINGS) for s in (1, 2, 3)}}
LIMIT = 1e-5


def state_after(learned: dict[str, Any], step: int) -> LearnerState:
    return LearnerState(*learned["states"][step - 1])


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over norm, over all tensors together."""
    assert a.keys() == b.keys()
    flat_a, flat_b = (torch.cat([g[name].flatten().double() for name in sorted(a)]) for g in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())


def released(source: TorchLearner) -> bool:
    """Whether the weights of a learner are gone with it, as the next stage of a run needs."""
    from tiny_policy import tiny_policy

    policy = tiny_policy()
    learner = source.open(policy, total_steps=1, with_reference=True)
    learner.supervise(many_steps.supervised(0))
    learner.reference_logprobs(many_steps.grpo_batch(0)[0], SamplingSpec())
    held = [weakref.ref(learner._scorer.module), weakref.ref(policy.module)]
    del learner, policy
    gc.collect()
    return all(module() is None for module in held)


def everything() -> dict[str, Any]:
    """What this process saw of all sources: a whole learning, the same from its middle on, and one without KL."""
    deepspeed_learner.WHOLE_BELOW = 0  # the weights of a tiny model would all stay whole
    found = {}
    for name, source in SOURCES.items():
        whole = learn(source)
        found[name] = {
            "whole": whole,
            "resumed": learn(source, start=(state_after(whole, HALF), HALF)),
            "flat": learn(source, kl=False),
        }
    from_plain = state_after(found["torch"]["whole"], HALF)
    for name, source in SOURCES.items():
        found[name]["released"] = released(source)
    found["stage 3"]["from torch"] = learn(SOURCES["stage 3"], start=(from_plain, HALF))
    return found


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    torch.set_num_threads(1)
    return {"whole": learn(PLAIN), "flat": learn(PLAIN, kl=False)}


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return run_ranks(2, everything)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("kind", ["whole", "flat"])
def test_losses_metrics_and_weights_are_those_of_one_process(one, two, name, kind) -> None:
    reference, (first, second) = one[kind], (rank[name][kind] for rank in two)
    assert first["rows"] == second["rows"], "every process knows the numbers of all"
    for row, expected in zip(first["rows"], reference["rows"], strict=True):
        assert row == pytest.approx(expected, rel=LIMIT, abs=1e-6)
    assert difference(first["weights"], reference["weights"]) < LIMIT
    for (values, tensors), (expected_values, expected) in zip(first["states"], reference["states"], strict=True):
        assert values == expected_values
        assert difference(tensors, expected) < LIMIT
    assert torch.allclose(first["logprobs"], reference["logprobs"], rtol=0, atol=1e-5, equal_nan=True)
    assert torch.equal(first["logprobs"].nan_to_num(), second["logprobs"].nan_to_num())


@pytest.mark.parametrize("name", SOURCES)
def test_samplers_of_both_processes_get_the_same_whole_weights(two, name) -> None:
    first, second = (rank[name]["whole"] for rank in two)
    for given in ("streamed", "module"):
        assert all(torch.equal(first[given][key], second[given][key]) for key in first[given])
        assert difference(first[given], first["weights"]) == 0.0


@pytest.mark.parametrize("name", SOURCES)
def test_only_the_first_process_holds_a_state(two, name) -> None:
    assert all(tensors == {} for _, tensors in two[1][name]["whole"]["states"])


@pytest.mark.parametrize("name", SOURCES)
def test_a_learning_goes_on_from_its_middle_bit_for_bit(two, name) -> None:
    whole, resumed = two[0][name]["whole"], two[0][name]["resumed"]
    assert resumed["rows"] == whole["rows"][HALF:]
    for (_, tensors), (_, expected) in zip(resumed["states"], whole["states"][HALF:], strict=True):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    assert all(torch.equal(resumed["weights"][key], whole["weights"][key]) for key in whole["weights"])


@pytest.mark.parametrize("name", SOURCES)
def test_one_process_without_deepspeed_goes_on_from_it(one, two, name) -> None:
    resumed = learn(PLAIN, start=(state_after(two[0][name]["whole"], HALF), HALF))
    assert difference(resumed["weights"], one["whole"]["weights"]) < LIMIT
    for row, expected in zip(resumed["rows"], one["whole"]["rows"][HALF:], strict=True):
        assert row == pytest.approx(expected, rel=LIMIT, abs=1e-6)


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_left_of_a_learner_that_is_gone(two, name) -> None:
    assert [rank[name]["released"] for rank in two] == [True, True]


def test_deepspeed_goes_on_from_where_torch_was(one, two) -> None:
    resumed = two[0]["stage 3"]["from torch"]
    assert difference(resumed["weights"], one["whole"]["weights"]) < LIMIT
    assert difference(resumed["states"][-1][1], one["whole"]["states"][-1][1]) < LIMIT


def test_deepspeed_works_alone_too(one) -> None:
    (alone,) = run_ranks(1, learn, SOURCES["stage 3"])
    assert difference(alone["weights"], one["whole"]["weights"]) < LIMIT
    assert difference(alone["states"][-1][1], one["whole"]["states"][-1][1]) < LIMIT


def test_the_steps_are_as_uneven_as_they_should_be() -> None:
    """One example among two processes, a batch of one response, and one without any advantage."""
    assert [len(many_steps.supervised(step)) for step in range(3)] == [3, 5, 1]
    batches = [many_steps.grpo_batch(step) for step in range(3)]
    assert len(batches[1][0]) == 1
    assert not batches[2][1].values.values.any()


CASES = {
    "stage 3, untied": ({"zero_stage": 3}, {"tie": False}),
    "stage 2, untied": ({"zero_stage": 2}, {"tie": False}),
    "stage 3, layers recomputed": ({"zero_stage": 3, "gradient_checkpointing": True}, {}),
    "stage 3, prompts not shared": ({"zero_stage": 3, "share_prompts": False}, {}),
    "stage 3, all offloaded": ({"zero_stage": 3, "offload": "all"}, {}),
    "stage 2, offloaded": ({"zero_stage": 2, "offload": "optimizer"}, {}),
    "stage 1, offloaded": ({"zero_stage": 1, "offload": "optimizer"}, {}),
}


def other_cases() -> dict[str, Any]:
    deepspeed_learner.WHOLE_BELOW = 0
    return {name: learn(DeepSpeedLearner(**{**SETTINGS, **own}), **how) for name, (own, how) in CASES.items()}


@pytest.mark.slow
def test_three_processes_learn_what_one_does_in_every_configuration() -> None:
    torch.set_num_threads(1)
    first, *_ = run_ranks(3, other_cases)
    for name, (_, how) in CASES.items():
        reference = learn(PLAIN, **how)
        assert difference(first[name]["weights"], reference["weights"]) < LIMIT, name
        assert difference(first[name]["states"][-1][1], reference["states"][-1][1]) < LIMIT, name


def in_bfloat16() -> dict[str, Any]:
    deepspeed_learner.WHOLE_BELOW = 0
    return {name: learn(source, dtype=torch.bfloat16) for name, source in SOURCES.items()}


@pytest.mark.slow
def test_bfloat16_keeps_float32_weights_and_rounds_no_more_than_one_process() -> None:
    torch.set_num_threads(1)
    first, *_ = run_ranks(2, in_bfloat16)
    reference = learn(PLAIN, dtype=torch.bfloat16)
    exact = learn(PLAIN)
    rounding = difference(reference["weights"], exact["weights"])
    for name, found in first.items():
        assert all(weight.dtype == torch.float32 for weight in found["weights"].values()), name
        assert all(weight.dtype == torch.bfloat16 for weight in found["streamed"].values()), name
        assert difference(found["weights"], exact["weights"]) < 2 * rounding, name
