"""A model with a scalar head on disk: plain transformers reads it, and it comes back equal."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from thinkrl.config.component import ConfigError
from thinkrl.models.heads import HEAD, load_scalar_model, scalar_model
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel

SMALL = TinyModel(hidden=16, intermediate=24, layers=1, heads=2, kv_heads=1)


def saved(folder: Path):
    model = scalar_model(SMALL.load(for_training=True), for_training=True)
    with torch.no_grad():
        model.masters[HEAD].normal_(generator=torch.Generator().manual_seed(1))
    save_policy(model, folder)
    return model


def test_a_saved_model_is_read_by_transformers_and_comes_back_equal(tmp_path):
    model = saved(tmp_path / "critic")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "critic")
    again = load_scalar_model(tmp_path / "critic", dtype="float32", for_training=True)
    assert again.masters.keys() == model.masters.keys()
    for name, tensor in model.masters.items():
        assert torch.equal(tensor, again.masters[name])
        assert torch.equal(tensor, plain.get_parameter(name))
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in (tmp_path / "critic").iterdir())


def test_training_masters_keep_float32_beside_bfloat16_compute():
    policy = TinyModel(hidden=16, intermediate=24, layers=1, heads=2, kv_heads=1, dtype="bfloat16").load(
        for_training=True
    )
    model = scalar_model(policy, for_training=True)
    assert model.module.dtype == torch.bfloat16
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.masters[name], policy.masters[name])
    assert model.masters[name].data_ptr() != policy.masters[name].data_ptr()


def test_what_is_no_scalar_model_is_refused(tmp_path):
    save_policy(SMALL.load(for_training=True), tmp_path / "policy")
    with pytest.raises(ConfigError, match=r"gives 2 numbers, expected 1|lacks weights"):
        load_scalar_model(tmp_path / "policy", dtype="float32", for_training=False)
    with pytest.raises(ConfigError, match="cannot load a model with a scalar head"):
        load_scalar_model(tmp_path / "nowhere", dtype="float32", for_training=False)
