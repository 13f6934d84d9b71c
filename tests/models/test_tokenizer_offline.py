"""The tokenizer of a model on the hub: asked for once, through the call that gives up at once without a network."""

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from thinkrl.config.component import ConfigError
from thinkrl.models import pretrained
from thinkrl.models.pretrained import PretrainedModel


def test_a_hub_out_of_reach_is_asked_once(monkeypatch):
    asked = []

    def out_of_reach(source, **settings):
        asked.append(source)
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(pretrained, "snapshot_download", out_of_reach)
    monkeypatch.setattr(
        pretrained.AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("asked the hub again")
    )
    with pytest.raises(ConfigError, match="cannot load the tokenizer of 'someone/model'"):
        PretrainedModel("someone/model").load_tokenizer()
    assert asked == ["someone/model"]


def test_weights_are_not_among_the_files(monkeypatch, tmp_path):
    wanted = []
    monkeypatch.setattr(
        pretrained, "snapshot_download", lambda _, allow_patterns, **__: wanted.extend(allow_patterns) or str(tmp_path)
    )
    monkeypatch.setattr(pretrained.AutoTokenizer, "from_pretrained", lambda folder: folder)
    assert PretrainedModel("someone/model").load_tokenizer() == str(tmp_path)
    assert not any("safetensors" in pattern for pattern in wanted)
