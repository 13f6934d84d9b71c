"""A judge beside the policy: supplies its scores of the responses as a signal; it learns nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import CompanionStart
from thinkrl.judges.backend import Surroundings
from thinkrl.judges.judge import Judge, OpenJudge
from thinkrl.judges.judgement import Case, Judgement, mean_score
from thinkrl.judges.scorers import OPPONENT, RESPONSE
from thinkrl.learning.learner import LearnerState
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Rollouts

FIELDS = ("question", "conversation", "reference", RESPONSE)
"""Places that the prompt of a judge of responses may have."""


@dataclass(frozen=True, kw_only=True)
class JudgedResponses:
    """Scores of a judge, one a response; NaN where it gave none, which leaves the response out of the loss.

    The reward term `thinkrl.rewards.model_score.ModelScore` pays the signal. A judge that compares two responses
    (`scorers.Pairwise`) takes each against the reference, or against others of its group: its score is then the mean of
    its comparisons, and each comparison counts for both sides.
    """

    judge: Judge
    """Who judges."""
    signal: str = "judgement"
    """Name of the signal."""
    against: Literal["nothing", "reference", "group"] = "nothing"
    """What a judge of pairs sees beside a response: the prompt's reference, or the group's next responses."""
    opponents: int = 1
    """With `group`: how many of the next responses each is compared with; the last are followed by the first."""
    show: Literal["whole", "after_thinking"] = "whole"
    """What the judge sees of a response: all, or what follows `</think>`."""

    def __post_init__(self) -> None:
        if not self.signal:
            raise ValueError("signal must not be empty")
        if self.opponents < 1:
            raise ValueError(f"opponents must be at least 1, got {self.opponents}")

    def supplies(self) -> tuple[Signal, ...]:
        """The score, as a number."""
        return (Signal(self.signal, "score that a judge gives the response, null where it failed"),)

    def check(self) -> None:
        """Raises a UserError when the judge's prompt does not fit, or its model cannot be had."""
        self.judge.check(FIELDS if self.against == "nothing" else (*FIELDS, OPPONENT))

    def open(self, start: CompanionStart) -> "OpenJudgedResponses":
        """Opens the judge in the stage's folder."""
        surroundings = Surroundings(start.model, start.weights, start.folder, start.seed, start.closing)
        return OpenJudgedResponses(self, self.judge.open(surroundings, self.signal))


class OpenJudgedResponses:
    """A judge at work on responses; see `Companion` for the contract."""

    def __init__(self, config: JudgedResponses, judge: OpenJudge) -> None:
        self._config = config
        self._judge = judge
        self._metrics: dict[str, float] = {}

    def signals(self, rollouts: Rollouts) -> Mapping[str, Any]:
        """The scores, float64 [n]."""
        pairs = self._pairs(rollouts)
        judgements = self._judge.judge([self._case(rollouts, *sides) for sides in pairs])
        sides: list[list[Judgement]] = [[] for _ in range(len(rollouts))]
        for (row, other), one in zip(pairs, judgements, strict=True):
            sides[row].append(one)
            if other is not None:
                sides[other].append(Judgement(None if one.score is None else 1.0 - one.score, one.note))
        scores = [mean_score(found) for found in sides]
        known = [score for score in scores if score is not None]
        agreeing = [one.parts["agree"] for one in judgements if "agree" in one.parts]
        self._metrics = {
            "score": float(np.mean(known)) if known else math.nan,
            "ungradable": sum(score is None for score in scores) / max(1, len(scores)),
            **({"order_agreement": float(np.mean(agreeing))} if agreeing else {}),
        }
        return {self._config.signal: np.asarray([math.nan if score is None else score for score in scores])}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Learns nothing; gives what there is to say of the last batch's judgements."""
        return self._metrics

    def state(self) -> LearnerState:
        """Empty: its answers lie in the stage's folder."""
        return LearnerState({}, {})

    def load_state(self, state: LearnerState) -> None:
        """Nothing to restore."""

    def save(self, folder: Path) -> None:
        """Writes nothing."""

    def _pairs(self, rollouts: Rollouts) -> list[tuple[int, int | None]]:
        """What is judged: rows, each with the row it is compared with."""
        if self._config.against != "group":
            return [(row, None) for row in range(len(rollouts))]
        found: dict[tuple[int, int], None] = {}
        for rows in rollouts.rows_by_group().values():
            for place, row in enumerate(rows):
                for step in range(1, self._config.opponents + 1):
                    other = int(rows[(place + step) % len(rows)])
                    if other != int(row) and (other, int(row)) not in found:
                        found[int(row), other] = None
        return list(found)

    def _case(self, rollouts: Rollouts, row: int, other: int | None) -> Case:
        prompt = rollouts.prompt(row)
        fields = {**prompt_fields(prompt), RESPONSE: self._shown(rollouts.texts[row])}
        name = rollouts.response_ids[row]
        if other is not None:
            return Case(
                f"{name} : {rollouts.response_ids[other]}", {**fields, OPPONENT: self._shown(rollouts.texts[other])}
            )
        if self._config.against == "reference":
            fields[OPPONENT] = fields["reference"]
        return Case(name, fields)

    def _shown(self, text: str) -> str:
        return text.rpartition("</think>")[2].strip() if self._config.show == "after_thinking" else text


def prompt_fields(prompt: Prompt) -> dict[str, str]:
    """What a judge may see of a prompt: the last question, all turns, and the reference."""
    asked = next((turn.content for turn in reversed(prompt.messages) if turn.role == "user"), "")
    turns = "\n".join(f"{turn.role}: {turn.content}" for turn in prompt.messages)
    reference = "" if prompt.reference is None else str(prompt.reference)
    return {"question": asked, "conversation": turns, "reference": reference}
