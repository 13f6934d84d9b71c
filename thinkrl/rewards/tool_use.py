"""Rewards of responses that call tools: is the answer right, and is every turn well formed?"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from thinkrl.grading.called_answer import CalledAnswer
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.grader import Grader
from thinkrl.rewards.correctness import Correctness
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.rollouts.tool_calls import ToolCallError, ToolSyntax


@dataclass(frozen=True)
class AnswerOutcome(RewardTerm):
    """`correct`, `wrong`, or `missing` where a response gives no answer at all; verdicts are those of Correctness."""

    reads_tokens: ClassVar[bool] = False

    grader: Grader
    """Compares an answer with the reference."""
    extractor: AnswerExtractor = field(default_factory=CalledAnswer)
    """Finds the answer in the response."""
    correct: float = 1.0
    """Value of a correct answer."""
    wrong: float = -1.0
    """Value of a wrong answer, or of one whose checking was stopped."""
    missing: float = 0.0
    """Value where there is no answer to grade."""

    def __post_init__(self) -> None:
        if not self.correct > max(self.wrong, self.missing):
            raise ValueError(f"correct must be above wrong and missing, got {self.correct}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response; NaN where the reference cannot be graded against."""
        graded = Correctness(self.grader, self.extractor, self.correct, self.wrong, self.wrong)
        scores = graded.score(rollouts, context)
        missing = np.asarray([self.extractor.extract(text) is None for text in rollouts.texts], dtype=np.bool_)
        values = np.where(missing & ~np.isnan(scores.values), self.missing, scores.values)
        return Scores(values, scores.verdicts, scores.notes)


@dataclass(frozen=True)
class ToolFormat(RewardTerm):
    r"""`clean` where every turn is `<think>...</think>` and one call that is well formed, of a known tool with its
    argument, and the last calls the answer tool with a `\boxed{}`; `malformed` where a turn is not; else `unfinished`.

    Format reward of TGRL (arXiv 2510.11184). A turn that a limit on tokens cut off is unfinished, and so is a
    response in which some thinking is empty.
    """

    reads_tokens: ClassVar[bool] = False

    arguments: Mapping[str, str] = field(default_factory=lambda: {"python": "code", "answer": "answer"})
    """The tools that may be called, and the one argument of each, a text."""
    answer: CalledAnswer = field(default_factory=CalledAnswer)
    """How an answer is given; its tool must be among those of `arguments`."""
    clean: float = 1.0
    """Value where all is in order."""
    unfinished: float = 0.0
    """Value where nothing is malformed, but there is no answer in a box, or some thinking is empty."""
    malformed: float = -1.0
    """Value where a turn is not in order."""

    def __post_init__(self) -> None:
        if self.answer.tool not in self.arguments:
            raise ValueError(f"arguments must name the answer tool {self.answer.tool!r}, got {list(self.arguments)}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value per response; the note says what is not in order, and in which turn."""
        values, notes = [], []
        for text, reason in zip(rollouts.texts, rollouts.finish_reasons, strict=True):
            value, note = self._judge(text, reason is FinishReason.LENGTH)
            values.append(value)
            notes.append(note)
        return Scores(np.asarray(values, dtype=np.float64), notes=tuple(notes))

    def _judge(self, text: str, cut: bool) -> tuple[float, str]:
        syntax = self.answer.syntax
        turns = syntax.policy_turns(self.answer.prefix + text)
        found = []
        for number, turn in enumerate(turns, start=1):
            if cut and number == len(turns) and not syntax.calls(turn):
                break
            fault, thought, name = self._read(turn)
            if fault:
                return self.malformed, f"turn {number}: {fault}"
            if not thought:
                found.append(f"turn {number}: no thinking")
            if name == self.answer.tool:
                break
        if self.answer.extract(text) is None:
            found.append("no answer in a box")
        return (self.unfinished if found else self.clean), "; ".join(found)

    def _read(self, turn: str) -> tuple[str, str, str]:
        """What is wrong with a turn, its thinking, and the tool that it calls."""
        syntax: ToolSyntax = self.answer.syntax
        start, end = re.escape(syntax.call_start), re.escape(syntax.call_end)
        parts = re.fullmatch(rf"\s*<think>(.*?)</think>\s*{start}.*{end}\s*", turn, re.DOTALL)
        if parts is None or turn.count("<think>") != 1 or turn.count("</think>") != 1:
            return "not a thinking and then a call", "", ""
        try:
            call = syntax.read_call(turn)
        except ToolCallError as error:
            return str(error), "", ""
        if call.name not in self.arguments:
            return f"no tool {call.name!r}", "", ""
        wanted = self.arguments[call.name]
        if set(call.arguments) != {wanted} or not isinstance(call.arguments[wanted], str):
            return f"arguments of {call.name} must be {{{wanted!r}: text}}", "", ""
        return "", parts[1].strip(), call.name
