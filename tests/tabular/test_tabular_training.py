"""Learners against hand computation, and training that stops and goes on as if it had not."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from thinkrl.tabular.designer import Design, Designer, OriginalReward, PotentialReward, Task
from thinkrl.tabular.episodes import Episode, returns_to_go
from thinkrl.tabular.learned_reward import LearnedReward
from thinkrl.tabular.learners import QLearning, Reinforce, TabularLearner
from thinkrl.tabular.training import Rhythm, Training
from thinkrl.tabular.values import policy_return
from thinkrl.tabular.worlds import Chain, Room


def test_returns_to_go() -> None:
    assert returns_to_go([1.0, 2.0, 4.0], 0.5) == pytest.approx([3.0, 4.0, 4.0])


def test_one_step_of_q_learning() -> None:
    table, learner = np.array([[1.0, 2.0], [4.0, 3.0]]), QLearning(rate=0.5)
    learner.after_step(table, 0, 1, 1.0, 1, False, 0.9)
    assert table[0, 1] == pytest.approx(2 + 0.5 * (1 + 0.9 * 4 - 2))
    learner.after_step(table, 0, 0, 1.0, 1, True, 0.9)
    assert table[0, 0] == pytest.approx(1.0)


def test_what_q_learning_does_and_is_judged_by() -> None:
    table, learner = np.array([[1.0, 1.0, 0.0, 0.0]]), QLearning(epsilon=0.2)
    assert learner.acts(table)[0] == pytest.approx([0.45, 0.45, 0.05, 0.05])
    assert learner.judged(table)[0] == pytest.approx([0.5, 0.5, 0.0, 0.0])


def test_one_step_of_reinforce() -> None:
    """Returns are 3 and 2 at discount 0.5; each pulls its action by the return and all by their chances."""
    table, learner = np.zeros((2, 2)), Reinforce(rate=0.1)
    learner.after_episodes(table, [Episode([0, 1], [1, 0], [2.0, 2.0], [[0.5, 0.5]] * 2)], 0.5)
    assert table == pytest.approx(np.array([[-0.075, 0.075], [0.05, -0.05]]))
    assert learner.acts(np.array([1000.0, 0.0])) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("designer", "learner"), [(LearnedReward(), Reinforce()), (OriginalReward(), QLearning())], ids=["own", "original"]
)
def test_training_goes_on_exactly(designer: Designer, learner: TabularLearner) -> None:
    task, rhythm = Task.of(Chain(left=15, right=3)), Rhythm(horizon=12)
    whole = Training.begin(task, designer, learner, rhythm)
    values = [whole.episode(3, "chain") for _ in range(23)]
    first = Training.begin(task, designer, learner, rhythm)
    before = [first.episode(3, "chain") for _ in range(9)]
    again = Training.resume(task, designer, learner, rhythm, json.loads(json.dumps(first.as_json())))
    assert before + [again.episode(3, "chain") for _ in range(14)] == values
    assert again.as_json() == whole.as_json()


def test_episodes_are_the_seeds_and_the_stages_alone() -> None:
    task, rhythm = Task.of(Chain()), Rhythm(horizon=10)

    def played(seed: int, stage: str) -> list[int]:
        training = Training.begin(task, OriginalReward(), Reinforce(), rhythm)
        training.episode(seed, stage)
        return training.recent[0].states

    assert played(0, "a") == played(0, "a")
    assert len({tuple(played(seed, stage)) for seed in (0, 1) for stage in "ab"}) == 4


def test_visits_count_states_that_were_left_and_the_last_episodes_are_kept() -> None:
    task = Task.of(Chain())
    training = Training.begin(task, LearnedReward(learns=False), Reinforce(), Rhythm(horizon=7, design_from=3))
    steps = [training.episode(0, "x")[1] for _ in range(8)]
    assert training.design.visits.sum() == sum(steps) == 56
    assert len(training.recent) == 5


@dataclass(frozen=True, kw_only=True)
class Noting(Designer):
    """Writes into the critic how many episodes it was shown, and when."""

    def begin(self, task: Task) -> Design:
        return Design.begin(task.mdp.rewards)

    def follow(self, design: Design, task: Task, episodes: object, policy: object) -> None:
        design.critic[0] += 1
        design.critic[1] = len(episodes)  # type: ignore[arg-type]


def test_who_learns_when() -> None:
    training = Training.begin(Task.of(Chain()), Noting(), Reinforce(), Rhythm(horizon=3))
    shown = []
    for _ in range(15):
        training.episode(0, "x")
        shown.append(training.design.critic[:2].tolist())
    assert shown[3] == [0, 0]
    assert shown[4] == [1, 5]
    assert shown[9] == [2, 10]
    assert shown[14] == [3, 10]


def test_shaping_by_optimal_values_teaches_the_rooms_within_60_episodes() -> None:
    task = Task.of(Room())
    training = Training.begin(task, PotentialReward(), QLearning(), Rhythm())
    for _ in range(60):
        training.episode(0, "x")
    found = policy_return(task.mdp, training.learner.judged(training.table))
    assert found >= 0.9 * task.optimum.values[8]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QLearning(rate=0.0), "rate must be above 0"),
        (lambda: QLearning(epsilon=2.0), "epsilon must be within 0 and 1, got 2.0"),
        (lambda: Reinforce(rate=-1.0), "rate must be above 0"),
        (lambda: Rhythm(horizon=0), "horizon must be at least 1, got 0"),
        (lambda: LearnedReward(learns=False, explores=False), "learns or explores must be on"),
        (lambda: LearnedReward(clip=0.0), "clip must be above 0"),
        (lambda: LearnedReward(bonus_most=0.0), "bonus_most must be above 0"),
    ],
)
def test_bad_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
