import pytest
import torch
from tiny_policy import (
    make_rollouts,
    open_learner,
    random_advantages,
    relative_difference,
    tiny_policy,
    update_gradients,
)
from torch.nn import functional

from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.learning.block_body import BlockBody, _Gate, _Normal, _Rotation, writes_out
from thinkrl.learning.branch_attention import branch_buckets
from thinkrl.learning.packing import pack
from thinkrl.sampling.sampler import SamplingSpec

FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "llama with scaled rotation": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 2.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 8,
        }
    },
}


def family_policy(name, **settings):
    return tiny_policy(name.split()[0], **FAMILIES[name], **settings)


def plain_row(tokens=13):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 40, (tokens,), generator=generator), torch.arange(tokens)


def causal(tokens):
    import numpy as np

    from thinkrl.learning.packing import _path

    (row,) = pack([_path(np.zeros(tokens, np.int32), np.ones(1, np.int32), np.zeros(1, np.int64), 0)], 1, share=True)
    return branch_buckets([row])


def states_and_gradients(module, forward):
    states = forward()
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    named = {name: p for name, p in module.named_parameters() if name != "lm_head.weight"}
    return states, dict(zip(named, torch.autograd.grad((weights * states).sum(), list(named.values())), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_and_gradients_equal_those_of_transformers(family, dtype, limit, checkpointing):
    """In float64 the rotary tables of transformers stay in float32, as ours do, so little is left to differ."""
    module = family_policy(family).module.to(dtype)
    ids, positions = plain_row()
    body = BlockBody(module, checkpointing=checkpointing)
    states, gradients = states_and_gradients(module, lambda: body(ids, positions, causal(len(ids))))
    expected, others = states_and_gradients(module, lambda: module.base_model(ids[None]).last_hidden_state[0])
    assert (states - expected).abs().max() <= limit * expected.abs().max()
    for name, gradient in gradients.items():
        assert (gradient - others[name]).norm() <= limit * others[name].norm(), name


def test_half_precision_is_as_near_the_exact_states_as_transformers_is():
    exact = tiny_policy(dtype=torch.float64).module
    half = tiny_policy(dtype=torch.bfloat16).module
    exact.load_state_dict(half.state_dict())
    ids, positions = plain_row()
    with torch.no_grad():
        wanted = exact.base_model(ids[None]).last_hidden_state[0]
        ours = (BlockBody(half)(ids, positions, causal(len(ids))) - wanted).norm()
        theirs = (half.base_model(ids[None]).last_hidden_state[0] - wanted).norm()
    assert ours < 1.2 * theirs


def double(*shape):
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64
    ).requires_grad_()


def test_gradients_of_the_pieces_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(lambda x, w: _Normal.apply(x, w, 1e-3), (double(3, 2, 5), double(5)))
    angles = double(3, 1, 2).detach().repeat(1, 1, 2)
    assert torch.autograd.gradcheck(lambda x: _Rotation.apply(x, angles.cos(), angles.sin()), (double(3, 2, 4),))
    assert torch.autograd.gradcheck(_Gate.apply, (double(3, 4), double(4, 3).T))


def test_the_norm_is_that_of_torch():
    x, weight = double(7, 5), double(5)
    assert torch.allclose(_Normal.apply(x, weight, 1e-5), functional.rms_norm(x, (5,), weight, 1e-5), atol=1e-14)


def kept(forward):
    sizes = {}

    def note(tensor):
        sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = forward()
    assert states.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_less_is_kept_for_the_backward_pass_than_by_transformers(dtype):
    module = tiny_policy(dtype=dtype).module
    weights = sum(p.untyped_storage().nbytes() for p in module.base_model.parameters())
    ids, positions = plain_row(256)
    buckets = causal(256)
    theirs = kept(lambda: module.base_model(ids[None]).last_hidden_state) - weights
    ours = kept(lambda: BlockBody(module)(ids, positions, buckets)) - weights
    recomputed = kept(lambda: BlockBody(module, checkpointing=True)(ids, positions, buckets)) - weights
    assert ours < 0.8 * theirs
    assert recomputed < 0.2 * theirs


def test_recomputed_blocks_give_the_same_gradient_to_the_bit():
    rollouts = make_rollouts(given=True)
    advantages = random_advantages(rollouts)
    a, b = (
        update_gradients(rollouts, advantages, ClippedObjective(), gradient_checkpointing=wanted)[0]
        for wanted in (False, True)
    )
    assert relative_difference(a, b) == 0


def test_other_models_are_left_to_transformers():
    assert not writes_out(tiny_policy("qwen2", use_sliding_window=True, max_window_layers=0, sliding_window=4).module)
    assert not writes_out(tiny_policy(hidden_act="gelu").module)
    partitioned = tiny_policy().module
    next(partitioned.parameters()).ds_id = 0
    assert not writes_out(partitioned)
    with pytest.raises(ValueError, match="is not of the Llama block family"):
        BlockBody(partitioned)


def test_families_without_a_body_learn_by_branch_all_the_same():
    rollouts = make_rollouts()
    policy = tiny_policy(hidden_act="gelu")
    learner = open_learner(policy)
    alone = open_learner(tiny_policy(hidden_act="gelu"), share_prompts=False, micro_batch_tokens=1)
    ours, plain = (each.logprobs(rollouts, SamplingSpec()).values for each in (learner, alone))
    assert abs(ours - plain).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_kernels_give_the_plain_gradient(family):
    rollouts = make_rollouts(given=True)
    advantages = random_advantages(rollouts)
    compiled, plain = (
        update_gradients(
            rollouts, advantages, ClippedObjective(entropy_bonus=0.1), policy=family_policy(family), compiled=wanted
        )[0]
        for wanted in (True, False)
    )
    assert relative_difference(compiled, plain) <= 1e-5
