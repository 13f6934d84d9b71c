"""Right responses rewritten into wrong ones: a slip that is carried on, or a new solution that a model writes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from thinkrl.companions.companion import CompanionStart
from thinkrl.companions.judge import prompt_fields
from thinkrl.data.templates import PromptTemplate
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.judges.asking import Asking
from thinkrl.judges.backend import Backend, Surroundings
from thinkrl.judges.judgement import Call
from thinkrl.judges.scorers import RESPONSE, call_key
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.spans import read_response
from thinkrl.rollouts.streams import generator
from thinkrl.sampling.sampler import SamplingSpec

_WHOLE = re.compile(r"[-+]?\d+")


@dataclass(frozen=True)
class Original:
    """A right response. original_id: unique in a run; it keys what is drawn."""

    original_id: str
    prompt: Prompt
    response: str


class OpenRewriting(Protocol):
    """Ready to rewrite."""

    def rewrite(self, originals: Sequence[Original], attempt: int) -> list[str | None]:
        """A text for each that is meant to be wrong, in order; None where there is none. Whoever asks checks it, and
        asks again with the next `attempt`, from 1, where it is not wrong."""
        ...


class Rewriting(Protocol):
    """A frozen dataclass: how wrong responses are made of right ones."""

    def check(self) -> None:
        """Raises a UserError, before anything loads, when what it needs is not there."""
        ...

    def open(self, start: CompanionStart) -> OpenRewriting:
        """Loads or connects."""
        ...


@dataclass(frozen=True)
class CarriedSlip:
    """One result of the working is off by 1 to `most_off`, up or down, and so is all that follows from it; or the
    answer alone is, which is as likely as each of the steps.

    Read are lines of the thinking that end with `left operator right = result`; a line that says the one before it
    again stays equal to it. Style and length are the response's own, and only arithmetic tells the two apart. A
    response whose answer is no whole number is not rewritten.
    """

    extractor: AnswerExtractor = field(default_factory=AnswerExtractor)
    """Finds the answer."""
    line: str = r"(-?\d+)[ ]?([-+])[ ]?(\d+)[ ]?=[ ]?(-?\d+)$"
    """Pattern of a step at the end of its line: left, operator, right, result."""
    most_off: int = 9
    """Largest difference."""

    def __post_init__(self) -> None:
        if self.most_off < 1:
            raise ValueError(f"most_off must be at least 1, got {self.most_off}")
        if re.compile(self.line).groups != 4:
            raise ValueError(f"line must have four groups: left, operator, right, result, got {self.line!r}")

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, start: CompanionStart) -> OpenRewriting:
        """Draws with the run's seed."""
        return OpenCarriedSlip(self, start.seed)


class OpenCarriedSlip:
    """A slip at a place that is drawn."""

    def __init__(self, config: CarriedSlip, seed: int) -> None:
        self._config = config
        self._seed = seed

    def rewrite(self, originals: Sequence[Original], attempt: int) -> list[str | None]:
        """The texts, in order."""
        return [self._rewritten(one, attempt) for one in originals]

    def _rewritten(self, original: Original, attempt: int) -> str | None:
        text, config = original.response, self._config
        answer = config.extractor.extract(text)
        place = -1 if answer is None or not _WHOLE.fullmatch(answer) else text.rfind(answer)
        if answer is None or place < 0:
            return None
        stream = generator("carried slip", self._seed, original.original_id, attempt)
        think = read_response(text).think or (0, 0)
        lines = text[slice(*think)].split("\n")
        steps = [re.search(config.line, line) for line in lines]
        told = _numbered(steps)
        slip = int(stream.integers(0, max(told, default=-1) + 2))  # the answer alone comes after the last step
        off = int(stream.integers(1, config.most_off + 1)) * (1 if stream.random() < 0.5 else -1)
        moved = [
            line if step is None else _moved(line, step, off * (number > slip), off * (number >= slip))
            for line, step, number in zip(lines, steps, told, strict=True)
        ]
        behind = text[think[1] : place] + str(int(answer) + off) + text[place + len(answer) :]
        return text[: think[0]] + "\n".join(moved) + behind if place >= think[1] else None


def _numbered(steps: Sequence[re.Match[str] | None]) -> list[int]:
    """The number of each line's step, from 0; a repeated step keeps its number, -1 before the first."""
    numbers, last, number = [], "", -1
    for step in steps:
        if step is not None and step[0] != last:
            last, number = step[0], number + 1
        numbers.append(number)
    return numbers


def _moved(line: str, step: re.Match[str], left: int, result: int) -> str:
    """The line with its left side and its result moved by so much."""
    return (
        line[: step.start(1)]
        + str(int(step[1]) + left)
        + line[step.end(1) : step.start(4)]
        + str(int(step[4]) + result)
        + line[step.end(4) :]
    )


_WRITING = SamplingSpec(temperature=0.7, max_new_tokens=1024)


@dataclass(frozen=True, kw_only=True)
class AssistantRewriting:
    """A model is shown the problem and the right response and writes a solution that looks as good and ends wrong
    (Cooper, arXiv 2508.05613). No answer, or one that was cut off, is no rewriting."""

    prompt: PromptTemplate
    """What it is asked: {question}, {response}, and {reference} if it is to know that."""
    backend: Backend
    """Where the model runs."""
    sampling: SamplingSpec = _WRITING
    """How it writes."""
    transcript: bool = True
    """Whether every call and reply is written to a transcript in the stage's folder."""

    def check(self) -> None:
        """Raises a UserError when the prompt does not fit, or the model cannot be had."""
        self.prompt.check(("question", "conversation", "reference", RESPONSE), ("question", RESPONSE))
        self.backend.check(self.sampling)

    def open(self, start: CompanionStart) -> OpenRewriting:
        """Loads the model or connects to it."""
        surroundings = Surroundings(start.model, start.weights, start.folder, start.seed, start.closing)
        asking = Asking(self.backend, self.sampling, surroundings, "rewriting", transcript=self.transcript)
        return OpenAssistantRewriting(self.prompt.read(), asking, start.seed)


class OpenAssistantRewriting:
    """An assistant at work; its answers lie in the stage's folder, so that a run that goes on has them."""

    def __init__(self, prompt: PromptTemplate, asking: Asking, seed: int) -> None:
        self._prompt = prompt
        self._asking = asking
        self._seed = seed

    def rewrite(self, originals: Sequence[Original], attempt: int) -> list[str | None]:
        """The texts, in order. Raises UserError for what would fail every call."""
        calls = []
        for one in originals:
            name = f"{one.original_id}#{attempt}"
            fields = {**prompt_fields(one.prompt), RESPONSE: one.response}
            calls.append(Call(name, self._prompt.messages(fields), key=call_key(self._seed, name)))
        return [
            None if reply.fault or reply.cut or not reply.text.strip() else reply.text.strip()
            for reply in self._asking.ask(calls)
        ]
