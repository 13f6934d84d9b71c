"""Demonstrations played through the tools of an environment: the traces of a cold start."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from thinkrl.data.demonstrations import Demonstration
from thinkrl.data.source import DataError
from thinkrl.data.traces import Trace
from thinkrl.environments.calling import Asked, read_turn, replies, spoken_ids
from thinkrl.environments.decoding import Decoder
from thinkrl.environments.tool_use import ToolUse
from thinkrl.environments.tools import ToolReply
from thinkrl.rollouts.calls import CallOutcome, CallRecord
from thinkrl.rollouts.spans import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Played:
    """A demonstration with what the tools said to it, which is given. calls: what became of each call."""

    trace: Trace
    calls: tuple[CallRecord, ...]


def play(
    demonstrations: Sequence[Demonstration], environment: ToolUse, tokenizer: "PreTrainedTokenizerBase"
) -> list[Played]:
    """Asks the tools what the turns call for, all calls of all demonstrations at once.

    The tokens of a trace are those that a policy which writes these turns leaves in `environment`. Raises DataError
    naming prompt and turn where a turn does not end with a call of a tool and another follows it, or where a tool says
    something else than the demonstration expects.
    """
    asked = [[_asked(one, number, environment) for number in range(1, len(one.turns))] for one in demonstrations]
    said = iter(replies([call for calls in asked for call in calls], environment.tools))
    decoder = Decoder(tokenizer)
    played = []
    for one, calls in zip(demonstrations, asked, strict=True):
        answers = [next(said) for _ in calls]
        pairs = zip(calls, answers, strict=True)
        records = [replace(call, reply=answer).record(n) for n, (call, answer) in enumerate(pairs, 1)]
        if environment.syntax.calls(one.turns[-1]):
            last = read_turn(one.turns[-1], environment.tools, environment.answer_tool, environment.syntax)
            records.append(last.record(len(one.turns), CallOutcome.UNANSWERED if last.reply is None else None))
        played.append(Played(_trace(one, answers, environment, tokenizer, decoder), tuple(records)))
    return played


def _asked(one: Demonstration, number: int, environment: ToolUse) -> Asked:
    """The call of turn `number` (from 1), behind which another turn stands."""
    turn, syntax = one.turns[number - 1], environment.syntax
    asked = read_turn(turn, environment.tools, environment.answer_tool, syntax)
    final = asked.reply is not None and asked.reply.outcome is CallOutcome.FINAL
    if final or turn.find(syntax.call_end) + len(syntax.call_end) != len(turn):
        raise DataError(f"{_place(one, number)} must end with a call of a tool, as another turn follows it")
    return asked


def _trace(
    one: Demonstration,
    said: Sequence[ToolReply],
    environment: ToolUse,
    tokenizer: "PreTrainedTokenizerBase",
    decoder: Decoder,
) -> Trace:
    text, given = one.turns[0], list[Span]()
    wanted = one.expected or (None,) * len(said)
    for number, (reply, expected, turn) in enumerate(zip(said, wanted, one.turns[1:], strict=True), start=1):
        if expected is not None and reply.text != expected:
            raise DataError(f"{_place(one, number)}: the tool should say {expected!r}, and says {reply.text[:200]!r}")
        for ids in spoken_ids(reply.text, environment.syntax, tokenizer, environment.max_tool_tokens):
            spoken = decoder.decode(ids.tolist())
            given.append((len(text), len(text) + len(spoken)))
            text += spoken
        text += turn
    return Trace(one.prompt, text, tuple(given))


def _place(one: Demonstration, number: int) -> str:
    return f"the demonstration for prompt {one.prompt.prompt_id}, turn {number}"
