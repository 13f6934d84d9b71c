from pathlib import Path

import numpy as np
import pytest

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.algorithms.algorithm import Algorithm
from thinkrl.algorithms.kl import KLLoss, KLReward
from thinkrl.algorithms.mismatch import ImportanceCorrection
from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.sides import SidesAdded
from thinkrl.algorithms.types import Advantages, UpdateReport
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts
from thinkrl.sampling.sampler import SamplingSpec

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "algorithm").glob("*.yaml"))
SPEC = SamplingSpec()


def make_rollouts(groups):
    ones, ints = np.ones(2, dtype=np.uint8), np.zeros(2, dtype=np.int32)
    responses = [
        Response(f"r{row}", g, "", FinishReason.STOP, ints, ones, np.full(2, -row, np.float32), ints, ints, ints)
        for row, g in enumerate(groups)
    ]
    prompts = [Group(g, Prompt(g, ()), np.array([1], dtype=np.int32)) for g in sorted(set(groups))]
    return Rollouts.from_responses(prompts, responses)


class Recorder:
    """Stands for a learner: notes what each optimizer step is given."""

    def __init__(self):
        self.steps = []
        self.scored = 0

    def logprobs(self, rollouts, spec):
        self.scored += 1
        return rollouts.token_ids.with_values(np.full(len(rollouts.token_ids.values), -7.0, np.float32))

    def reference_logprobs(self, rollouts, spec):
        return rollouts.token_ids.with_values(np.full(len(rollouts.token_ids.values), -0.5, np.float32))

    def update(self, rollouts, advantages, objective, spec, old_logprobs=None):
        self.steps.append((rollouts, advantages, old_logprobs))
        n = len(self.steps)
        return UpdateReport(
            n, loss=float(n), gradient_norm=2.0 * n, learning_rate=0.1 * n,
            metrics={"ratio": 10.0 * n, "mismatch/max_abs": float(n)}, seconds={"forward": 1.0},
        )  # fmt: skip


def algorithm(**settings):
    return Algorithm(GroupAdvantage(), ClippedObjective(), **settings)


def test_one_update_takes_the_learners_own_logprobs():
    rollouts, learner = make_rollouts("aabb"), Recorder()
    advantages = algorithm().advantages(np.array([0.0, 1, 0, 0]), rollouts)
    report = algorithm().update(learner, rollouts, advantages, SPEC)
    assert learner.steps == [(rollouts, advantages, None)]
    assert report.metrics["ratio"] == 10.0
    assert report.metrics["advantage/flat_groups"] == 0.5
    assert report.row()["loss"] == 1.0


@pytest.mark.parametrize("passes", [1, 2])
def test_minibatches_hold_whole_groups_and_every_response_once_a_pass(passes):
    rollouts, learner = make_rollouts("abcabcde"), Recorder()
    subject = algorithm(minibatches=2, passes=passes, old_logprobs="sampler")
    advantages = subject.advantages(np.arange(8.0), rollouts)
    report = subject.update(learner, rollouts, advantages, SPEC)
    assert len(learner.steps) == subject.updates_per_batch == 2 * passes
    expected = [["r0", "r2", "r3", "r5", "r7"], ["r1", "r4", "r6"]] * passes
    assert [list(part.response_ids) for part, _, _ in learner.steps] == expected
    for part, given, old in learner.steps:
        rows = [int(name[1:]) for name in part.response_ids]
        assert given.per_response().tolist() == advantages.per_response()[rows].tolist()
        assert [float(row[0]) for row in old] == [-float(row) for row in rows]
    steps = np.arange(1, 2 * passes + 1)
    assert report.loss == steps.mean()
    assert report.version == steps[-1]
    assert report.metrics["ratio"] == 10 * steps.mean()
    assert report.metrics["mismatch/max_abs"] == 1.0  # of the first step
    assert report.seconds == {"forward": float(len(steps))}


def test_recomputed_logprobs_are_taken_once_before_the_first_step():
    rollouts, learner = make_rollouts("aabb"), Recorder()
    subject = algorithm(passes=3, old_logprobs="recompute")
    subject.update(learner, rollouts, subject.advantages(np.arange(4.0), rollouts), SPEC)
    assert learner.scored == 1
    assert all((old.values == -7.0).all() for _, _, old in learner.steps)


def test_stale_ratios_and_too_many_parts_are_refused():
    with pytest.raises(ValueError, match="old_logprobs must be 'recompute' or 'sampler'"):
        algorithm(passes=2)
    with pytest.raises(ValueError, match="minibatches must be at least 1"):
        algorithm(minibatches=0)
    with pytest.raises(ValueError, match="minibatches must be at most the 2 groups"):
        algorithm(minibatches=3, old_logprobs="sampler").parts(make_rollouts("aabb"))


def test_kl_in_the_reward_reaches_the_advantages():
    rollouts, learner = make_rollouts("aa"), Recorder()
    subject = Algorithm(GroupAdvantage(scale="none"), ClippedObjective(), kl_reward=KLReward(0.1))
    totals = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="token_rewards must be given"):
        subject.advantages(totals, rollouts)
    penalties = subject.token_rewards(learner, rollouts, SPEC)
    # Sampler 0 and -1, reference -0.5: k1 is 0.5 and -0.5 a token.
    assert penalties.values.tolist() == pytest.approx([-0.05, -0.05, 0.05, 0.05])
    assert subject.advantages(totals, rollouts, penalties).values.values == pytest.approx([-0.6, -0.55, 0.6, 0.55])


@pytest.mark.parametrize(
    ("kl", "kl_reward", "expected"),
    [
        (None, None, False),
        (KLLoss(0.0), KLReward(0.0), False),
        (KLLoss(0.1), None, True),
        (None, KLReward(0.1), True),
    ],
)
def test_a_coefficient_of_zero_needs_no_reference(kl, kl_reward, expected):
    subject = Algorithm(GroupAdvantage(), ClippedObjective(kl=kl), kl_reward=kl_reward)
    assert subject.needs_reference is expected
    if not expected:
        assert subject.token_rewards(Recorder(), make_rollouts("a"), SPEC) is None


def test_advantages_check_their_shape():
    column = make_rollouts("ab").logprobs
    with pytest.raises(ValueError, match="kept has 1 rows, expected 2"):
        Advantages(column, np.ones(1, dtype=np.bool_))
    with pytest.raises(ValueError, match="weights and values differ"):
        Advantages(column, np.ones(2, dtype=np.bool_), make_rollouts("a").logprobs)


def shipped(name, folder):
    """The algorithm of a recipe that takes it as it is shipped."""
    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        "# @package _global_\n"
        f"defaults: [/base, {{/algorithm: {name}}}, _self_]\n"
        f"name: {name}\n"
        "constants: {kept_of_each: 1}\n"
    )
    composed = compose(str(recipe))
    return build(Algorithm, composed.tree["algorithm"], composed, "algorithm")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_build_and_say_what_they_are(path, tmp_path):
    assert path.read_text().startswith("# ")
    assert isinstance(shipped(path.stem, tmp_path), Algorithm)


def test_shipped_configs_differ_where_the_methods_differ(tmp_path):
    by_name = {path.stem: shipped(path.stem, tmp_path) for path in CONFIGS}
    with_kl = {"grpo", "co_reward", "oreal", "oreal_outcome", "oreal_pairs"}
    assert {name for name, a in by_name.items() if a.needs_reference} == with_kl
    sides = by_name["co_reward"].advantage
    assert isinstance(sides, SidesAdded)
    assert sides.advantage.scale == "std"
    plain = {name: a.advantage for name, a in by_name.items() if isinstance(a.advantage, GroupAdvantage)}
    scaled = {"grpo", "dapo", "gspo", "grpo_sequence_sum"}
    assert {name for name, advantage in plain.items() if advantage.scale == "std"} == scaled
    assert plain["rloo"].center == "leave_one_out"
    assert plain["reinforce"].center == "none"
    assert by_name["dapo"].objective.clip_high == 0.28
    assert by_name["gspo"].objective.ratio == "sequence"
    assert by_name["dr_grpo"].objective.aggregation == "constant"


def test_a_mismatch_is_not_corrected_twice():
    objective = ClippedObjective(mismatch=ImportanceCorrection())
    Algorithm(GroupAdvantage(), objective, old_logprobs="recompute")
    with pytest.raises(ValueError, match=r"^objective\.mismatch must be null when old_logprobs is 'sampler'"):
        Algorithm(GroupAdvantage(), objective, old_logprobs="sampler")
