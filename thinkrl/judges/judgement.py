"""What a judge is given, is asked, answers, and says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinkrl.rollouts.prompt import Message


@dataclass(frozen=True)
class Case:
    """One thing to judge. `fields` fill the places of the judge's prompt, such as question, response and reference.

    case_id: unique in a batch; it keys random choices and names the case in the transcript.
    """

    case_id: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Call:
    """One question to the model that judges.

    options: texts of which the model says how likely each is to begin its answer; empty where it writes an answer.
    key: seed of what the model draws, 0 or more and below 2**63; the same call with the same key is the same question.
    """

    call_id: str
    messages: tuple[Message, ...]
    options: tuple[str, ...] = ()
    key: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back: a text, the log-probabilities (nats) of the options that were found, or the reason for neither.

    fault: why there is no answer, in words; empty where there is one. cut: the text reached the token limit.
    attempts: how often it was asked for. cached: it was known already.
    """

    text: str = ""
    options: Mapping[str, float] = field(default_factory=dict)
    fault: str = ""
    cut: bool = False
    attempts: int = 1
    cached: bool = False


@dataclass(frozen=True)
class Judgement:
    """A score, or None with a note that says why there is none: a failure is never 0.

    parts: what the score is made of, such as the criteria of a rubric or the verdict in either order.
    """

    score: float | None
    note: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def gradable(self) -> bool:
        """Whether there is a score."""
        return self.score is not None


def ungradable(note: str) -> Judgement:
    """A judgement without a score."""
    return Judgement(None, note)


def transcript_row(call: Call, reply: Reply) -> dict[str, Any]:
    """A call and its reply as JSON values."""
    return {
        "call": call.call_id,
        "messages": [{"role": turn.role, "content": turn.content} for turn in call.messages],
        "options": list(call.options),
        "reply": reply.text,
        "option_logprobs": dict(reply.options),
        "fault": reply.fault,
        "cut": reply.cut,
        "attempts": reply.attempts,
        "cached": reply.cached,
    }


def mean_score(judgements: Sequence[Judgement]) -> float | None:
    """Mean of the scores there are; None without any."""
    scores = [one.score for one in judgements if one.score is not None]
    return sum(scores) / len(scores) if scores else None
