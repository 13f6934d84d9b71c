"""Labels by majority: a response is paid for the answer that most others give."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Rollouts


def majority(answers: Sequence[str]) -> str:
    """The string that stands most often; the one seen first of several; empty answers do not vote.

    "" where there is no vote.
    """
    votes = Counter(answer for answer in answers if answer)
    return max(votes, key=votes.__getitem__, default="")  # a Counter keeps the order in which answers came


@dataclass(frozen=True)
class VoteAgreement(RewardTerm):
    r"""r_i = 1 where the answer of response i is the label v, and there is one: [a_i = v and v != ""].

    v is the majority of the answers to the question's twin (`voters: twin`, Co-Reward, arXiv 2508.00410), so that an
    answer is paid only where two wordings lead to it; or of the response's own group (`own`, TTRL, arXiv 2504.16084).
    No reference is read for it. A group whose twin is not in the batch has no label, and no number.

    Logged: `voting_accuracy`, the share of groups whose own vote `judge` finds right, which is paid to nobody;
    `unlabelled`, the share without any answer; `answer_entropy` over all answers of the batch, in nats, near 0 when
    every question gets the same one; `without_twin`, groups that are left out.
    """

    reads_tokens: ClassVar[bool] = False

    voters: Literal["twin", "own"] = "twin"
    """Whose answers make the label."""
    extractor: AnswerExtractor = field(default_factory=lambda: AnswerExtractor(("last_box",)))
    """Finds the answers; they are compared as strings, exactly."""
    same: Grader | None = None
    """Which answers count as one in votes and agreement, such as 1/2 and 0.5; null compares strings."""
    judge: Grader | None = None
    """Compares votes with the references, for `voting_accuracy` alone; null does not."""
    pair_key: str = "pair_id"
    """Key of the prompts' metadata that a question and its twin share."""

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """0 or 1 per response, NaN without a twin; the note gives the label. Raises ValueError without pair ids."""
        answers = [self.extractor.extract(text) or "" for text in rollouts.texts]
        groups = rollouts.rows_by_group()
        labeller = {name: name for name in groups} if self.voters == "own" else self._twins(rollouts)
        if self.same is not None:
            answers = as_one(answers, self.same, [(*groups[a], *groups[b]) for a, b in labeller.items()])
        votes = {name: majority([answers[row] for row in rows]) for name, rows in groups.items()}
        values, notes = np.full(len(rollouts), math.nan), ["the question's twin is not there"] * len(rollouts)
        for name, by in labeller.items():
            for row in groups[name]:
                values[row] = float(answers[row] == votes[by] != "")
                notes[row] = _note(answers[row], votes[by])
        return Scores(values, notes=tuple(notes), metrics=self._metrics(rollouts, answers, votes, labeller))

    def _twins(self, rollouts: Rollouts) -> dict[str, str]:
        """The group of each group's twin, where it is there."""
        pairs: dict[str, list[str]] = {}
        for name, rows in rollouts.rows_by_group().items():
            prompt = rollouts.prompt(int(rows[0]))
            if (pair := prompt.metadata.get(self.pair_key)) is None:
                raise ValueError(
                    f"prompt {prompt.prompt_id!r} has no {self.pair_key!r} in its metadata,"
                    " which a question and its twin share"
                )
            pairs.setdefault(str(pair), []).append(name)
        for pair, names in pairs.items():
            if len(names) > 2:
                raise ValueError(f"{self.pair_key} {pair!r} must be that of 2 prompts, got {len(names)}")
        whole = [names for names in pairs.values() if len(names) == 2]
        return {one: other for a, b in whole for one, other in ((a, b), (b, a))}

    def _metrics(
        self, rollouts: Rollouts, answers: Sequence[str], votes: dict[str, str], labeller: dict[str, str]
    ) -> dict[str, float]:
        counts = np.asarray(list(Counter(answer for answer in answers if answer).values()), dtype=np.float64)
        shares = counts / max(counts.sum(), 1.0)
        found = {
            "answer_entropy": abs(float(-np.sum(shares * np.log(shares)))),
            "unlabelled": float(np.mean([not vote for vote in votes.values()])),
            "without_twin": float(len(votes) - len(labeller)),
        }
        if self.judge is not None:
            references = [rollouts.prompt(int(rows[0])).reference for rows in rollouts.rows_by_group().values()]
            grades = self.judge.grade_all([vote or None for vote in votes.values()], references)
            judged = [grade.verdict is Verdict.CORRECT for grade in grades if grade.verdict is not Verdict.UNGRADABLE]
            found["voting_accuracy"] = float(np.mean(judged)) if judged else math.nan
        return found


def as_one(answers: Sequence[str], same: Grader, voters: Sequence[Sequence[int]]) -> list[str]:
    """Answers, each as the first among the answers of its `voters` that `same` takes for equal."""
    found = list(answers)
    for rows in voters:
        forms: dict[str, str] = {}
        for answer in dict.fromkeys(found[row] for row in rows if found[row]):
            known = list(dict.fromkeys(forms.values()))
            grades = same.grade_all([answer] * len(known), known)
            equal = (form for form, grade in zip(known, grades, strict=True) if grade.verdict is Verdict.CORRECT)
            forms[answer] = next(equal, answer)
        for row in rows:
            found[row] = forms.get(found[row], "")
    return found


def _note(answer: str, label: str) -> str:
    said = f"label {label!r}" if label else "no label: nobody has an answer"
    return said if answer else f"no answer; {said}"
