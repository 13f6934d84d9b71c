"""Responses with everything that a run keeps of them, as the page shows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thinkrl.rollouts.store import Origin
from thinkrl.rollouts.tool_calls import ToolSyntax
from thinkrl.viewer.facts import Facts
from thinkrl.viewer.finding import Finder
from thinkrl.viewer.images import IMAGES, prompt_images
from thinkrl.viewer.run import RolloutFile
from thinkrl.viewer.tokens import Utf16, segments, token_colours, turn_ranges
from thinkrl.viewer.transcripts import Transcripts
from thinkrl.viewer.turns import timeline
from thinkrl.viewer.values import loaded, number, number_list

_SHOWN = {
    "stage", "step", "group_id", "response_id", "prompt_id", "source", "messages", "reference", "metadata",
    "prompt_ids", "text", "finish_reason", "verdict", "reward", "advantage", "images",
    "token_ids", "origins", "logprobs", "entropies", "versions", "char_ends", "tool_calls",
}  # fmt: skip
_PARTS = ("term/", "weight/", "contribution/", "notes/")
_LONGEST_LIST = 200


def responses_json(
    finder: Finder, transcripts: Transcripts, file: RolloutFile, rows: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of a rollout file, ascending. Raises IndexError for one that is not there, RunError for a torn file."""
    table = finder.table(file)
    facts = finder.facts(file)
    read = table.rows(rows, [name for name in table.names if name != "prompt_ids"])
    folder = finder.run.stage_folder(file.stage)
    found = []
    for row, values in read.items():
        made = {
            "stage": file.stage,
            "step": file.step,
            "row": row,
            **_about(values, facts, row, finder.run.path),
            **_text(values, facts, row, finder.run.tool_syntax(file.stage)),
            "judged": transcripts.about(folder, str(values.get("response_id") or "")),
            "other": _other(values, set(table.list_names)),
        }
        found.append(made)
    return found


def _about(values: Mapping[str, Any], facts: Facts, row: int, run: Path) -> dict[str, Any]:
    """The prompt, and what was made of the response."""
    metadata = loaded(values.get("metadata"))
    return {
        "response_id": str(values.get("response_id") or ""),
        "group_id": facts.group_ids[row],
        "prompt_id": facts.prompt_ids[row],
        "source": str(values.get("source") or ""),
        "messages": _messages(values.get("messages")),
        "images": prompt_images(values, metadata, run),
        "reference": loaded(values.get("reference")),
        "metadata": {k: v for k, v in metadata.items() if k not in IMAGES} if isinstance(metadata, dict) else metadata,
        "finish_reason": facts.finish_reasons[row],
        "verdict": facts.verdicts[row],
        "reward": number(facts.rewards[row]),
        "advantage": number(facts.advantages[row]),
        "marks": facts.marks_of(row),
        "parts": _parts(values),
        "group": _siblings(facts, row),
    }


def _text(values: Mapping[str, Any], facts: Facts, row: int, syntax: ToolSyntax) -> dict[str, Any]:
    """The response itself, with its parts, its tokens and their colours."""
    text = str(values.get("text") or "")
    turns, utf16 = turn_ranges(values, text), Utf16(text)
    ends, ids = values.get("char_ends"), values.get("token_ids")
    own = float(facts.advantages[row])
    advantages = np.abs(facts.advantages[facts.group_rows[facts.group_ids[row]]])
    largest = float(np.max(advantages, initial=0.0, where=np.isfinite(advantages)))
    return {
        "text": text,
        "segments": segments(text, turns, utf16),
        "token_ends": utf16(ends) if ends is not None else [],
        "token_ids": ids.tolist() if ids is not None else [],
        "given": _given(values),
        "colours": [colour.as_json() for colour in token_colours(values, own, largest)],
        "timeline": timeline(text, turns, syntax, loaded(values.get("tool_calls")), loaded(values.get("episode"))),
    }


def _messages(given: Any) -> list[dict[str, str]]:
    """The turns of a prompt; whatever else stands there, as one turn."""
    turns = loaded(given)
    if isinstance(turns, list) and all(isinstance(turn, Mapping) for turn in turns):
        return [{"role": str(turn.get("role", "")), "content": _content(turn.get("content"))} for turn in turns]
    return [] if turns is None else [{"role": "", "content": str(turns)}]


def _content(content: Any) -> str:
    return content if isinstance(content, str) else "" if content is None else str(content)


def _given(values: Mapping[str, Any]) -> list[int]:
    """Which tokens the policy did not sample, 1 or 0 a token; empty where all were sampled."""
    origins = values.get("origins")
    if origins is None or len(origins) == 0 or bool(np.all(origins == Origin.SAMPLED)):
        return []
    return [int(origin != Origin.SAMPLED) for origin in origins.tolist()]


def _parts(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The reward's terms: value, weight, what was added to the total, and the term's note."""
    names = [key.removeprefix("term/") for key in values if key.startswith("term/")]
    return [
        {
            "name": name,
            "value": number(values.get(f"term/{name}")),
            "weight": number(values.get(f"weight/{name}")),
            "contribution": number(values.get(f"contribution/{name}")),
            "note": str(values.get(f"notes/{name}") or ""),
        }
        for name in names
    ]


def _siblings(facts: Facts, row: int) -> list[dict[str, Any]]:
    """The responses of the row's group, itself among them."""
    return [
        {
            "row": other,
            "verdict": facts.verdicts[other],
            "reward": number(facts.rewards[other]),
            "advantage": number(facts.advantages[other]),
            "finish_reason": facts.finish_reasons[other],
        }
        for other in facts.group_rows[facts.group_ids[row]]
    ]


def _other(values: Mapping[str, Any], lists: set[str]) -> dict[str, Any]:
    """Columns that have no place of their own; lists by token are colours and not repeated here."""
    count = len(values["char_ends"]) if values.get("char_ends") is not None else -1
    found = {}
    for name, value in values.items():
        if name in _SHOWN or name.startswith(_PARTS) or value is None:
            continue
        if name in lists:
            if len(value) != count:
                found[name] = number_list(value[:_LONGEST_LIST])
        else:
            found[name] = loaded(value)
    return found
