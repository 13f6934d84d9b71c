"""What became of a response's calls of tools: counted, and each with the turn in which it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CallOutcome(StrEnum):
    """What became of a call."""

    DONE = "done"
    """A tool answered it."""
    FAILED = "failed"
    """What was asked for ended with an error of its own, such as an exception; the answer says it."""
    STOPPED = "stopped"
    """A limit on time, memory, output or another ended it; the answer says which."""
    UNREADABLE = "unreadable"
    """It is not JSON, or not of a call's form."""
    REFUSED = "refused"
    """There is no such tool, or it cannot use these arguments."""
    UNANSWERED = "unanswered"
    """No turn, or no room, was left for the answer."""
    FINAL = "final"
    """It gave the response's answer, and ended it."""


@dataclass(frozen=True)
class CallRecord:
    """A call of one response.

    turn: the policy's turn that it ends, from 1. tool: the name that it gives, empty where it cannot be read.
    reason: what is wrong with it, or the limit; empty where there is nothing to say.
    """

    turn: int
    tool: str
    outcome: CallOutcome
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"turn": self.turn, "tool": self.tool, "outcome": self.outcome.value, "reason": self.reason}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "CallRecord":
        """Reads what `as_json` made."""
        return cls(value["turn"], value["tool"], CallOutcome(value["outcome"]), value["reason"])


def call_metrics(calls: Sequence[Sequence[CallRecord]]) -> dict[str, float]:
    """What a batch of n responses asked of tools, one sequence of calls a response; nothing where n is 0.

    calls: calls of tools a response, those that give an answer aside. called: the share of responses with any.
    success: the share of calls that a tool answered without error, NaN where there are none. answered: the share of
    responses that gave their answer by a call. The rest are numbers of calls, by what became of them.
    """
    if not calls:
        return {}
    asked = [[call for call in row if call.outcome is not CallOutcome.FINAL] for row in calls]
    outcomes = [call.outcome for row in asked for call in row]
    troubles = (outcome for outcome in CallOutcome if outcome not in (CallOutcome.DONE, CallOutcome.FINAL))
    return {
        "tools/calls": len(outcomes) / len(calls),
        "tools/called": sum(map(bool, asked)) / len(calls),
        "tools/success": outcomes.count(CallOutcome.DONE) / len(outcomes) if outcomes else float("nan"),
        "tools/answered": sum(any(c.outcome is CallOutcome.FINAL for c in row) for row in calls) / len(calls),
        **{f"tools/{outcome.value}": float(outcomes.count(outcome)) for outcome in troubles},
    }
