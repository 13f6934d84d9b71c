"""A stage of a model with seven billion parameters on eight GPUs, and small modules, for tests of plans."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from thinkrl.models.shapes import published_shapes
from thinkrl.planning.hardware import find_hardware
from thinkrl.planning.lengths import Lengths
from thinkrl.planning.memory import Setting
from thinkrl.planning.settings import LearnerSettings, SamplerSettings
from thinkrl.planning.work import StageWork

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
QWEN_7B = published_shapes()["Qwen/Qwen2.5-7B"]
H100 = find_hardware("8xh100-80gb")
P = 7_615_616_512
WORK = StageWork(
    kind="policy optimisation",
    steps=10,
    prompts=8,
    sequences=64,
    prompt=Lengths(100, 200, "test"),
    response=Lengths(824, 824, "test"),
    updates=1,
    passes=1,
    checkpoint_every=5,
)
SETTING = Setting(QWEN_7B, 2, WORK, LearnerSettings(), SamplerSettings(joined_copies=False), H100)


def small_module(family: str, layers: int, dtype: torch.dtype) -> torch.nn.Module:
    config_type, module_type = FAMILIES[family]
    config = config_type(
        vocab_size=50, hidden_size=64, intermediate_size=160, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=256,
    )  # fmt: skip
    module = module_type(config)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)
    module.config.dtype = dtype
    return module
