"""When equal beginnings are read once: always where attention grows with what is seen, else by an estimate."""

import numpy as np
import pytest
from tiny_policy import make_rollouts, random_advantages, relative_difference, tiny_policy, update_gradients

from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.learning.packing import _path
from thinkrl.learning.scorer import Scorer


def group(prompt, response, size):
    """Paths of `size` responses that share a prompt and nothing else."""
    return [
        _path(np.arange(prompt, dtype=np.int32), np.full(response, 100 + i, dtype=np.int32), np.arange(response), 0)
        for i in range(size)
    ]


def with_mask():
    return Scorer(tiny_policy().module, 64, branches=False)


def test_by_branch_sharing_always_pays():
    assert Scorer(tiny_policy().module, 64, branches=True).sharing_pays(group(1, 400, 8), 4096)


def test_a_mask_pays_for_a_long_prompt_and_not_for_long_responses():
    """8 responses of 4 tokens to a prompt of 100 are 824 tokens apart and 124 together; of 400 to a prompt of 1,
    3,193 together and 3,200 apart, with scores of all pairs instead of their own."""
    assert with_mask().sharing_pays(group(100, 4, 8), 4096)
    assert not with_mask().sharing_pays(group(1, 400, 8), 4096)


def test_the_estimate_by_hand():
    """Two layers of width 32: 2 x parameters a token against 4 x 32 x 2 a pair."""
    scorer = with_mask()
    layers = sum(p.numel() for name, p in scorer.module.named_parameters() if ".layers." in name)
    for prompt in (10, 60, 100, 200):
        together, alone = prompt + 4 * 99, 4 * (prompt + 99)
        tokens = alone - together
        pairs = together**2 - 4 * (prompt + 99) ** 2 / 2
        assert scorer.sharing_pays(group(prompt, 100, 4), 4096) == (2 * layers * tokens >= 4 * 32 * 2 * pairs)


@pytest.mark.parametrize("budget", [20, 4096])
def test_unrelated_examples_are_never_put_under_one_mask(budget):
    paths = [_path(np.full(9, i, dtype=np.int32), np.zeros(3, dtype=np.int32), np.arange(3), 0) for i in range(5)]
    assert with_mask().sharing_pays(paths, budget) == (budget == 20)  # rows of one path are plain either way


@pytest.mark.parametrize("pays", [True, False])
def test_the_gradient_does_not_depend_on_the_estimate(pays, monkeypatch):
    rollouts = make_rollouts(given=True)
    advantages = random_advantages(rollouts)
    plain, _ = update_gradients(rollouts, advantages, ClippedObjective(), share_prompts=False, micro_batch_tokens=1)
    monkeypatch.setattr(Scorer, "joins", False)
    monkeypatch.setattr(Scorer, "sharing_pays", lambda *_: pays)
    estimated, _ = update_gradients(rollouts, advantages, ClippedObjective())
    assert relative_difference(estimated, plain) < 1e-5
