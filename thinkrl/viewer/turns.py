"""A response as a timeline: what the policy wrote, what it called, what it was told, and how its score went."""

from collections.abc import Mapping, Sequence
from typing import Any

from thinkrl.rollouts.tool_calls import ToolCallError, ToolSyntax
from thinkrl.viewer.values import number, plain

LONGEST = 20_000
"""Characters of one entry that are shown in the timeline; the response itself has all of them."""


def timeline(
    text: str,
    turns: Sequence[tuple[int, int, bool]],
    syntax: ToolSyntax,
    calls: Any = None,
    episode: Any = None,
) -> list[dict[str, Any]]:
    """The turns of a response in order; empty where the policy wrote it in one go and called nothing.

    turns: characters from, to, and whether the policy sampled them. calls, episode: what the file says of them, as JSON
    values (see `rollouts.calls` and `rollouts.episodes`); whatever has another form is left out.
    """
    if len(turns) < 2 and syntax.call_start not in text:
        return []
    found, own = [], 0
    for begin, end, sampled in turns or [(0, len(text), True)]:
        turn = _turn(text[begin:end], sampled, syntax)
        if sampled:
            own += 1
            turn |= _outcomes(calls, own) | _scores(episode, own)
        if turn["text"] or turn.get("call") or turn.get("outcomes"):
            found.append(turn)
    return found


def _turn(text: str, sampled: bool, syntax: ToolSyntax) -> dict[str, Any]:
    if not sampled:
        said = text.strip()
        observed = syntax.response_start.strip() in text
        for mark in (syntax.response_start.strip(), syntax.response_end.strip()):
            said = said.removeprefix(mark).removesuffix(mark).strip()
        return {"who": "tool" if observed else "given", **_cut(said)}
    if syntax.call_start not in text:
        return {"who": "policy", **_cut(text.strip())}
    before, _, rest = text.partition(syntax.call_start)
    try:
        call = syntax.read_call(text)
    except ToolCallError as error:
        broken = {"problem": str(error), "raw": (syntax.call_start + rest)[:LONGEST]}
        return {"who": "policy", **_cut(before.strip()), "call": broken}
    return {"who": "policy", **_cut(before.strip()), "call": {"name": call.name, "arguments": plain(call.arguments)}}


def _outcomes(calls: Any, turn: int) -> dict[str, Any]:
    """What became of the turn's calls, in words."""
    listed = calls if isinstance(calls, list) else []
    own = [call for call in listed if isinstance(call, Mapping) and call.get("turn") == turn]
    said = [": ".join(str(call[key]) for key in ("outcome", "reason") if call.get(key)) for call in own]
    return {"outcomes": said} if said else {}


def _scores(episode: Any, turn: int) -> dict[str, Any]:
    """The score before and after the turn."""
    scores = episode.get("scores") if isinstance(episode, Mapping) else None
    if not isinstance(scores, list) or turn >= len(scores) or episode.get("turn") is not None:
        return {}
    return {"scores": [number(scores[turn - 1]), number(scores[turn])]}


def _cut(text: str) -> dict[str, Any]:
    return {"text": text[:LONGEST], "left": max(0, len(text) - LONGEST)}
