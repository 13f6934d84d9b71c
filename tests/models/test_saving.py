"""Exports that plain transformers loads to the same model, and loading that refuses a bad fit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from thinkrl.config.component import ConfigError
from thinkrl.models.folders import written_aside
from thinkrl.models.policy import build_policy
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel, tiny_tokenizer
from thinkrl.tracking.atomic import clean_partial

IDS = torch.tensor([[5, 17, 42, 3, 99, 12]])


def policy_with(*, tied: bool, dtype: torch.dtype, for_training: bool = True):
    tokenizer = tiny_tokenizer("byte")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )
    stops = frozenset({tokenizer.eos_token_id, tokenizer.pad_token_id})
    module = LlamaForCausalLM(config)
    return build_policy(module, tokenizer, name="t", stop_ids=stops, dtype=dtype, for_training=for_training)


def plain_logprobs(folder):
    module = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return module(IDS).logits.log_softmax(-1)


@pytest.mark.parametrize("tied", [True, False])
def test_an_export_has_the_same_logprobs_in_plain_transformers(tmp_path, tied):
    policy = policy_with(tied=tied, dtype=torch.float32)
    folder = save_policy(policy, tmp_path / "out", None)
    with torch.no_grad():
        expected = policy.module(IDS).logits.log_softmax(-1)
    assert torch.equal(plain_logprobs(folder), expected)
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) is not tied
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    assert tokenizer.encode("a b") == policy.tokenizer.encode("a b")


@pytest.mark.parametrize("tied", [True, False])
def test_given_tensors_replace_the_modules_values_also_where_tied(tmp_path, tied):
    policy = policy_with(tied=tied, dtype=torch.bfloat16)
    trained = {name: master + 0.01 for name, master in policy.masters.items()}
    folder = save_policy(policy, tmp_path / "out", trained)
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            parameter.data = trained[name]
        expected = policy.module(IDS).logits.log_softmax(-1)
    assert torch.equal(plain_logprobs(folder), expected)


def test_masters_survive_a_round_trip_bit_for_bit(tmp_path):
    policy = policy_with(tied=True, dtype=torch.bfloat16)
    trained = {name: master + 1e-6 * torch.randn_like(master) for name, master in policy.masters.items()}
    folder = save_policy(policy, tmp_path / "out", trained)
    again = TinyModel(dtype="bfloat16").load(folder, for_training=True)
    assert again.masters.keys() == trained.keys()
    assert all(torch.equal(again.masters[name], trained[name]) for name in trained)
    assert {p.dtype for p in again.module.parameters()} == {torch.bfloat16}
    assert again.module.model.rotary_emb.inv_freq.dtype == torch.float32


def test_float32_masters_are_the_modules_own_storage():
    policy = policy_with(tied=True, dtype=torch.float32)
    for name, parameter in policy.module.named_parameters():
        assert policy.masters[name].data_ptr() == parameter.data_ptr()
    assert policy_with(tied=True, dtype=torch.float32, for_training=False).masters is None


def test_saving_again_replaces_and_leaves_nothing_aside(tmp_path):
    policy = policy_with(tied=True, dtype=torch.float32)
    folder = save_policy(policy, tmp_path / "out", None)
    changed = {name: value * 2 for name, value in policy.masters.items()}
    save_policy(policy, folder, changed)
    assert torch.equal(load_file(folder / "model.safetensors")["model.norm.weight"], changed["model.norm.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_save_leaves_the_last_one_whole(tmp_path, monkeypatch):
    policy = policy_with(tied=True, dtype=torch.float32)
    folder = save_policy(policy, tmp_path / "out", None)
    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(policy.tokenizer, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_policy(policy, folder, {name: value * 2 for name, value in policy.masters.items()})
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_generation_defaults_do_not_leave_the_source(tmp_path):
    policy = policy_with(tied=True, dtype=torch.float32)
    folder = save_policy(policy, tmp_path / "out", None)
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.3, "top_k": 5, "do_sample": True}))
    again = PretrainedModel(str(folder), dtype="float32").load()
    assert (again.module.generation_config.temperature, again.module.generation_config.top_k) == (None, None)
    exported = save_policy(again, tmp_path / "next", None)
    written = json.loads((exported / "generation_config.json").read_text())
    assert written.keys() <= {
        "eos_token_id",
        "pad_token_id",
        "bos_token_id",
        "transformers_version",
        "_from_model_config",
    }
    assert written["eos_token_id"] == sorted(again.stop_ids)


def test_unknown_or_misshapen_tensors_are_refused(tmp_path):
    policy = policy_with(tied=True, dtype=torch.float32)
    with pytest.raises(ValueError, match="lm_head"):
        save_policy(policy, tmp_path / "out", {"lm_head.weight": policy.masters["model.embed_tokens.weight"]})
    with pytest.raises(ValueError, match="norm"):
        save_policy(policy, tmp_path / "out", {"model.norm.weight": torch.zeros(3)})
    assert not (tmp_path / "out").exists()


def test_loading_refuses_weights_with_a_gap(tmp_path):
    folder = save_policy(policy_with(tied=True, dtype=torch.float32), tmp_path / "out", None)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"missing_keys .*up_proj"):
        PretrainedModel(str(folder)).load()


def test_what_a_killed_export_leaves_is_cleared_away_with_the_run(tmp_path):
    with written_aside(tmp_path / "out", replace=True) as scratch:
        (scratch / "weights").write_text("half")
        assert clean_partial(tmp_path) == [scratch]
        scratch.mkdir()
