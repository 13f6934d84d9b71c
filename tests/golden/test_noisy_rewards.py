"""On the noisy rewards in learning to reason (arXiv 2505.22653): flips, patterns of thinking, calibrated scores."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_file import TOLERANCE, numbers, rollouts, score

from thinkrl.algorithms.advantages import GroupAdvantage
from thinkrl.companions.reward_model import RewardModel
from thinkrl.config.build import build
from thinkrl.config.component import ConfigError
from thinkrl.config.compose import compose
from thinkrl.rewards.flipped_labels import FlippedLabels
from thinkrl.rewards.phrases import PhraseReward
from thinkrl.rewards.repetition import repeated_share
from thinkrl.rewards.reward import Reward
from thinkrl.rewards.shaping import LowValueBonus
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.grpo import GRPO

PAPER = "noisy_rewards/paper"


@cache
def patterns(recipe: str = PAPER, *overrides: str) -> PhraseReward:
    """The term of a shipped recipe that counts phrases."""
    composed = compose(recipe, overrides)
    reward = build(Reward, composed.tree["reward"], composed, "reward")
    term = reward.terms["patterns"].term
    assert isinstance(term, PhraseReward)
    return term


def paid(term: PhraseReward, text: str) -> float:
    return float(term.score(rollouts([1], texts=[text]), RewardContext()).values[0])


TWENTY_WORDS = (
    "First, a is one. I need to add b to it, and we know that b is two. Therefore c is three now."  # 21 words
)


def test_phrases_are_forty_and_fifty_three() -> None:
    assert sum(map(len, patterns().phrases.values())) == 40
    assert sum(map(len, patterns(PAPER, "reward=calibrated_score").phrases.values())) == 53


def test_four_phrases_of_twenty_or_of_forty() -> None:
    assert paid(patterns(), TWENTY_WORDS) == pytest.approx(0.2, **TOLERANCE)
    assert paid(patterns(PAPER, "reward.terms.patterns.term.enough=null"), TWENTY_WORDS) == pytest.approx(
        0.1, **TOLERANCE
    )
    assert paid(patterns(PAPER, "reward.terms.patterns.term.enough=40"), TWENTY_WORDS) == pytest.approx(
        0.1, **TOLERANCE
    )


def test_phrases_within_phrases_count_and_each_counts_once() -> None:
    text = "let me try again. wait, thus hence therefore"
    assert paid(patterns(), text) == pytest.approx(0.3, **TOLERANCE)
    assert paid(patterns(), f"{text} wait wait, thus, THUS") == pytest.approx(0.3, **TOLERANCE)


def test_a_space_at_the_end_is_part_of_a_phrase() -> None:
    assert paid(patterns(), "we can see") == 0.0
    assert paid(patterns(), "we can see it") == pytest.approx(0.05, **TOLERANCE)
    assert paid(patterns(), "first,") == 0.0
    assert paid(patterns(), "First, 1") == pytest.approx(0.05, **TOLERANCE)


def test_repetition_is_taken_off_down_to_nothing() -> None:
    text = "we know that x is one " * 10
    assert repeated_share(text.split(), 20) == pytest.approx(0.1463414634, **TOLERANCE)
    assert paid(patterns(), text) == 0.0
    assert paid(patterns(PAPER, "reward.terms.patterns.term.ngram=0"), text) == pytest.approx(0.05, **TOLERANCE)
    # One word less than an n-gram has none; one n-gram cannot repeat; two equal ones are one kind of two.
    assert repeated_share(["a"] * 19, 20) == repeated_share(["a"] * 20, 20) == 0.0
    assert repeated_share(["a"] * 21, 20) == 0.5
    # More phrases pay for some repetition: 8 phrases are 0.4, and 0.146 is taken off.
    rich = f"{text} wait alternatively thus hence therefore consequently so that "
    words = rich.lower().split()
    assert paid(patterns(), rich) == pytest.approx(0.4 - repeated_share(words, 20), **TOLERANCE)


@pytest.mark.parametrize(("times", "value"), [(0, 0.15), (1, 0.0), (2, 0.0)])
def test_a_question_put_to_oneself_costs_one(times: int, value: float) -> None:
    assert paid(patterns(), "wait thus hence" + " User: and 2?" * times) == pytest.approx(value, **TOLERANCE)


def test_no_more_than_one_is_paid() -> None:
    every = [phrase for members in patterns().phrases.values() for phrase in members]
    found = patterns().score(rollouts([1], texts=[" ".join(every)]), RewardContext())
    assert found.values.tolist() == [1.0]
    assert set(found.metrics.values()) == {1.0}
    # 40 of 20 is clipped before anything is taken off.
    assert paid(patterns(), " ".join(every) + " user: ") == 0.0


def test_what_is_searched_begins_with_the_thinking() -> None:
    assert paid(patterns(), "wait <think>thus</think> hence") == pytest.approx(0.1, **TOLERANCE)
    assert paid(patterns(), "wait thus</think> hence") == pytest.approx(0.15, **TOLERANCE)
    thinking = patterns(PAPER, "reward.terms.patterns.term.part=thinking")
    assert paid(thinking, "wait <think>thus</think> hence") == pytest.approx(0.05, **TOLERANCE)
    assert paid(thinking, "wait thus hence") == 0.0


def test_the_phrases_of_help_are_paid_alike() -> None:
    helping = patterns(PAPER, "reward=calibrated_score")
    assert paid(helping, "1. I will plan. step 1 considering the goal") == pytest.approx(4 / 20, **TOLERANCE)
    assert paid(helping, "step 3 goes. I should") == pytest.approx(1 / 20, **TOLERANCE)  # "step 3. " has a full stop
    assert paid(helping, "user: wait") == pytest.approx(1 / 20, **TOLERANCE)  # nothing is forbidden here


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrases": {}}, "at least one phrase"),
        ({"phrases": {"a": ("x",), "b": ("x",)}}, "'x' twice"),
        ({"phrases": {"a": ("X",)}}, "lower case"),
        ({"phrases": {"a": ("",)}}, "not empty"),
        ({"enough": 0.0}, "enough must be above 0"),
        ({"ngram": -1}, "ngram must be 0 or more"),
    ],
)
def test_phrases_that_cannot_be_counted_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhraseReward(**({"phrases": {"a": ("x",)}} | changes))


@pytest.mark.parametrize(
    ("value", "pattern", "wanted"),
    [
        (0.42, 0.6, 0.48),
        (0.49, 1.0, 0.59),
        (0.50, 0.6, 0.50),
        (-0.20, 0.35, -0.165),
        (0.0, 0.8, 0.08),
        (1.7, 1.0, 1.7),
        (0.499, 0.0, 0.499),
        (0.3, math.nan, 0.3),
        (math.nan, 0.5, math.nan),
    ],
)
def test_low_scores_are_raised(value: float, pattern: float, wanted: float) -> None:
    context = RewardContext(scores={"patterns": Scores(numbers(pattern))})
    found = LowValueBonus("patterns").shape(numbers(value), rollouts([1]), context)
    assert found.tolist() == pytest.approx([wanted], nan_ok=True, **TOLERANCE)


def test_raising_ends_at_the_greatest_value() -> None:
    context = RewardContext(scores={"patterns": Scores(numbers(1.0))})
    found = LowValueBonus("patterns", below=1.0, scale=5.0).shape(numbers(0.9), rollouts([1]), context)
    assert found.tolist() == [1.0]
    with pytest.raises(ValueError, match="most must be at least below"):
        LowValueBonus("patterns", below=1.5)


def flips(term: FlippedLabels, right: list[float], groups: list[str], answered: list[float] | None = None) -> Any:
    context = RewardContext(
        scores={"correctness": Scores(numbers(*right)), "answered": Scores(numbers(*(answered or [1.0] * len(right))))}
    )
    return term.score(rollouts([1] * len(right), groups), context)


def test_a_flipped_question_has_all_its_labels_turned() -> None:
    labels = [1.0, 0.0, 0.0, 1.0]
    assert flips(FlippedLabels(probability=1.0), labels, ["g"] * 4).values.tolist() == [0.0, 1.0, 1.0, 0.0]
    assert flips(FlippedLabels(probability=0.0), labels, ["g"] * 4).values.tolist() == labels
    many = FlippedLabels(probability=0.4).score(*_questions(200)).values.reshape(-1, 4)
    assert {tuple(row) for row in many} == {(0.0, 1.0, 1.0, 0.0), (1.0, 0.0, 0.0, 1.0)}


def _questions(count: int) -> tuple[Any, RewardContext]:
    batch = rollouts([1] * (4 * count), [f"q{row // 4}" for row in range(4 * count)])
    return batch, RewardContext(scores={"correctness": Scores(np.tile([1.0, 0.0, 0.0, 1.0], count))})


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5])
def test_right_answers_earn_1_minus_2p_more(p: float) -> None:
    count = 4000
    batch, context = _questions(count)
    values = FlippedLabels(probability=p).score(batch, context).values.reshape(-1, 4)
    gap = (values[:, [0, 3]].mean(1) - values[:, [1, 2]].mean(1)).mean()
    assert gap == pytest.approx(1 - 2 * p, abs=4 * 2 * (p * (1 - p) / count) ** 0.5)
    # Advantages of a flipped group are those of the group, with the other sign.
    advantages = GroupAdvantage().advantages(values.ravel(), batch).per_response().reshape(-1, 4)
    assert np.abs(advantages) == pytest.approx(np.broadcast_to(np.abs(advantages[0]), advantages.shape), rel=1e-9)


def test_no_answer_is_never_flipped_and_no_number_stays_none() -> None:
    found = flips(FlippedLabels(probability=1.0, among="answered"), [0.0, 0.0, math.nan], ["g"] * 3, [0.0, 1.0, 1.0])
    assert found.values.tolist() == pytest.approx([0.0, 1.0, math.nan], nan_ok=True)
    assert found.notes == ("", "flipped", "flipped")
    assert found.metrics["flipped"] == pytest.approx(2 / 3)


def test_coins_depend_on_id_and_seed_alone() -> None:
    batch, context = _questions(500)
    term = FlippedLabels(probability=0.4)
    values = term.score(batch, context).values
    rows = np.arange(1999, 899, -1)
    part = RewardContext(step=7, scores={"correctness": context.scores["correctness"].take(rows)})
    assert term.score(batch.select(rows), part).values.tolist() == values[rows].tolist()
    other = FlippedLabels(probability=0.4, seed=1).score(batch, context).values
    assert 0.3 < np.mean(other != values) < 0.66  # 2 p (1 - p) = 0.48
    each = FlippedLabels(probability=0.4, coin="response").score(batch, context).values
    kinds = {tuple(row) for row in each.reshape(-1, 4)}
    assert len(kinds) == 16


def test_a_coin_for_a_question_is_thrown_again_when_it_is_asked_again_or_not() -> None:
    batch, context = _questions(300)
    moved = type(batch)(
        **{
            **vars(batch),
            "groups": tuple(type(g)(f"2/{g.group_id}", g.prompt, g.prompt_ids) for g in batch.groups),
        }
    )
    for coin, same in (("group", False), ("prompt", True)):
        term = FlippedLabels(probability=0.4, coin=coin)  # type: ignore[arg-type]
        pair = [term.score(one, context).values.tolist() for one in (batch, moved)]
        assert (pair[0] == pair[1]) is same


def test_a_chance_outside_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 1\.5"):
        FlippedLabels(probability=1.5)


CRITIC = {"values": [0.0, 0.0]}
"""What a critic says of two tokens: nothing, so that advantages are whitened rewards."""


def answers(*boxes: str) -> list[dict[str, Any]]:
    texts = [f"wait, thus</think> <answer>{box}</answer>" for box in boxes]
    shared = {"prompt_id": "q", "prompt": "3+4?", "reference": "7", "signals": CRITIC}
    return [{**shared, "response": text} for text in texts]


LINES = answers(r"\boxed{7}", r"\boxed{8}", "seven", r"\boxed{}")


@pytest.mark.parametrize(("p", "wanted"), [(0, [1.0, 0.0, 0.0, 0.0]), (1, [0.0, 1.0, 0.0, 0.0])])
def test_flips_through_score(tmp_path: Path, p: float, wanted: list[float]) -> None:
    found = score(tmp_path, LINES, PAPER, f"reward.terms.label.term.probability={p}")
    assert [row["reward"] for row in found] == wanted
    assert [row["verdict"] for row in found] == ["correct", "wrong", "wrong", "wrong"]  # of the truth


def test_patterns_alone_are_paid_where_there_is_an_answer(tmp_path: Path) -> None:
    alone = ("reward.terms.label.weight=0", "reward.terms.patterns.weight=1")
    found = score(tmp_path, LINES, PAPER, *alone)
    assert [row["reward"] for row in found] == pytest.approx([0.1, 0.1, 0.0, 0.0], **TOLERANCE)


def test_patterns_where_the_label_pays_nothing(tmp_path: Path) -> None:
    mixed = ["reward.terms.patterns.weight=1", "reward.terms.patterns.gate.term=label"]
    mixed += ["reward.terms.patterns.gate.at_least=null", "reward.terms.patterns.gate.at_most=0"]
    for p, wanted in ((0, [1.0, 0.1, 0.1, 0.1]), (1, [0.1, 1.0, 0.1, 0.1])):
        found = score(tmp_path, LINES, PAPER, *mixed, f"reward.terms.label.term.probability={p}")
        assert [row["reward"] for row in found] == pytest.approx(wanted, **TOLERANCE)


def test_patterns_first_and_labels_then(tmp_path: Path) -> None:
    """A number of steps with patterns in place of labels: 2 of 5, by weights that change at a fraction of the stage."""
    stairs = "{_target_:thinkrl.rewards.schedules.Stairs,weights:[%s],at:[0.5]}"
    changes = [f"reward.terms.label.weight={stairs % '0.0,1.0'}", f"reward.terms.patterns.weight={stairs % '1.0,0.0'}"]
    changes.append("reward.terms.label.term.probability=0")
    rewards = []
    for step in (1, 2, 3, 5):
        found = score(tmp_path, LINES[:1], PAPER, *changes, "--step", str(step), "--total-steps", "5")
        rewards.append(found[0]["reward"])
    assert rewards == pytest.approx([0.1, 0.1, 1.0, 1.0], **TOLERANCE)


THOUGHT = "<think>wait, thus, hence i need to see</think> <answer>Yes.</answer>"


SAID = [
    (THOUGHT, 0.3, 0.32),
    (THOUGHT, 0.5, 0.5),
    (THOUGHT, 1.4, 1.4),
    (THOUGHT, -0.2, -0.18),
    ("wait, thus, hence i need to see", 0.9, 0.0),
    ("<answer>Yes.</answer><think>wait</think>", 0.9, 0.0),
    ("<think></think><answer>Yes.</answer>", 0.9, 0.0),
    ("<think>wait</think><answer> </answer>", 0.3, 0.0),
    ("<think>a</think><answer>b</answer> or <think>c</think> so <answer>d</answer>", 0.7, 0.7),
    ("<think>a</think><answer>b</answer> or <think>c", 0.7, 0.7),
]
"""A response, the reward model's score of it, and what is paid."""


def test_calibrated_scores_through_score(tmp_path: Path) -> None:
    shared = {"prompt_id": "q", "prompt": "?"}
    lines = [{**shared, "response": text, "signals": {"model_score": said, **CRITIC}} for text, said, _ in SAID]
    found = score(tmp_path, lines, PAPER, "reward=calibrated_score")
    assert [row["reward"] for row in found] == pytest.approx([wanted for _, _, wanted in SAID], **TOLERANCE)
    plain = score(tmp_path, lines, PAPER, "reward=calibrated_score", "reward.terms.score.shaping=[]")
    unraised = [said if wanted else 0.0 for _, said, wanted in SAID]
    assert [row["reward"] for row in plain] == pytest.approx(unraised, **TOLERANCE)


def test_a_score_as_a_probability(tmp_path: Path) -> None:
    """Reward models that are trained with cross-entropy say log-odds."""
    logits = [2.0, 0.5, -1.0, -3.0, 900.0, -900.0]
    lines = [{"prompt_id": "q", "response": THOUGHT, "signals": {"model_score": said, **CRITIC}} for said in logits]
    changes = ("reward=calibrated_score", "reward.terms.score.shaping=[]", "reward.terms.score.term.squash=sigmoid")
    found = score(tmp_path, lines, PAPER, *changes)
    wanted = [0.88079708, 0.62245933, 0.26894142, 0.04742587, 1.0, 0.0]
    assert [row["reward"] for row in found] == pytest.approx(wanted, **TOLERANCE)


def test_the_laptop_form_scores_without_any_signal(tmp_path: Path) -> None:
    lines = [json.loads(json.dumps(line)) for line in answers("7", "8")]
    found = score(tmp_path, lines, "noisy_rewards", "reward.terms.label.term.probability=0")
    assert [row["reward"] for row in found] == [1.0, 0.0]


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_rates_of_the_paper_build(p: float) -> None:
    composed = compose(PAPER, [f"reward.terms.label.term.probability={p}"])
    experiment = build(Experiment, composed.tree, composed)
    assert experiment.reward is not None
    term = experiment.reward.terms["label"].term
    assert isinstance(term, FlippedLabels)
    assert term.probability == p


def test_the_paper_form_with_a_reward_model_on_open_questions_builds() -> None:
    changes = [
        "reward=calibrated_score", "environment.max_prompt_tokens=1536", "stages.grpo.steps=200",
        "stages.grpo.prompts_per_step=64", "stages.grpo.sampling.max_new_tokens=6144",
        "+stages.grpo.companions.reward_model=${constants.reward_model}",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="must supply the signal 'model_score', read by score"):
        build(Experiment, (bare := compose(PAPER, changes[:1])).tree, bare)
    composed = compose(PAPER, changes)
    stage = build(Experiment, composed.tree, composed).stages["grpo"]
    assert isinstance(stage, GRPO)
    assert set(stage.companions) == {"critic", "reward_model"}
    judge = stage.companions["reward_model"]
    assert isinstance(judge, RewardModel)
    assert (judge.reads.part, judge.source) == ("answer", "AngLv/NoisyRewards-in-RL-RM-acc-85")
    # Of the critic's 20 first steps the actor has none; one update a batch of 64 prompts with 4 responses.
    assert (stage.companion_steps, stage.group_size, stage.algorithm.updates_per_batch) == (20, 4, 1)
