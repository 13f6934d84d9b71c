"""Are the steps inside the thinking true?"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import numpy as np

from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.numbers import read_number
from thinkrl.rewards.arithmetic import Step, numbers_in, read_steps
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.spans import read_response
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class TrueSteps(RewardTerm):
    """value = true and grounded steps / max(steps, min_steps), over the different statements inside the thinking.

    A step is grounded when it starts from numbers of the question, from results of earlier true steps, or
    from `free_numbers`; so `1 + 1 = 2` as filler counts against, not for. Steps that say the same count
    once. No steps give 0, and leaving steps out pays no more than getting them wrong.
    """

    reads_tokens: ClassVar[bool] = False

    min_steps: int = 1
    """Steps that a question needs; a thinking with fewer is scored as if the missing ones were false."""
    grounded: bool = True
    """Whether a step must start from numbers that are known."""
    free_numbers: tuple[float, ...] = ()
    """Numbers that are always known, such as 2, 60 or 100."""
    answer_from_last_step: bool = True
    """Whether the last step's result must be the answer; otherwise the value is 0."""
    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Finds the answer."""
    prefix: str = ""
    """What the prompt already wrote of the response, such as `<think>`."""

    def __post_init__(self) -> None:
        if self.min_steps < 1:
            raise ValueError(f"min_steps must be at least 1, got {self.min_steps}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """A value in [0, 1] per response; the note says how many steps were true, or why the value is 0."""
        judged = [self._judge(text, rollouts.prompt(row)) for row, text in enumerate(rollouts.texts)]
        return Scores(
            np.asarray([value for value, _ in judged], dtype=np.float64), notes=tuple(note for _, note in judged)
        )

    def _judge(self, text: str, prompt: Prompt) -> tuple[float, str]:
        think = read_response(text, self.prefix).think
        steps = _different(read_steps(text[slice(*think)])) if think else []
        if not steps:
            return 0.0, "no steps"
        good = self._good(steps, prompt)
        if self.answer_from_last_step:
            answer = read_number(self.extractor.extract(text))
            if answer is None or answer.worth != steps[-1].result:
                return 0.0, "the last step is not the answer"
        needed = max(len(steps), self.min_steps)
        return good / needed, f"{good} true and grounded steps of {needed}"

    def _good(self, steps: list[Step], prompt: Prompt) -> int:
        known = numbers_in("\n".join(message.content for message in prompt.messages if message.role == "user"))
        known |= {Fraction(str(number)) for number in self.free_numbers}
        good = 0
        for step in steps:
            # Signs belong to the expression: 3 - 5 = -2 makes both -2 and its magnitude known.
            if step.true and (not self.grounded or all(operand in known for operand in step.operands)):
                good += 1
                known |= {step.result, abs(step.result)}
        return good


def _different(steps: list[Step]) -> list[Step]:
    """Steps without repetition, each at its last place, so that the last step stays the last."""
    return list({step.text: step for step in reversed(steps)}.values())[::-1]
