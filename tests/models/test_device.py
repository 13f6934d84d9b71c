"""Where a model is put; the meta device stands in for a GPU, which the machines that run this need not have."""

import pytest
import torch

from thinkrl.config.component import ConfigError
from thinkrl.models import device as devices
from thinkrl.models import policy as policies
from thinkrl.models.device import resolve_device
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.models.saving import save_policy
from thinkrl.models.tiny import TinyModel

SIZES = {"hidden": 16, "intermediate": 16, "layers": 1, "heads": 2, "kv_heads": 1, "max_positions": 32}


def has_gpu(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)


def test_auto_takes_the_current_gpu_of_the_process_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpu(monkeypatch, True)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 3)
    assert resolve_device("cpu") == torch.device("cpu")
    has_gpu(monkeypatch, False)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(("build", "says"), [(None, "this build of torch has no CUDA"), ("12.8", "torch sees no GPU")])
def test_a_gpu_that_is_not_there_is_an_error_before_weights_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path, build: str | None, says: str
) -> None:
    has_gpu(monkeypatch, False)
    monkeypatch.setattr(torch.version, "cuda", build)
    folder = save_policy(TinyModel(**SIZES, device="cpu").load(), tmp_path / "model", None)
    (folder / "model.safetensors").unlink()
    for model in (TinyModel(**SIZES, device="cuda"), PretrainedModel(str(folder), device="cuda")):
        with pytest.raises(ConfigError, match=f"got cuda, but {says}: set model.device=cpu or auto"):
            model.load()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["drawn", "folder"])
def test_weights_buffers_and_masters_are_on_the_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path, dtype, source: str
) -> None:
    drawn = TinyModel(**SIZES, dtype=dtype)
    folder = save_policy(drawn.load(), tmp_path / "model", None)
    monkeypatch.setattr(policies, "resolve_device", lambda _: torch.device("meta"))
    assert devices.resolve_device("cpu").type == "cpu"
    policy = drawn.load(None if source == "drawn" else folder, for_training=True)
    tensors = [*policy.module.parameters(), *policy.module.buffers(), *policy.masters.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert policy.device.type == "meta"
    frequencies = [b for name, b in policy.module.named_buffers() if "inv_freq" in name]
    assert frequencies
    assert all(buffer.dtype == torch.float32 for buffer in frequencies)
    same = all(policy.masters[n].dtype == torch.float32 for n, _ in policy.module.named_parameters())
    assert same
