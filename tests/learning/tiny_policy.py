"""A tiny model, made-up rollouts, and the gradient of one update, for tests of learners."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from thinkrl.algorithms.types import Advantages, Objective, UpdateReport
from thinkrl.learning.torch_learner import OpenTorchLearner, TorchLearner
from thinkrl.models.policy import Policy
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.sampling.sampler import SamplingSpec

VOCABULARY = 40
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
}


def tiny_policy(
    family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, tie: bool = True, **settings: object
) -> Policy:
    """A random two-layer model, loaded for training."""
    torch.manual_seed(seed)
    config_type, model_type, extra = FAMILIES[family]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape = {"vocab_size": VOCABULARY, "num_key_value_heads": 2, "tie_word_embeddings": tie, **sizes}
    # A wide spread keeps gradients of all layers well above rounding.
    config = config_type(**{"initializer_range": 0.2, **shape, **extra, **settings})
    module = model_type(config).eval()
    masters = {name: p.detach().clone() for name, p in module.named_parameters()}
    module = module.to(dtype)
    if dtype == torch.float32:
        masters = {name: p.detach() for name, p in module.named_parameters()}
    return Policy(module, None, frozenset({2}), "tiny", masters)  # type: ignore[arg-type]


def make_rollouts(sizes: Sequence[int] = (3, 4, 1), *, seed: int = 0, given: bool = False) -> Rollouts:
    """Random responses of 1 to 11 tokens, `sizes[g]` to group g. With `given`, every other response has given
    tokens: a turn of the environment in the middle, and one at the end."""
    rng = np.random.default_rng(seed)
    groups, responses = [], []
    for g, size in enumerate(sizes):
        prompt_ids = rng.integers(0, VOCABULARY, rng.integers(2, 9)).astype(np.int32)
        groups.append(Group(f"g{g}", Prompt(f"p{g}", ()), prompt_ids))
        for i in range(size):
            length = int(rng.integers(1, 12)) if not (given and i % 2) else 12
            origins = np.full(length, Origin.SAMPLED, dtype=np.uint8)
            if given and i % 2:
                origins[4:7] = Origin.GIVEN
                origins[10:] = Origin.GIVEN
            sampled = origins == Origin.SAMPLED
            responses.append(
                Response(
                    response_id=f"g{g}r{i}",
                    group_id=f"g{g}",
                    text="",
                    finish_reason=FinishReason.STOP,
                    token_ids=rng.integers(0, VOCABULARY, length).astype(np.int32),
                    origins=origins,
                    logprobs=np.where(sampled, -3 * rng.random(length), np.nan).astype(np.float32),
                    entropies=np.where(sampled, rng.random(length), np.nan).astype(np.float32),
                    versions=np.where(sampled, 0, -1).astype(np.int32),
                    char_ends=np.zeros(length, dtype=np.int32),
                )
            )
    return Rollouts.from_responses(groups, responses)


def random_advantages(rollouts: Rollouts, *, seed: int = 1, excluded: Sequence[int] = ()) -> Advantages:
    """One random number per response; NaN at given tokens; the `excluded` rows are not kept."""
    values = np.random.default_rng(seed).normal(size=len(rollouts))
    kept = ~np.isin(np.arange(len(rollouts)), excluded)
    column = np.where(rollouts.sampled, values[rollouts.token_ids.row_ids], np.nan)
    return Advantages(rollouts.token_ids.with_values(column), kept)


def open_learner(policy: Policy, *, with_reference: bool = False, **settings: object) -> OpenTorchLearner:
    """A learner whose first moment after a step is the gradient itself: no clipping, no momentum."""
    config: dict[str, object] = {"learning_rate": 1e-3, "betas": (0.0, 0.999), "max_gradient_norm": None, **settings}
    return TorchLearner(**config).open(policy, total_steps=10, with_reference=with_reference)  # type: ignore[arg-type]


def gradients(learner: OpenTorchLearner) -> dict[str, torch.Tensor]:
    """The gradient of the last step, by parameter name."""
    tensors = learner.state().tensors
    return {n.removeprefix("exp_avg/"): t for n, t in tensors.items() if n.startswith("exp_avg/")}


def update_gradients(
    rollouts: Rollouts,
    advantages: Advantages,
    objective: Objective,
    *,
    spec: SamplingSpec | None = None,
    old_logprobs: Ragged | None = None,
    policy: Policy | None = None,
    **settings: object,
) -> tuple[dict[str, torch.Tensor], UpdateReport]:
    """Gradient and report of one update of a fresh tiny policy."""
    learner = open_learner(policy or tiny_policy(), with_reference=objective.needs_reference, **settings)
    report = learner.update(rollouts, advantages, objective, spec or SamplingSpec(), old_logprobs)
    return gradients(learner), report


def relative_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over norm, over all parameters together."""
    assert a.keys() == b.keys()
    flat_a, flat_b = (torch.cat([g[name].flatten().double() for name in sorted(a)]) for g in (a, b))
    return float((flat_a - flat_b).norm() / flat_b.norm())
