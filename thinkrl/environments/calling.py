"""From a policy's turn to what it reads next: the call in it, the tool that answers, and the words as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinkrl.environments.tools import Tool, ToolReply
from thinkrl.environments.turns import plain_text
from thinkrl.rollouts.calls import CallOutcome, CallRecord
from thinkrl.rollouts.tool_calls import ToolCall, ToolCallError, ToolSyntax

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int32]

_SHOWN = 200
"""Characters of a name or a reason that are recorded."""


@dataclass(frozen=True)
class Asked:
    """A turn that ends with a call. call: None where it cannot be read. reply: None until a tool has answered; what is
    wrong with a call is its answer."""

    call: ToolCall | None
    reply: ToolReply | None = None

    def record(self, turn: int, outcome: CallOutcome | None = None) -> CallRecord:
        """What became of it; `outcome` in place of that of the reply."""
        reply = self.reply or ToolReply("")
        name = "" if self.call is None else self.call.name
        return CallRecord(turn, name[:_SHOWN], outcome or reply.outcome, "" if outcome else reply.reason[:_SHOWN])


def read_turn(text: str, tools: Mapping[str, Tool], answer_tool: str | None, syntax: ToolSyntax) -> Asked:
    """The call that ends a turn; a call that no tool can answer has its reply already."""
    try:
        call = syntax.read_call(text)
    except ToolCallError as error:
        return Asked(None, _wrong(CallOutcome.UNREADABLE, str(error)))
    if call.name == answer_tool:
        return Asked(call, ToolReply("", CallOutcome.FINAL))
    tool = tools.get(call.name)
    if tool is None:
        known = ", ".join([*tools, *([answer_tool] if answer_tool else [])])
        return Asked(call, _wrong(CallOutcome.REFUSED, f"there is no tool {call.name!r}; there are: {known}"))
    fault = tool.fault(call.arguments)
    return Asked(call, _wrong(CallOutcome.REFUSED, fault) if fault else None)


def _wrong(outcome: CallOutcome, reason: str) -> ToolReply:
    return ToolReply(f"error: {reason}", outcome, reason)


def replies(asked: Sequence[Asked], tools: Mapping[str, Tool]) -> list[ToolReply]:
    """What each reads, in order. Every tool gets all its calls at once."""
    found = [one.reply for one in asked]
    for name, tool in tools.items():
        waiting = {
            place: one.call.arguments
            for place, one in enumerate(asked)
            if one.reply is None and one.call is not None and one.call.name == name
        }
        if waiting:
            for place, reply in zip(waiting, tool.answer_all(list(waiting.values())), strict=True):
                found[place] = reply
    return [reply for reply in found if reply is not None]


def spoken_ids(text: str, syntax: ToolSyntax, tokenizer: "PreTrainedTokenizerBase", most: int) -> list[Ids]:
    """The ids of the opening tag, of what a tool says, at most `most` of these, and of the closing tag.

    Nothing it says can be one of the tokenizer's own tokens, or a tag: a program must not be able to speak for the
    policy or to end its turn.
    """
    plain = plain_text(tokenizer, text, [tag.strip() for tag in vars(syntax).values()])
    parts = [
        np.asarray(tokenizer(part, add_special_tokens=False)["input_ids"], dtype=np.int32)
        for part in (syntax.response_start, plain, syntax.response_end)
    ]
    parts[1] = parts[1][:most]
    return parts
