"""A group with an image learns as its responses would alone, each with the image read anew by the plain module."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts, random_advantages, relative_difference, update_gradients
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.learning.packing import pack, rollout_paths
from thinkrl.learning.scorer import Scorer
from thinkrl.models.policy import Policy
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import Group, Rollouts
from thinkrl.sampling.sampler import SamplingSpec

IMAGE, START, END = 41, 42, 43
TEXT = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 256,
}  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
IDS = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END, "video_token_id": 44}
PATCH = {"depth": 2, "patch_size": 2, "temporal_patch_size": 1, "spatial_merge_size": 2, "num_heads": 2}


def qwen2_5_vl():
    vision = {
        **PATCH, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "window_size": 8,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**TEXT, **ROPE}, vision_config=vision, **IDS)
    )


def qwen2_vl():
    vision = {**PATCH, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config={**TEXT, **ROPE}, vision_config=vision, **IDS))


def llava():
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 8, "patch_size": 4, "projection_dim": 16,
    }  # fmt: skip
    text = {"model_type": "llama", **TEXT}
    return LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, vision_feature_layer=-1)
    )


MODELS = {"qwen2_5_vl": qwen2_5_vl, "qwen2_vl": qwen2_vl, "llava": llava}


def vision_policy(model):
    torch.manual_seed(0)
    module = MODELS[model]().eval()
    return Policy(module, None, frozenset({2}), model, {n: p.detach() for n, p in module.named_parameters()})


def pictures(model, rng, count):
    """Inputs of `count` random images as a processor gives them, and the placeholders of each."""
    if model == "llava":
        return {"pixel_values": rng.normal(size=(count, 3, 8, 8)).astype(np.float32)}, [4] * count
    grids = np.array([[1, 2 * rng.integers(1, 4), 2 * rng.integers(1, 4)] for _ in range(count)], dtype=np.int64)
    pixels = rng.normal(size=(int(grids.prod(1).sum()), 12)).astype(np.float32)
    return {"pixel_values": pixels, "image_grid_thw": grids}, (grids.prod(1) // 4).tolist()


def image_rollouts(model):
    """Groups with one image, text, two images, and one image under the same placeholders as the first."""
    rng = np.random.default_rng(3)
    made = make_rollouts((3, 3, 2, 3), given=True)
    groups = list(made.groups)
    for number, count in ((0, 1), (2, 2)):
        inputs, sizes = pictures(model, rng, count)
        runs = [token for size in sizes for token in (START, *[IMAGE] * size, END, 7)]
        ids = np.array([5, 6, *runs, 8], dtype=np.int32)
        groups[number] = Group(f"g{number}", Prompt(f"p{number}", ()), ids, inputs)
    other = {**groups[0].inputs, "pixel_values": groups[0].inputs["pixel_values"][::-1] * 2}
    groups[3] = replace(groups[3], prompt_ids=groups[0].prompt_ids, inputs=other)
    return Rollouts.from_responses(groups, list(made))


def alone(policy, rollouts):
    """Log-probabilities of every response by the module's own forward pass, image and all."""
    values = []
    for row, response in enumerate(rollouts):
        group = rollouts.groups[rollouts.group_index[row]]
        ids = torch.from_numpy(np.concatenate([group.prompt_ids, response.token_ids]).astype(np.int64))[None]
        inputs = {name: torch.from_numpy(np.ascontiguousarray(part)) for name, part in group.inputs.items()}
        if "image_grid_thw" in inputs:
            inputs["mm_token_type_ids"] = (ids == IMAGE).int()
        logits = policy.module(input_ids=ids, **inputs).logits[0, len(group.prompt_ids) - 1 : -1]
        values.append(logits.log_softmax(-1).gather(1, ids[0, len(group.prompt_ids) :, None])[:, 0])
    return torch.cat(values)


BATCHINGS = {
    "shared, by branch": {},
    "groups split over rows": {"row_tokens": 30, "micro_batch_tokens": 70},
    "layers recomputed": {"gradient_checkpointing": True, "row_tokens": 60},
    "no shared prompts": {"share_prompts": False, "micro_batch_tokens": 1},
    "no shared prompts, padded": {"share_prompts": False, "micro_batch_tokens": 100},
}


@pytest.mark.parametrize("model", MODELS)
def test_gradients_equal_those_of_responses_alone(model, monkeypatch):
    rollouts = image_rollouts(model)
    advantages = random_advantages(rollouts)
    policy = vision_policy(model)
    mask = torch.from_numpy(rollouts.sampled)
    a = torch.from_numpy(np.nan_to_num(advantages.values.values)).float()
    loss = -(a * alone(policy, rollouts))[mask].sum() / mask.sum()
    parameters = dict(policy.module.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    expected = {name: grad for name, grad in zip(parameters, found, strict=True) if grad is not None}
    assert any("vis" in name for name in expected)
    objective = ClippedObjective(aggregation="token")
    for batching, settings in BATCHINGS.items():
        gradient, _ = update_gradients(rollouts, advantages, objective, policy=vision_policy(model), **settings)
        assert relative_difference({name: gradient[name] for name in expected}, expected) < 1e-5, batching
        vision = {name: grad for name, grad in expected.items() if "vis" in name}
        assert relative_difference({name: gradient[name] for name in vision}, vision) < 1e-5, batching
    monkeypatch.setattr(Scorer, "joins", False)
    monkeypatch.setattr(Scorer, "sharing_pays", lambda *_: True)
    gradient, _ = update_gradients(rollouts, advantages, objective, policy=vision_policy(model), row_tokens=50)
    assert relative_difference({name: gradient[name] for name in expected}, expected) < 1e-5, "dense mask"


def test_an_image_passes_through_the_vision_tower_once_for_its_group():
    policy, rollouts = vision_policy("qwen2_5_vl"), image_rollouts("qwen2_5_vl")
    rows = pack(rollout_paths(rollouts, np.arange(len(rollouts))), 4096, share=True)
    patches = []
    policy.module.model.visual.register_forward_pre_hook(lambda _, inputs: patches.append(len(inputs[0])))
    with torch.no_grad():
        Scorer(policy.module, 64, branches=True)(rows, SamplingSpec())
    assert patches == [sum(len(group.inputs.get("pixel_values", ())) for group in rollouts.groups)]


@pytest.mark.parametrize("row_tokens", [1, 30, 4096])
def test_images_are_never_cut_nor_shared_between_groups(row_tokens):
    """Groups 0 and 3 have equal prompts token by token, and other images."""
    rollouts = image_rollouts("qwen2_vl")
    rows = pack(rollout_paths(rollouts, np.arange(len(rollouts))), row_tokens, share=True)
    for row in rows:
        found = [group for group in rollouts.groups if group in row.groups]
        assert sorted(group.group_id for group in row.groups) == sorted(group.group_id for group in found)
        wanted = [token for group in row.groups for token in group.prompt_ids if token == IMAGE]
        assert (row.token_ids == IMAGE).sum() == len(wanted)
        for segment in range(len(row.parents)):
            tokens = row.token_ids[row.segment == segment]
            assert (tokens == START).sum() == (tokens == END).sum()
        owners = row.shown[row.token_ids == IMAGE] if row.groups else np.zeros(0)
        assert owners.tolist() == sorted(owners.tolist())
    shown = {group.group_id for row in rows for group in row.groups}
    assert shown == {"g0", "g2", "g3"}


def test_placeholders_without_their_image_are_refused():
    rollouts = image_rollouts("qwen2_5_vl")
    short = [
        replace(g, inputs={**g.inputs, "pixel_values": g.inputs["pixel_values"][4:],
                           "image_grid_thw": g.inputs["image_grid_thw"][1:]}) if g.group_id == "g2" else g
        for g in rollouts.groups
    ]  # fmt: skip
    with pytest.raises((ValueError, RuntimeError, StopIteration)):
        update_gradients(
            replace(rollouts, groups=tuple(short)), random_advantages(rollouts), ClippedObjective(),
            policy=vision_policy("qwen2_5_vl"),
        )  # fmt: skip
