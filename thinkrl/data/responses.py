"""Responses from a file, for scoring: JSON lines, one response each, grouped by prompt."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from thinkrl.config.nearest import suggestion
from thinkrl.data.source import DataError
from thinkrl.data.traces import read_given
from thinkrl.rollouts.prompt import Message, Prompt, Role
from thinkrl.rollouts.spans import Span
from thinkrl.rollouts.store import FinishReason

MAX_TOKENS = 10_000_000
"""Most tokens that one response may claim to have."""

_KEYS = (
    "prompt_id", "response", "response_id", "prompt", "reference",
    "finish_reason", "token_count", "tokens", "given", "signals", "metadata",
)  # fmt: skip
_SHARED = ("prompt", "reference", "metadata")


@dataclass(frozen=True)
class GivenResponse:
    """One line of the file.

    where: file and line, for messages. given_ids: prompt and response id as the file writes them.
    token_count: None where the file has none. signals: JSON values by name. tokens: the text in pieces, or None.
    given: ranges of the text that the policy did not write.
    """

    where: str
    prompt: Prompt
    response_id: str
    given_ids: tuple[str | int, str | int]
    text: str
    finish_reason: FinishReason
    token_count: int | None
    signals: Mapping[str, Any]
    tokens: tuple[str, ...] | None = None
    given: tuple[Span, ...] = ()


def read_responses(path: Path) -> list[GivenResponse]:
    """The responses of a JSON lines file, in its order; `-` reads standard input.

    What one line says of its prompt (prompt, reference, metadata) holds for all responses to it. Raises
    DataError naming file and line, and what to do.
    """
    name = "standard input" if str(path) == "-" else str(path)
    lines = list(_objects(_read_bytes(path), name))
    if not lines:
        raise DataError(f"{name} holds no response; write one JSON object a line, with prompt_id and response")
    for where, line in lines:
        _check_line(where, line)
    prompts = _prompts(lines)
    counts: dict[str, int] = {}
    taken: dict[str, str] = {}
    responses = []
    for where, line in lines:
        prompt = prompts[str(line["prompt_id"])]
        number = counts.get(prompt.prompt_id, 0)
        counts[prompt.prompt_id] = number + 1
        given = line.get("response_id")
        given = f"{prompt.prompt_id}/{number}" if given is None else given
        if str(given) in taken:
            raise DataError(
                f"{where}: response_id {given!r} is that of {taken[str(given)]}; each response needs its own"
            )
        taken[str(given)] = where
        responses.append(
            GivenResponse(
                where=where,
                prompt=prompt,
                response_id=str(given),
                given_ids=(line["prompt_id"], given),
                text=line["response"],
                finish_reason=FinishReason(line.get("finish_reason") or "stop"),
                token_count=line.get("token_count"),
                signals=line.get("signals") or {},
                tokens=_tokens(where, line),
                given=read_given(where, line["response"], line.get("given")),
            )
        )
    return responses


def _read_bytes(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file of JSON lines in it")
    if not path.exists():
        near = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = f"; {suggestion(path.name, near)}" if near else ""
        raise DataError(f"there is no file {path}{hint}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _objects(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Pairs of (file:line, object)."""
    # Bytes end lines at \n alone; text would also end them at the separators that JSON strings may hold.
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            value = json.loads(
                line.decode(), parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
            )
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: not valid JSON at column {error.colno}: {error.msg}; write each response as one object on"
                " one line, line breaks inside texts as \\n"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
            ) from error
        except RecursionError as error:
            raise DataError(f"{where}: nested too deeply") from error
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        if not isinstance(value, dict):
            raise DataError(f"{where}: must be an object with prompt_id and response, got a {json_type(value)}")
        yield where, value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; write null where there is no number")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is too large for a number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return found


def _check_line(where: str, line: Mapping[str, Any]) -> None:
    """Refuses keys that nothing reads, and values of the wrong kind."""
    for key in line:
        if key not in _KEYS:
            raise DataError(f"{where}: unknown key {key!r}; {suggestion(key, _KEYS)} Free values go into metadata.")
    for key in ("prompt_id", "response"):
        if key not in line:
            raise DataError(f"{where}: {key} is missing; a response needs prompt_id and response")
    _expect(where, line, "prompt_id", (str, int), "a text")
    _expect(where, line, "response", (str,), "a text")
    for key, kinds, words in (
        ("response_id", (str, int), "a text"),
        ("finish_reason", (str,), "stop or length"),
        ("token_count", (int,), "a whole number"),
        ("signals", (dict,), "an object"),
        ("metadata", (dict,), "an object"),
    ):
        if line.get(key) is not None:
            _expect(where, line, key, kinds, words)
    reason = line.get("finish_reason")
    if reason is not None and reason not in list(FinishReason):
        raise DataError(f"{where}: finish_reason must be stop or length, got {reason!r}")
    count = line.get("token_count")
    least = 1 if line["response"] else 0
    if count is not None and not least <= count <= MAX_TOKENS:
        raise DataError(f"{where}: token_count must be from {least} to {MAX_TOKENS:,}, got {count}")


def _tokens(where: str, line: Mapping[str, Any]) -> tuple[str, ...] | None:
    tokens = line.get("tokens")
    if tokens is None:
        return None
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError(f"{where}: tokens must be a list of texts, got {_shown(tokens)}")
    if "".join(tokens) != line["response"]:
        raise DataError(
            f"{where}: tokens must make up the response when they are joined; an empty text stands for a stop token"
        )
    if line.get("token_count") not in (None, len(tokens)):
        raise DataError(f"{where}: token_count is {line['token_count']}, but there are {len(tokens)} tokens")
    return tuple(tokens)


def _expect(where: str, line: Mapping[str, Any], key: str, kinds: tuple[type, ...], words: str) -> None:
    value = line[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise DataError(f"{where}: {key} must be {words}, got {_shown(value)}")


def _prompts(lines: list[tuple[str, dict[str, Any]]]) -> dict[str, Prompt]:
    """The prompts by id. Raises DataError where lines disagree about one."""
    said: dict[str, dict[str, tuple[str, Any]]] = {}
    for where, line in lines:
        known = said.setdefault(str(line["prompt_id"]), {})
        for key in _SHARED:
            if key not in line or (line[key] is None and key != "reference"):
                continue
            before, value = known.setdefault(key, (where, line[key]))
            if _canonical(value) != _canonical(line[key]):
                raise DataError(
                    f"{where}: the {key} of prompt_id {line['prompt_id']!r} is {_shown(line[key])}, but {before} has"
                    f" {_shown(value)}; responses to one prompt share it, so give another prompt another prompt_id"
                )
    prompts = {}
    for prompt_id, parts in said.items():
        where, prompt = parts.get("prompt", ("", None))
        prompts[prompt_id] = Prompt(
            prompt_id=prompt_id,
            messages=_messages(where, prompt),
            reference=parts.get("reference", ("", None))[1],
            metadata=parts.get("metadata", ("", {}))[1],
        )
    return prompts


def _messages(where: str, prompt: Any) -> tuple[Message, ...]:
    if prompt is None:
        return ()
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if not isinstance(prompt, list):
        raise DataError(f"{where}: prompt must be a text or a list of messages, got {_shown(prompt)}")
    messages = []
    for turn in prompt:
        if not (isinstance(turn, dict) and turn.keys() == {"role", "content"} and isinstance(turn["content"], str)):
            raise DataError(f"{where}: a message of the prompt must be an object with role and content, both texts")
        if turn["role"] not in get_args(Role):
            raise DataError(
                f"{where}: the role of a message must be {', '.join(get_args(Role))}, got {_shown(turn['role'])}"
            )
        messages.append(Message(turn["role"], turn["content"]))
    return tuple(messages)


def _canonical(value: Any) -> str:
    # As text: Python's own comparison takes 1, 1.0 and true for equal.
    return json.dumps(value, sort_keys=True)


def json_type(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:50]}... (a {json_type(value)})"
