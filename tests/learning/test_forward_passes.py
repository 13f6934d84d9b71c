"""No pass over the rollouts that nothing asks for: of each algorithm's configuration, the passes are counted."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_policy import make_rollouts, open_learner, tiny_policy

from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.config.build import build
from thinkrl.learning.scorer import Scorer
from thinkrl.rollouts.episodes import Episode
from thinkrl.sampling.sampler import SamplingSpec

FOLDER = Path(__file__).parents[2] / "conf" / "algorithm"
OTHERS = {"budget_relative", "oreal", "ppo", "trajectory_balance", "trajectory_balance_learned"}
"""They read budgets, evidence, a critic's values or their own log-probabilities beside totals, or leave responses
out."""
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml") if "defaults:" not in file.read_text()[:600])
NAMES = [name for name in NAMES if name not in OTHERS]
SPEC = SamplingSpec()


def configured(name, **changes):
    return build(Algorithm, OmegaConf.merge(OmegaConf.load(FOLDER / f"{name}.yaml"), changes))


@contextmanager
def counted(monkeypatch):
    """Tokens read with a gradient, and without one by the trained and by the frozen weights."""
    counts = {"with gradient": 0, "without": 0, "reference": 0}
    call = Scorer.__call__

    def spy(self, rows, spec, **settings):
        trained = next(self.module.parameters()).requires_grad
        kind = ("with gradient" if torch.is_grad_enabled() else "without") if trained else "reference"
        counts[kind] += sum(map(len, rows))
        return call(self, rows, spec, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "__call__", spy)
        yield counts


def one_batch(algorithm, monkeypatch):
    """Everything a stage does with an algorithm on a batch; the tokens of one pass, and the counts."""
    rollouts = make_rollouts((4, 4))
    # Each response is an episode of its own, for those that reward whole episodes.
    rollouts = replace(rollouts, episodes=tuple(Episode(name, (0.0, 1.0)) for name in rollouts.response_ids))
    learner = open_learner(
        tiny_policy(), with_reference=algorithm.needs_reference, row_tokens=24, micro_batch_tokens=48
    )
    with counted(monkeypatch) as once:
        learner.logprobs(rollouts, SPEC)
    with counted(monkeypatch) as counts:
        penalties = algorithm.token_rewards(learner, rollouts, SPEC)
        totals = np.arange(len(rollouts), dtype=np.float64)
        advantages = algorithm.advantages(totals, rollouts, penalties)
        assert (advantages.per_response() != 0).sum() >= len(rollouts) - 1
        report = algorithm.update(learner, rollouts, advantages, SPEC)
    assert report.version == algorithm.updates_per_batch
    return once["without"], counts


def without_kl(name):
    algorithm = configured(name)
    return configured(name, objective={"kl": {"coefficient": 0.0}}) if algorithm.objective.kl else algorithm


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reinforce"])
def test_on_policy_without_kl_every_token_is_read_once(name, monkeypatch):
    algorithm = without_kl(name)
    assert not algorithm.needs_reference
    once, counts = one_batch(algorithm, monkeypatch)
    assert counts == {"with gradient": once, "without": 0, "reference": 0}


def test_a_response_that_pulls_nowhere_is_not_read(monkeypatch):
    """REINFORCE's rewards are its advantages: the first response has 0."""
    once, counts = one_batch(without_kl("reinforce"), monkeypatch)
    assert 0 < counts["with gradient"] < once
    assert counts["without"] == counts["reference"] == 0


@pytest.mark.parametrize("name", [name for name in NAMES if configured(name).needs_reference])
def test_a_kl_term_reads_the_reference_once(name, monkeypatch):
    once, counts = one_batch(configured(name), monkeypatch)
    assert counts == {"with gradient": once, "without": 0, "reference": once}


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_a_kl_penalty_on_rewards_reads_the_reference_once_and_the_policy_never(coefficient, monkeypatch):
    reward = {"_target_": "thinkrl.algorithms.kl.KLReward", "coefficient": coefficient}
    once, counts = one_batch(configured("rloo", kl_reward=reward), monkeypatch)
    assert counts == {"with gradient": once, "without": 0, "reference": once if coefficient else 0}


@pytest.mark.parametrize(("old", "extra"), [("recompute", 1), ("sampler", 0)])
def test_several_updates_read_old_logprobs_once_a_batch_at_most(old, extra, monkeypatch):
    algorithm = configured("dapo", passes=3, old_logprobs=old)
    once, counts = one_batch(algorithm, monkeypatch)
    assert counts == {"with gradient": 3 * once, "without": extra * once, "reference": 0}


def test_there_is_a_configuration_with_and_one_without_a_reference():
    assert {configured(name).needs_reference for name in NAMES} == {True, False}
