"""Exploration and its memory: what is written at random is allowed, what is found is better, and all of it resumes."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_policy import make_rollouts

from thinkrl.algorithms.types import Advantages
from thinkrl.companions.frozen_start import FrozenStart
from thinkrl.companions.log_partition import LogPartition, OpenLogPartition
from thinkrl.companions.opened import Companions
from thinkrl.companions.replay import OpenReplay, Replay
from thinkrl.config.component import ConfigError
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.learning.learner import LearnerState
from thinkrl.models.policy import Policy
from thinkrl.models.tiny import TinyModel
from thinkrl.rewards.base_likelihood import StepCount
from thinkrl.rewards.correctness import Correctness
from thinkrl.rewards.log_reward import LogReward
from thinkrl.rewards.result import RewardResult
from thinkrl.rewards.reward import Reward, WeightedTerm
from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.store import Rollouts
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler
from thinkrl.tasks.target_numbers import TargetActions, TargetGrader, TargetPrompts

ACTIONS = TargetActions(operators="+-")
GRADER = TargetGrader(operators="+-")
PROMPTS = TargetPrompts(operators="+-", min_solutions=2, size=4, template="{numbers}>{target}").prompts()
SPEC = SamplingSpec(max_new_tokens=24)
REWARD = Reward(
    {
        "outcome": WeightedTerm(
            Correctness(GRADER, AnswerExtractor(sources=("whole",)), correct=100.0, wrong=0.001), weight=0.0
        ),
        "bonus": WeightedTerm(StepCount(), weight=0.0),
        "log_reward": WeightedTerm(LogReward({"outcome": 1.0, "bonus": 1.0})),
    }
)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return TinyModel(tokenizer="character", hidden=16, intermediate=16, layers=1, heads=2).load(seed=0)


def opened(**changes: object) -> OpenReplay:
    settings = {"replayed": 0.0, "random_steps": 0.0, "hot_share": 0.0, "tries": 0, "reward": REWARD, **changes}
    return OpenReplay(Replay(ACTIONS, **settings), "grpo", 10)  # type: ignore[arg-type]


def roll(replay: OpenReplay, policy: Policy, stage: str = "grpo", step: int = 1) -> Rollouts:
    environment = Companions({"replay": replay}).around(SingleTurn())
    return environment.rollout(policy, TorchSampler().open(policy), PROMPTS, 3, SPEC, seed=0, stage=stage, step=step)


def learned(replay: OpenReplay, rollouts: Rollouts) -> RewardResult:
    rewards = REWARD.score(rollouts, RewardContext())
    blank = rollouts.token_ids.with_values(np.zeros(len(rollouts.token_ids.values)))
    replay.learn(rollouts, rewards, Advantages(blank, rewards.kept))
    return rewards


def test_random_steps_are_allowed_ones_that_are_learned_from_without_a_log_probability(policy: Policy) -> None:
    found = roll(opened(random_steps=1.0), policy)
    assert len(found) == 12
    for response in found:
        prompt = PROMPTS[[p.prompt_id for p in PROMPTS].index(response.group_id.partition("/")[2])]
        lines = response.text.split("\n")
        assert len(lines) == 2
        assert lines[0] in ACTIONS.next(prompt, "")
        assert lines[1] in ACTIONS.next(prompt, lines[0])
        assert int(response.token_ids[-1]) in policy.stop_ids
        assert np.isnan(response.logprobs).all()
    assert found.sampled.all()
    assert len({response.text for response in found}) > 4


def test_what_the_policy_draws_keeps_its_log_probability_unless_it_is_drawn_hot(policy: Policy) -> None:
    plain, hot = roll(opened(), policy), roll(opened(hot_share=1.0, hot=4.0), policy)
    assert np.isfinite(plain.logprobs.values).all()
    assert np.isnan(hot.logprobs.values).all()
    assert plain.texts != hot.texts


def test_a_search_adds_what_is_better_than_all_that_was_sampled(policy: Policy) -> None:
    replay, found_in_all = opened(random_steps=1.0, tries=16), 0
    for step in range(1, 6):
        found = roll(replay, policy, step=step)
        worth = REWARD.score(found, RewardContext()).terms["log_reward"].values
        added = [row for row, name in enumerate(found.response_ids) if "/search-" in name]
        assert replay.seen["found_by_search"] == len(added)
        for row in added:
            sampled = [r for r in np.flatnonzero(found.group_index == found.group_index[row]) if r not in added]
            best = sampled[int(np.argmax(worth[sampled]))]
            assert worth[row] > worth[best]
            assert found.texts[row].split("\n")[0] == found.texts[best].split("\n")[0]
            assert found.texts[row].count("\n") == 1
        found_in_all += len(added)
    assert found_in_all


def test_a_response_without_lines_that_are_allowed_is_not_searched_from(policy: Policy) -> None:
    replay = opened(tries=16)
    assert len(roll(replay, policy)) == 12
    assert replay.seen["found_by_search"] == 0


def test_other_stages_and_measurements_see_the_environment_within(policy: Policy) -> None:
    found = roll(opened(random_steps=1.0, tries=16), policy, stage="grpo/monitor")
    assert len(found) == 12
    assert np.isfinite(found.logprobs.values).all()


def test_groups_come_back_from_the_buffer_as_they_were_and_all_resumes(policy: Policy) -> None:
    replay = opened(replayed=1.0, random_steps=1.0, tries=4)
    first = roll(replay, policy)  # nothing is buffered yet
    assert replay.seen["replayed_groups"] == 0.0
    learned(replay, first)
    known = {(row.group_id, row.text, tuple(row.token_ids.tolist())) for row in first}
    state = replay.state()
    other = opened(replayed=1.0, random_steps=1.0, tries=4)
    other.load_state(LearnerState(json.loads(json.dumps(state.values)), {}))
    again, resumed = roll(replay, policy), roll(other, policy)
    assert replay.seen["replayed_groups"] == 1.0
    assert len(again) == 12
    assert {(row.group_id, row.text, tuple(row.token_ids.tolist())) for row in again} <= known
    np.testing.assert_array_equal(again.token_ids.values, resumed.token_ids.values)
    np.testing.assert_array_equal(again.versions.values, resumed.versions.values)
    learned(replay, again)
    learned(other, resumed)
    assert other.state() == replay.state()


def test_what_cannot_be_replayed_is_refused(policy: Policy) -> None:
    with pytest.raises(ConfigError, match="response_prefix"):
        opened().around(SingleTurn(response_prefix="<think>"))
    with pytest.raises(ValueError, match="reward must be given where tries is above 0"):
        Replay(ACTIONS)
    with pytest.raises(ValueError, match="term must be one of the reward's"):
        Replay(ACTIONS, reward=REWARD, term="log")
    with pytest.raises(ValueError, match="random_steps must be between 0 and 1"):
        Replay(ACTIONS, tries=0, random_steps=1.5)


def test_the_frozen_start_says_what_the_sampler_said_whatever_the_policy_has_become(policy: Policy) -> None:
    found = roll(opened(), policy)
    mine = copy.deepcopy(policy.module)
    frozen = FrozenStart().open(SimpleNamespace(policy=SimpleNamespace(module=mine)))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in mine.parameters():
            parameter.zero_()
    said = frozen.signals(found)["base_logprobs"]
    np.testing.assert_allclose(said.values, found.logprobs.values, atol=1e-4)


def balanced(rollouts: Rollouts, phi: list[float]) -> Advantages:
    rows = rollouts.token_ids.row_ids
    column = rollouts.token_ids.with_values(np.where(rollouts.sampled, np.asarray(phi)[rows], np.nan))
    return Advantages(column, np.ones(len(rollouts), dtype=np.bool_), targets={"log_z": column})


@pytest.mark.parametrize(("per", "expected"), [("all", [3.0, 3.0]), ("prompt", [1.0, 5.0])])
def test_log_z_becomes_the_mean_of_phi(per: str, expected: list[float]) -> None:
    rollouts = make_rollouts((1, 1))
    model = OpenLogPartition(LogPartition(learning_rate=0.05, per=per))  # type: ignore[arg-type]
    assert model.signals(rollouts)["log_z"].tolist() == [0.0, 0.0]
    nothing = RewardResult(np.zeros(2))
    first = model.learn(rollouts, nothing, balanced(rollouts, [1.0, 5.0]))
    assert first["loss"] == pytest.approx((1 + 25) / 2)
    assert model.signals(rollouts)["log_z"].tolist() == pytest.approx([0.05, 0.05])  # Adam's first step is its rate
    for _ in range(600):
        model.learn(rollouts, nothing, balanced(rollouts, [1.0, 5.0]))
    assert model.signals(rollouts)["log_z"].tolist() == pytest.approx(expected, abs=0.02)


def test_log_z_resumes_bit_for_bit() -> None:
    rollouts, nothing = make_rollouts((1, 1)), RewardResult(np.zeros(2))
    one, other = (OpenLogPartition(LogPartition(learning_rate=0.1, per="prompt")) for _ in range(2))
    one.learn(rollouts, nothing, balanced(rollouts, [0.3, -2.0]))
    other.load_state(LearnerState(json.loads(json.dumps(one.state().values)), {}))
    for model in (one, other):
        model.learn(rollouts, nothing, balanced(rollouts, [1 / 3, 7.0]))
    assert one.state() == other.state()
