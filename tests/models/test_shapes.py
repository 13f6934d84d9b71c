"""Sizes of models without weights, against modules built from them and the published numbers of parameters."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from thinkrl.config.component import ConfigError
from thinkrl.models import shapes
from thinkrl.models.packaged import PACKAGED_MODELS
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.models.saving import save_policy
from thinkrl.models.shapes import TABLE, ModelShape, published_shapes, shape_from_config, shape_of
from thinkrl.models.tiny import TinyModel

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
PUBLISHED = json.loads(TABLE.read_text())["models"]
CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))


def module_of(shape: ModelShape) -> torch.nn.Module:
    config_type, module_type = FAMILIES[shape.family]
    config = config_type(
        num_hidden_layers=shape.layers,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.positions,
    )
    with torch.device("meta"):
        module = module_type(config)
    module.tie_weights()
    return module


@pytest.mark.parametrize("hub_id", sorted(PUBLISHED))
def test_a_module_built_from_the_table_has_the_published_number_of_parameters(hub_id: str) -> None:
    shape = published_shapes()[hub_id]
    module = module_of(shape)
    assert sum(p.numel() for p in module.parameters()) == PUBLISHED[hub_id]["parameters"] == shape.parameters
    assert shape_from_config(module.config.to_dict()) == shape
    projections = [p for name, p in module.named_parameters() if "layers.0." in name and name.endswith("proj.weight")]
    assert sum(p.numel() for p in projections) == shape.matrices
    assert module.get_input_embeddings().weight.numel() == shape.embedding


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_model_can_be_sized_without_hub_or_cache(path: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    monkeypatch.setattr(shapes, "_hub_cache", lambda *_: None)
    monkeypatch.setattr(shapes, "_from_hub", lambda *_: pytest.fail("the hub was asked"))
    settings = OmegaConf.to_container(OmegaConf.load(path))
    drawn = settings["_target_"].endswith("TinyModel")
    model = TinyModel() if drawn else PretrainedModel(settings["source"])
    assert shape_of(model).parameters > 0


def test_a_drawn_model_has_the_parameters_of_its_module() -> None:
    model = TinyModel(hidden=48, intermediate=80, layers=3, heads=6, kv_heads=2)
    module = model.load().module
    assert shape_of(model).parameters == sum(p.numel() for p in module.parameters())
    assert shape_of(model) == shape_from_config(module.config.to_dict())


def test_a_folder_comes_first_and_the_cache_before_the_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    small = TinyModel(hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1).load()
    name = next(iter(PACKAGED_MODELS))
    folder = save_policy(small, tmp_path / "models" / name, None)
    expected = sum(p.numel() for p in small.module.parameters())
    assert shape_of(PretrainedModel(str(folder))).parameters == expected
    assert shape_of(PretrainedModel(name)).parameters == expected
    (folder / "config.json").unlink()
    assert shape_of(PretrainedModel(name)).parameters == 134_515_008


def test_a_model_that_is_nowhere_is_an_error_that_says_so(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="cannot size the model 'nobody/nothing': it is not a folder"):
        shape_of(PretrainedModel("nobody/nothing"))
    with pytest.raises(ConfigError, match="cannot size a model that is gpt2"):
        shape_from_config({"model_type": "gpt2", "n_embd": 768})
    with pytest.raises(ConfigError, match="cannot size a object"):
        shape_of(object())
