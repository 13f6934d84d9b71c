"""How a response calls a tool, and how what the tool said stands in it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinkrl.rollouts.calls import call_metrics
from thinkrl.rollouts.spans import Span
from thinkrl.rollouts.store import Origin, Response, Rollouts


@dataclass(frozen=True)
class ToolCall:
    """A call that could be read: the tool's name, and its arguments as JSON values."""

    name: str
    arguments: Mapping[str, Any]


class ToolCallError(ValueError):
    """A call that cannot be read; the message is for the policy to read."""


@dataclass(frozen=True)
class ToolSyntax:
    """The tags around a call, which is JSON with `name` and `arguments`, and around what a tool says."""

    call_start: str = "<tool_call>"
    """Opens a call."""
    call_end: str = "</tool_call>"
    """Closes a call; a turn ends with it."""
    response_start: str = "\n<tool_response>\n"
    """Opens what a tool says."""
    response_end: str = "\n</tool_response>\n"
    """Closes what a tool says; the policy goes on after it."""

    def __post_init__(self) -> None:
        for name in ("call_start", "call_end", "response_start", "response_end"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty, got ''")
        if self.call_start == self.call_end:
            raise ValueError(f"call_end must differ from call_start, got {self.call_end!r}")

    def calls(self, turn: str) -> bool:
        """Whether a turn ends its call: a tool is then to answer."""
        return self.call_end in turn

    def policy_turns(self, text: str) -> list[str]:
        """What the policy wrote of a response, turn by turn: what a tool says follows the end of a call."""
        opening, closing = re.escape(self.response_start.strip()), re.escape(self.response_end.strip())
        return re.split(rf"(?<={re.escape(self.call_end)})\s*{opening}.*?{closing}\n?", text, flags=re.DOTALL)

    def read_call(self, turn: str) -> ToolCall:
        """The one call of a turn. Raises ToolCallError, with the reason, where it is none or not well formed."""
        blocks = re.findall(f"{re.escape(self.call_start)}(.*?){re.escape(self.call_end)}", turn, re.DOTALL)
        if turn.count(self.call_start) != 1 or turn.count(self.call_end) != 1 or len(blocks) != 1:
            raise ToolCallError(f"a turn must hold one {self.call_start} and one {self.call_end} after it")
        try:
            call = json.loads(blocks[0])
        except (ValueError, RecursionError) as error:
            raise ToolCallError(f"the call is not JSON: {error}") from error
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise ToolCallError('the call must be an object with "name" and "arguments"')
        arguments = call.get("arguments")
        if not isinstance(arguments, dict) or len(call) != 2:
            raise ToolCallError('the call must have "name" and "arguments", which is an object, and nothing else')
        return ToolCall(call["name"], arguments)


def turn_spans(response: Response) -> list[Span]:
    """The token ranges that the policy sampled without a break, in order: its turns."""
    sampled = [False, *(response.origins == Origin.SAMPLED).tolist(), False]
    edges = [place for place in range(len(sampled) - 1) if sampled[place] != sampled[place + 1]]
    return list(zip(edges[::2], edges[1::2], strict=True))


def tool_metrics(rollouts: Rollouts) -> dict[str, float]:
    """Turns a response, and `call_metrics`; nothing where there were no tools."""
    if not rollouts.calls:
        return {}
    turns = [len(turn_spans(response)) for response in rollouts]
    return {"tools/turns": sum(turns) / len(turns), **call_metrics(rollouts.calls)}
