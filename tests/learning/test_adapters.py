"""Adapters against formulas written out, a frozen copy of the base, and peft itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny_policy import (
    FAMILIES,
    gradients,
    make_rollouts,
    open_learner,
    random_advantages,
    relative_difference,
    tiny_policy,
)
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from thinkrl.algorithms.kl import KLLoss
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.config.component import ConfigError
from thinkrl.learning.adapted_policy import attach
from thinkrl.learning.adapters import Adapter
from thinkrl.learning.learner import Example
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel
from thinkrl.sampling.checksum import weights_checksum
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler

SPEC = SamplingSpec()
KINDS = {"lora": {}, "rslora": {"rslora": True}, "dora": {"dora": True}, "both": {"rslora": True, "dora": True}}
BLOCK = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def adapter(kind="lora", **settings):
    return Adapter(**{"rank": 4, "alpha": 6.0, **KINDS[kind], **settings})


def update(learner, seed=0, **objective):
    rollouts = make_rollouts(seed=seed)
    return learner.update(rollouts, random_advantages(rollouts), ClippedObjective(**objective), SPEC)


def tensors_of(learner):
    """The trained tensors (A, B, l) of each adapted weight of the plain model."""
    found = {}
    for name, tensor in learner.state().weights.items():
        layer, _, rest = name.partition(".lora_")
        found.setdefault(f"{layer}.weight", {})[rest.partition(".")[0]] = tensor
    return found


def merged_by_hand(base, found, scale):
    """W + s B A, with rows stretched to the lengths l where there are any, in float64."""
    weight = base.double() + scale * found["B"].double() @ found["A"].double()
    if "magnitude_vector" in found:
        weight = weight / weight.pow(2).sum(1, keepdim=True).sqrt() * found["magnitude_vector"].double()[:, None]
    return weight


def plain_logprobs(module, rollouts):
    """Every response alone through transformers' own forward pass."""
    values = []
    for row, response in enumerate(rollouts):
        prompt = rollouts.groups[rollouts.group_index[row]].prompt_ids
        ids = torch.from_numpy(np.concatenate([prompt, response.token_ids]).astype(np.int64))
        logits = module(ids[None]).logits[0, len(prompt) - 1 : -1]
        values.append(logits.float().log_softmax(-1).gather(1, ids[len(prompt) :, None])[:, 0])
    return torch.cat(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "tie"), [("llama", True), ("qwen2", False), ("qwen3", True)])
def test_merged_weights_are_the_formula_and_the_base_stays(kind, family, tie):
    policy = tiny_policy(family, tie=tie)
    before = {name: p.detach().clone() for name, p in policy.module.named_parameters()}
    learner = open_learner(policy, adapter=adapter(kind), learning_rate=0.02)
    scale = 6.0 / (2.0 if KINDS[kind].get("rslora") else 4.0)
    assert all(torch.allclose(w, before[n], atol=1e-6) for n, w in learner.weights().items())
    update(learner)
    update(learner, seed=1)
    found, weights = tensors_of(learner), learner.weights()
    assert found.keys() == {n for n in before if n.split(".")[-2] in BLOCK and n.endswith("weight")}
    assert weights.keys() == before.keys()
    for name, weight in weights.items():
        assert weight.dtype == torch.float32
        if name in found:
            assert (weight - before[name]).abs().max() > 1e-3
            assert torch.allclose(weight.double(), merged_by_hand(before[name], found[name], scale), atol=2e-6)
        else:
            assert torch.equal(weight, before[name])
    assert all(torch.equal(p, before[name]) for name, p in policy.module.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [True, False])
def test_the_gradient_is_that_of_the_formula_written_out(kind, share):
    rollouts, settings = make_rollouts(), {"share_prompts": share, "adapter": adapter(kind)}
    advantages = random_advantages(rollouts)
    policy = tiny_policy("qwen2")
    base = {name: p.detach().clone() for name, p in policy.module.named_parameters()}
    learner = open_learner(policy, learning_rate=0.02, **settings)
    update(learner, seed=5)  # away from B = 0, where A has no gradient
    scale = 6.0 / (2.0 if KINDS[kind].get("rslora") else 4.0)

    leaves = {n: {k: t.clone().requires_grad_() for k, t in f.items()} for n, f in tensors_of(learner).items()}
    weights = dict(base)
    for name, found in leaves.items():
        weight = base[name] + scale * found["B"] @ found["A"]
        if "magnitude_vector" in found:
            weight = weight / weight.detach().norm(dim=1, keepdim=True) * found["magnitude_vector"][:, None]
        weights[name] = weight
    module = tiny_policy("qwen2").module
    logprobs = plain_logprobs(lambda ids: functional_call(module, weights, (ids,)), rollouts)
    factor = torch.from_numpy(advantages.values.values).float()
    (-(factor * logprobs).sum() / len(logprobs)).backward()

    update_report = learner.update(rollouts, advantages, ClippedObjective(aggregation="token"), SPEC)
    key = {"A": "lora_A.default", "B": "lora_B.default", "magnitude_vector": "lora_magnitude_vector.default"}
    expected = {f"{n.removesuffix('.weight')}.{key[k]}.weight": t.grad for n, f in leaves.items() for k, t in f.items()}
    assert relative_difference(gradients(learner), expected) < 1e-5
    norm = torch.cat([g.flatten() for g in expected.values()]).norm().item()
    assert update_report.gradient_norm == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_the_reference_to_the_bit(dtype):
    rollouts = make_rollouts()
    frozen = open_learner(tiny_policy(dtype=dtype), with_reference=True).reference_logprobs(rollouts, SPEC)
    policy = tiny_policy(dtype=dtype)
    learner = open_learner(policy, with_reference=True, adapter=adapter("dora"), learning_rate=0.02)
    for step in range(3):
        assert np.array_equal(learner.reference_logprobs(rollouts, SPEC).values, frozen.values)
        assert np.array_equal(learner.logprobs(rollouts, SPEC).values, frozen.values) == (step == 0)
        report = update(learner, kl=KLLoss(0.1))
        policy.refresh_module()
    assert report.metrics["kl/reference"] > 0


def test_base_weights_exist_once_until_a_sampler_asks_for_merged_ones():
    policy = tiny_policy(dtype=torch.bfloat16)
    own = {name: p.data_ptr() for name, p in policy.module.named_parameters()}
    attached = attach(adapter(export=True), policy)
    assert policy.masters is None
    for module in (attached.module, attached.base):
        shared = {n.replace(".base_layer", ""): p.data_ptr() for n, p in module.named_parameters() if "lora" not in n}
        assert shared == own
    list(policy.named_weights())
    assert {name: p.data_ptr() for name, p in policy.module.named_parameters()} == own
    policy.refresh_module()
    after = {name: p.data_ptr() for name, p in policy.module.named_parameters()}
    assert {name for name in own if own[name] != after[name]} == {n for n in own if n.split(".")[-2] in BLOCK}
    policy.refresh_module()
    assert {name: p.data_ptr() for name, p in policy.module.named_parameters()} == after


def test_adapters_learn_in_float32_and_compute_in_the_module_s_precision():
    policy = tiny_policy(dtype=torch.bfloat16)
    attached = attach(adapter("dora"), policy)
    assert all(t.dtype == torch.float32 for t in attached.masters.values())
    dtypes = {n.split(".")[-3]: p.dtype for n, p in attached.module.named_parameters() if p.requires_grad}
    assert dtypes == {
        "lora_A": torch.bfloat16, "lora_B": torch.bfloat16, "lora_magnitude_vector": torch.float32
    }  # fmt: skip
    assert all("lora_" in name for name, p in attached.module.named_parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in attached.base.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_from_merged_weights_counted_once(kind):
    policy = TinyModel(hidden=48, intermediate=64, layers=2, heads=4).load(for_training=True, seed=3)
    base = {name: p.detach().clone() for name, p in policy.module.named_parameters()}
    learner = open_learner(policy, adapter=adapter(kind), learning_rate=0.02)
    sampler = TorchSampler().open(policy)
    start = weights_checksum(policy.module.named_parameters())
    assert sampler.sync(0) == start
    scale = 6.0 / (2.0 if KINDS[kind].get("rslora") else 4.0)
    for version in (1, 2):
        update(learner, seed=version)
        checksum = sampler.sync(version)
        assert checksum == sampler.sync(version) == weights_checksum(policy.named_weights()) != start
        held = dict(policy.module.named_parameters())
        for name, found in tensors_of(learner).items():
            assert torch.allclose(held[name].double(), merged_by_hand(base[name], found, scale), atol=2e-6)
        prompt = np.arange(5, dtype=np.int32)
        ((sample,),) = sampler.sample([SampleRequest(prompt, (version,))], SamplingSpec(max_new_tokens=12))
        ids = torch.from_numpy(np.concatenate([prompt, sample.token_ids]).astype(np.int64))
        with torch.no_grad():
            logits = learner._scorer.module(ids[None]).logits[0, 4:-1]
        ours = logits.log_softmax(-1).gather(1, ids[5:, None])[:, 0].numpy()
        assert np.abs(ours - sample.logprobs).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "tie"), [("llama", True), ("qwen2", False), ("qwen2", True), ("qwen3", True)])
def test_exports_reload_in_plain_transformers_and_in_peft(kind, family, tie, tmp_path):
    policy = with_tokenizer(tiny_policy(family, tie=tie))
    base = save_policy(policy, tmp_path / "base")
    learner = open_learner(policy, adapter=adapter(kind, export=True), learning_rate=0.02)
    update(learner)
    rollouts = make_rollouts(seed=7)
    ours = torch.from_numpy(learner.logprobs(rollouts, SPEC).values)
    folder = save_policy(policy, tmp_path / "model", learner.weights())
    merged = AutoModelForCausalLM.from_pretrained(folder)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert (merged.lm_head.weight.data_ptr() == merged.model.embed_tokens.weight.data_ptr()) == tie
    with torch.no_grad():
        assert (plain_logprobs(merged, rollouts) - ours).abs().max() < 1e-5
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
        assert (plain_logprobs(loaded, rollouts) - ours).abs().max() < 1e-5


def with_tokenizer(policy):
    tokenizer = TinyModel().load_tokenizer()
    return replace(policy, tokenizer=tokenizer)


def test_an_adapter_is_not_exported_unless_asked_for(tmp_path):
    policy = with_tokenizer(tiny_policy())
    learner = open_learner(policy, adapter=adapter())
    assert not (save_policy(policy, tmp_path / "model", learner.weights()) / "adapter").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"dropout": 0.3}], ids=str)
def test_a_restored_learner_goes_on_as_if_never_stopped(dtype, settings):
    config = {"betas": (0.9, 0.99), "learning_rate": 0.01, "adapter": adapter(**settings)}
    config |= {"with_reference": True, "share_prompts": "dropout" not in settings}
    learner = open_learner(tiny_policy(dtype=dtype), **config)
    update(learner, seed=1, kl=KLLoss(0.1))
    saved = learner.state()
    last = update(learner, seed=2, kl=KLLoss(0.1))
    torch.manual_seed(99)
    restored = open_learner(tiny_policy(dtype=dtype), **config)
    restored.load_state(saved)
    again = update(restored, seed=2, kl=KLLoss(0.1))
    assert replace(last, seconds={}) == replace(again, seconds={})
    one, two = learner.state(), restored.state()
    assert one.values == two.values
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def test_a_state_holds_adapters_alone():
    learner = open_learner(tiny_policy(), adapter=adapter())
    update(learner)
    tensors = learner.state().tensors
    assert all("lora_" in name or name == "adapter_base" for name in tensors)
    trained = sum(t.numel() for n, t in tensors.items() if n.startswith("weight/"))
    ends = [32 + 32, 32 + 16, 32 + 16, 32 + 32, 32 + 48, 32 + 48, 48 + 32]
    assert trained == 2 * 4 * sum(ends)


def test_states_of_other_bases_scales_and_kinds_are_refused():
    learner = open_learner(tiny_policy(), adapter=adapter())
    update(learner)
    before = learner.state()
    others = [
        (open_learner(tiny_policy(seed=1), adapter=adapter()), "other base weights"),
        (open_learner(tiny_policy(), adapter=adapter(alpha=7.0)), "another scale"),
        (open_learner(tiny_policy(), adapter=adapter("rslora")), "another scale"),
        (open_learner(tiny_policy(), adapter=adapter("dora")), "kind"),
        (open_learner(tiny_policy(), adapter=adapter(targets=("q_proj",))), "of another model"),
        (open_learner(tiny_policy(), adapter=adapter(rank=8, alpha=12.0)), r"is \(8, 32\), expected \(4, 32\)"),
        (open_learner(tiny_policy()), "not that of an adapter"),
    ]
    for other, message in others:
        update(other)
        with pytest.raises(ValueError, match=message):
            learner.load_state(other.state())
    with pytest.raises(ValueError, match="of another model"):
        others[-1][0].load_state(before)
    after = learner.state()
    assert all(torch.equal(after.tensors[name], before.tensors[name]) for name in before.tensors)


def test_where_adapters_start_depends_on_their_seed_and_nothing_else():
    states = []
    for seed, draws, dtype in ((0, 0, torch.float32), (0, 5, torch.bfloat16), (1, 0, torch.float32)):
        policy = tiny_policy(dtype=dtype)
        torch.manual_seed(draws)
        state = torch.random.get_rng_state()
        states.append(open_learner(policy, adapter=adapter(seed=seed)).state().weights)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    first = {name: tensor for name, tensor in states[0].items() if "lora_A" in name}
    assert not any(torch.equal(tensor, states[2][name]) for name, tensor in first.items())
    assert all(not tensor.any() for name, tensor in states[0].items() if "lora_B" in name)
    for tensor in first.values():  # uniform in +-1/sqrt(n): variance 1/(3 n)
        bound = tensor.shape[1] ** -0.5
        assert tensor.abs().max() <= bound
        assert tensor.var() == pytest.approx(bound**2 / 3, rel=0.35)


def test_dropout_falls_on_updates_only_and_is_a_function_of_seed_and_step():
    rollouts, config = make_rollouts(seed=3), {"share_prompts": False, "learning_rate": 0.05}
    learner = open_learner(tiny_policy(), adapter=adapter(), **config)
    update(learner)
    expected, saved = learner.logprobs(rollouts, SPEC).values, learner.state()

    def updated(draws, **settings):
        """Log-probabilities before an update from the same start, and after it."""
        other = open_learner(tiny_policy(), adapter=adapter(**settings), **config)
        other.load_state(saved)
        torch.manual_seed(draws)
        state = torch.random.get_rng_state()
        before = other.logprobs(rollouts, SPEC).values
        update(other, seed=3)
        assert torch.equal(torch.random.get_rng_state(), state)
        return before, other.logprobs(rollouts, SPEC).values

    (start, plain), (_, dropped) = updated(0), updated(0, dropout=0.5)
    assert np.array_equal(start, expected)
    assert np.array_equal(updated(0, dropout=0.5)[0], expected)
    assert np.array_equal(updated(1, dropout=0.5)[1], dropped)
    assert not np.array_equal(dropped, plain)
    assert not np.array_equal(updated(0, dropout=0.5, seed=1)[1], dropped)


def test_supervision_moves_adapters_alone():
    policy = tiny_policy()
    before = weights_checksum(policy.module.named_parameters())
    learner = open_learner(policy, adapter=adapter(), learning_rate=0.02)
    rng = np.random.default_rng(0)
    examples = [Example(*(rng.integers(0, 40, n).astype(np.int32) for n in (3, 6))) for _ in range(4)]
    losses = [learner.supervise(examples).loss for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    assert weights_checksum(policy.module.named_parameters()) == before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [True, False])
def test_checkpointed_layers_give_the_same_gradient(family, share):
    found = []
    for checkpointing in (False, True):
        learner = open_learner(
            tiny_policy(family), adapter=adapter("dora"), share_prompts=share, gradient_checkpointing=checkpointing
        )
        update(learner, seed=4)
        update(learner, seed=5)
        found.append(gradients(learner))
    assert relative_difference(found[1], found[0]) < 1e-5


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("q_porj",), "no linear layer 'q_porj'; did you mean q_proj"),
        (("embed_tokens",), "embed_tokens cannot have an adapter, only the linear layers within the blocks"),
        (("lm_head",), "lm_head cannot have an adapter"),
        (("input_layernorm",), "no linear layer 'input_layernorm'"),
    ],
)
@pytest.mark.parametrize("tie", [True, False])
def test_targets_that_cannot_have_an_adapter_are_refused(targets, message, tie):
    policy = tiny_policy(tie=tie)
    with pytest.raises(ConfigError, match=message):
        open_learner(policy, adapter=adapter(targets=targets))
    assert policy.masters is not None
    assert policy.weight_stream is None


def test_only_the_targets_named_have_adapters():
    learner = open_learner(tiny_policy(), adapter=adapter(targets=("q_proj", "v_proj")))
    assert {name.split(".")[-2] for name in tensors_of(learner)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be above 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"targets": ()}, "targets must name a layer"),
    ],
)
def test_bad_values_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Adapter(**settings)


def test_dropout_with_shared_prompts_is_refused():
    with pytest.raises(ValueError, match=r"share_prompts must be false with adapter\.dropout above 0"):
        TorchLearner(adapter=Adapter(dropout=0.1))
    with pytest.raises(ValueError, match="attention dropout"):
        open_learner(tiny_policy(attention_dropout=0.1), share_prompts=False, adapter=adapter(dropout=0.1))
