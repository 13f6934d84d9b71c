"""Models with a scalar head: values against a plain forward pass, gradients however rows are packed, exact state."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts, tiny_policy
from transformers import AutoModelForSequenceClassification

from thinkrl.algorithms.types import LossOutputs, SumCount
from thinkrl.learning.value_model import ValueLearner, ValueModel, last_tokens, value_paths
from thinkrl.models.heads import HEAD, load_scalar_model, scalar_model
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


def opened(
    family: str = "llama", head_seed: int | None = 3, dtype: torch.dtype = torch.float32, **config: Any
) -> ValueModel:
    model = scalar_model(tiny_policy(family, dtype=dtype), for_training=True)
    if head_seed is not None:
        drawn = torch.randn(model.masters[HEAD].shape, generator=torch.Generator().manual_seed(head_seed))
        model.masters[HEAD].copy_(drawn)
        model.module.score.weight.data.copy_(drawn)
    return ValueLearner(**config).open(model, total_steps=10)


def squared(targets: np.ndarray):
    def loss(values, columns):
        wanted = torch.from_numpy(targets[columns].astype(np.float32))
        error = (values - wanted).square()
        return LossOutputs(
            SumCount(error.sum(), float(len(columns))), {"error": SumCount(error.sum().detach(), len(columns))}
        )

    return loss


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("at", "shift"), [("before", -1), ("token", 0)])
@pytest.mark.parametrize("share", [True, False])
def test_values_are_those_of_transformers_own_head_over_each_sequence_alone(family, at, shift, share):
    value_model, rollouts = opened(family, share_prompts=share), make_rollouts(given=True)
    found = value_model.values(rollouts, at)
    module = value_model.model.module
    for row in range(len(rollouts)):
        prompt = rollouts.groups[rollouts.group_index[row]].prompt_ids
        ids = torch.from_numpy(np.concatenate([prompt, rollouts.token_ids[row]]).astype(np.int64))[None]
        with torch.no_grad():
            hidden = module.base_model(ids).last_hidden_state
            expected = module.score(hidden)[0, len(prompt) + shift :, 0].numpy()[: len(rollouts.token_ids[row])]
        sampled = ~np.isnan(rollouts.logprobs[row])
        assert found[row][sampled] == pytest.approx(expected[sampled], abs=2e-5)
        assert np.all(np.isnan(found[row][~sampled]))


def test_a_new_head_says_nothing_and_learns():
    value_model, rollouts = opened(head_seed=None, learning_rate=0.02), make_rollouts((4, 4))
    assert np.nanmax(np.abs(value_model.values(rollouts).values)) == 0
    targets = np.random.default_rng(0).normal(size=len(rollouts.token_ids.values))
    rows = np.arange(len(rollouts))
    losses = [value_model.update(rollouts, rows, squared(targets)).loss for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0]
    assert value_model.version == 30


def gradient(rollouts, **config):
    """The weights' change after one step of plain gradient descent would do; AdamW's first moment is it, scaled."""
    value_model = opened(max_gradient_norm=None, **config)
    targets = np.random.default_rng(0).normal(size=len(rollouts.token_ids.values))
    report = value_model.update(rollouts, np.arange(len(rollouts)), squared(targets))
    moments = {n: t for n, t in value_model.state().tensors.items() if n.startswith("exp_avg/")}
    assert moments
    return report, moments


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("other", [{"share_prompts": True}, {"micro_batch_tokens": 8, "row_tokens": 8}])
def test_the_gradient_does_not_depend_on_packing(family, other):
    rollouts = make_rollouts(given=True)
    plain, expected = gradient(rollouts, family=family, share_prompts=False, micro_batch_tokens=10_000)
    report, found = gradient(rollouts, family=family, **other)
    assert report.loss == pytest.approx(plain.loss, rel=1e-5)
    assert report.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-5)
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) or 1.0
        assert torch.allclose(found[name] / scale, tensor / scale, atol=1e-5), name


def test_responses_without_a_path_take_no_part():
    rollouts = make_rollouts((3, 3))
    value_model = opened()
    before = value_model.state()
    report = value_model.update(rollouts, np.zeros(0, dtype=np.int64), squared(np.zeros(1000)))
    after = value_model.state()
    assert (report.loss, report.version) == (0.0, 1)
    assert all(torch.equal(before.tensors[name], tensor) for name, tensor in after.tensors.items())


def test_a_state_restores_every_bit_and_goes_on_equally():
    rollouts = make_rollouts((4, 2))
    rows, targets = np.arange(len(rollouts)), np.ones(len(rollouts.token_ids.values))
    one, other = opened(dtype=torch.bfloat16), opened(dtype=torch.bfloat16, head_seed=9)
    one.update(rollouts, rows, squared(targets))
    other.load_state(one.state())
    for _ in range(2):
        reports = [each.update(rollouts, rows, squared(targets)).row() for each in (one, other)]
        assert reports[0] == reports[1]
    states = [each.state().tensors for each in (one, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0][f"weight/{HEAD}"].dtype == torch.float32


def test_the_policy_keeps_its_weights():
    policy = tiny_policy()
    before = {name: tensor.clone() for name, tensor in policy.masters.items()}
    rollouts = make_rollouts()
    value_model = ValueLearner(learning_rate=0.1).open(scalar_model(policy, for_training=True), 10)
    for _ in range(3):
        value_model.update(rollouts, np.arange(len(rollouts)), squared(np.ones(len(rollouts.token_ids.values))))
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.masters.items())
    assert all(torch.equal(before[name], parameter) for name, parameter in policy.module.named_parameters())


def test_a_frozen_model_is_read_and_not_learned_on():
    frozen = ValueLearner().open(scalar_model(tiny_policy(), for_training=False), 1)
    rollouts = make_rollouts()
    assert np.nanmax(np.abs(frozen.values(rollouts).values)) == 0
    assert frozen.state().tensors == {}
    with pytest.raises(ValueError, match="loaded for training"):
        frozen.update(rollouts, np.arange(len(rollouts)), squared(np.ones(1000)))


def test_last_tokens_ask_for_one_value_a_response():
    value_model, rollouts = opened(), make_rollouts()
    everywhere = value_model.values(rollouts, "token")
    paths = last_tokens(value_paths(rollouts, np.arange(len(rollouts)), "token"))
    found = value_model.read(paths, len(rollouts.token_ids.values))
    ends = rollouts.token_ids.offsets[1:] - 1
    assert np.flatnonzero(~np.isnan(found)).tolist() == ends.tolist()
    assert found[ends] == pytest.approx(everywhere.values[ends], abs=1e-5)


def pairs_of_neighbours(rollouts):
    """Bradley-Terry: responses 0, 2, 4, ... are preferred to 1, 3, 5, ..., by the value of the last token."""

    def loss(values, columns):
        rows = rollouts.token_ids.row_ids[columns]
        assert rows.tolist() == list(range(len(rollouts)))
        losses = -torch.nn.functional.logsigmoid(values[0::2] - values[1::2])
        return LossOutputs(SumCount(losses.sum(), float(len(losses))))

    return loss


@pytest.mark.parametrize(
    "settings",
    [{}, {"share_prompts": False, "micro_batch_tokens": 1}, {"row_tokens": 16, "micro_batch_tokens": 16}],
    ids=str,
)
def test_a_loss_of_pairs_has_its_gradient_however_pairs_are_packed(settings):
    """Against autograd through transformers' own forward pass over one response after the other."""
    rollouts = make_rollouts((3, 5), given=True)
    value_model = opened(betas=(0.0, 0.999), max_gradient_norm=None, **settings)
    module = value_model.model.module
    paths = last_tokens(value_paths(rollouts, np.arange(len(rollouts)), "token"))
    last = []
    for row in range(len(rollouts)):
        prompt = rollouts.groups[rollouts.group_index[row]].prompt_ids
        end = np.flatnonzero(~np.isnan(rollouts.logprobs[row]))[-1] + 1
        ids = torch.from_numpy(np.concatenate([prompt, rollouts.token_ids[row][:end]]).astype(np.int64))[None]
        last.append(module.score(module.base_model(ids).last_hidden_state)[0, -1, 0])
    plain = pairs_of_neighbours(rollouts)(torch.stack(last), np.sort(np.concatenate([path.columns for path in paths])))
    wanted = dict(
        zip(
            (name for name, _ in module.named_parameters()),
            torch.autograd.grad(plain.loss.total / plain.loss.count, list(module.parameters())),
            strict=True,
        )
    )
    report = value_model.learn(paths, pairs_of_neighbours(rollouts), joint=True)
    assert report.loss == pytest.approx(float(plain.loss.total.detach()) / plain.loss.count, rel=1e-5)
    moments = {
        n.removeprefix("exp_avg/"): t for n, t in value_model.state().tensors.items() if n.startswith("exp_avg/")
    }
    assert moments.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max()) or 1.0
        assert torch.allclose(moments[name] / scale, gradient / scale, atol=2e-5), name


def test_a_joint_step_without_a_path_changes_nothing():
    value_model, rollouts = opened(), make_rollouts((2,))
    report = value_model.learn([], pairs_of_neighbours(rollouts), joint=True)
    assert (report.loss, report.version) == (0.0, 1)


def test_a_folder_loads_again_to_the_same_values_and_in_plain_transformers(tmp_path):
    policy = TinyModel(hidden=32, intermediate=48, layers=2, heads=2, kv_heads=2).load(for_training=True, seed=4)
    rollouts = make_rollouts()
    value_model = ValueLearner(learning_rate=0.01).open(scalar_model(policy, for_training=True), 10)
    for _ in range(3):
        value_model.update(rollouts, np.arange(len(rollouts)), squared(np.ones(len(rollouts.token_ids.values))))
    folder = save_policy(value_model.model, tmp_path / "values", value_model.model.masters)
    again = load_scalar_model(folder, dtype="float32", for_training=False)
    weights = dict(again.module.named_parameters())
    assert weights.keys() == value_model.model.masters.keys()
    assert all(torch.equal(weights[name], master) for name, master in value_model.model.masters.items())
    expected = value_model.values(rollouts, "token").values
    found = ValueLearner().open(again, 1).values(rollouts, "token").values
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7, nan_ok=True)
    plain = AutoModelForSequenceClassification.from_pretrained(folder)
    prompt = rollouts.groups[rollouts.group_index[0]].prompt_ids
    ids = torch.from_numpy(np.concatenate([prompt, rollouts.token_ids[0]]).astype(np.int64))[None]
    with torch.no_grad():
        found = float(plain(ids).logits[0, 0])
    assert found == pytest.approx(float(expected[rollouts.token_ids.offsets[1] - 1]), rel=1e-5, abs=1e-6)


def test_recomputed_layers_give_the_same_gradient():
    rollouts = make_rollouts(given=True)
    plain, expected = gradient(rollouts)
    report, found = gradient(rollouts, gradient_checkpointing=True)
    assert report.loss == pytest.approx(plain.loss, rel=1e-6)
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) or 1.0
        assert torch.allclose(found[name] / scale, tensor / scale, atol=1e-5), name
