"""A recipe of PPO with a critic on a model drawn at random, and a reward that is easy to earn."""

from pathlib import Path

RECIPE = """# @package _global_
defaults:
  - /base
  - /model: tiny
  - /data: chain_sum
  - /environment: single_turn
  - /algorithm: ppo
  - /stage@stages.ppo: grpo
  - /companion@stages.ppo.companions.critic: critic
  - _self_

name: letters
model: {tokenizer: character, hidden: 64, intermediate: 128, layers: 2, heads: 4, kv_heads: 4}
reward:
  _target_: thinkrl.rewards.reward.Reward
  terms:
    letter: {term: {_target_: letters.LetterFirst}}
tracker: null
algorithm: {advantage: {advantage: {gamma: 0.99, trace: 0.95}}}
learner: {betas: [0.9, 0.95]}
stages:
  ppo:
    steps: 16
    prompts_per_step: 64
    group_size: 1
    sampling: {max_new_tokens: 2}
    learner: {learning_rate: 3.0e-3}
    companions: {critic: {learner: {learning_rate: 3.0e-3}, passes: 4}}
"""
TERM = '''
from dataclasses import dataclass

import numpy as np

from thinkrl.rewards.term import Scores


@dataclass(frozen=True)
class LetterFirst:
    """1 where a response begins with a letter of the lower case: from the first token on, the outcome is known."""

    def score(self, rollouts, context):
        return Scores(np.asarray([float(text[:1].islower()) for text in rollouts.texts]))
'''


def write_recipe(folder: Path) -> str:
    """Writes the recipe and its reward; returns the name to run it by."""
    (folder / "letters.py").write_text(TERM)
    (folder / "letters.yaml").write_text(RECIPE)
    return str(folder / "letters.yaml")
