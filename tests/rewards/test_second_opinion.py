import math

import numpy as np
import pytest

from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.finished import Finished
from thinkrl.rewards.second_opinion import JUDGED_RIGHT, SecondOpinion
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts

CORRECT, WRONG, UNGRADABLE, TIMEOUT = Verdict.CORRECT, Verdict.WRONG, Verdict.UNGRADABLE, Verdict.TIMEOUT


def batch(*reasons: FinishReason) -> Rollouts:
    none, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
    made = [
        Response(str(row), "g", "", reason, none, np.zeros(0, np.uint8), floats, floats, none, none)
        for row, reason in enumerate(reasons)
    ]
    return Rollouts.from_responses([Group("g", Prompt("g", (Message("user", "?"),)), none)], made)


class Rule(RewardTerm):
    verdicts: tuple[Verdict, ...] = (CORRECT, CORRECT, WRONG, WRONG, WRONG, UNGRADABLE, TIMEOUT)

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        values = {CORRECT: 1.0, WRONG: -1.0, UNGRADABLE: math.nan, TIMEOUT: -1.0}
        return Scores(np.asarray([values[verdict] for verdict in self.verdicts]), self.verdicts)


def test_the_judge_turns_what_the_rule_does_not_find_right_and_nothing_else() -> None:
    said = np.asarray([0.0, math.nan, 1.0, 0.0, math.nan, 1.0, 1.0])
    found = SecondOpinion(Rule()).score(batch(*[FinishReason.STOP] * 7), RewardContext(signals={"judged_right": said}))
    assert found.values.tolist() == [1, 1, 1, -1, -1, 1, 1]
    assert found.verdicts == (CORRECT, CORRECT, CORRECT, WRONG, WRONG, CORRECT, CORRECT)
    assert [bool(note) for note in found.notes] == [False, False, True, False, False, True, True]
    assert SecondOpinion(Rule()).signals() == (JUDGED_RIGHT,)


def test_a_rule_must_give_verdicts() -> None:
    with pytest.raises(ValueError, match="rule must give a verdict"):
        SecondOpinion(Finished()).score(batch(FinishReason.STOP), RewardContext(signals={"judged_right": np.ones(1)}))


def test_finished_tells_ends_from_cuts() -> None:
    found = Finished().score(batch(FinishReason.STOP, FinishReason.LENGTH), RewardContext())
    assert found.values.tolist() == [1.0, 0.0]
    assert found.notes == ("", "cut off")
