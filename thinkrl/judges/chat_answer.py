"""What an OpenAI-compatible server sent, read strictly: an answer, or the reason why it is none."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from thinkrl.judges.judgement import Reply

_PASSING = frozenset({408, 409, 425, 429})
_SHOWN = 200


class Broken(Exception):
    """No answer this time. wait: seconds that the server asks to wait; None where it does not say."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Unusable(Exception):
    """No answer to this call, however often it is asked."""


def read_answer(url: str, data: bytes, options: Sequence[str], attempts: int) -> Reply:
    """The first choice's text, or the log-probabilities of the options.

    Raises Broken where the body is no answer, Unusable where the server withheld one.
    """
    try:
        body: Any = json.loads(data)
    except ValueError:
        raise Broken(f"{url} answered with what is not JSON: {_shown(data)}") from None
    try:
        choices = body["choices"]
        choice = next((one for one in choices if one.get("index", 0) == 0), choices[0])
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, TypeError, IndexError, AttributeError):
        raise Broken(f"{url} answered without choices[0].message.content: {_shown(data)}") from None
    if reason == "content_filter":
        raise Unusable(f"{url} withheld the answer (content_filter)")
    if options:
        return Reply(text or "", _options(url, choice, options), attempts=attempts)
    if not isinstance(text, str):
        raise Broken(f"{url} answered without a text: {_shown(data)}")
    return Reply(text, cut=reason == "length", attempts=attempts)


def _options(url: str, choice: Any, options: Sequence[str]) -> dict[str, float]:
    """Log-probability that the answer begins with each option, of those among the most likely first tokens.

    A token counts for the option that it writes but for white space; tokens of one option are added up.
    """
    try:
        first = choice["logprobs"]["content"][0]
        pairs = {str(one["token"]): float(one["logprob"]) for one in (first, *first["top_logprobs"])}
    except (KeyError, TypeError, IndexError, ValueError):
        raise Unusable(f"{url} gives no log-probabilities of the first token, which options need") from None
    chances: dict[str, float] = {}
    for token, logprob in pairs.items():
        if token.strip() in options:
            chances[token.strip()] = chances.get(token.strip(), 0.0) + math.exp(min(logprob, 0.0))
    return {option: math.log(chances[option]) for option in options if chances.get(option, 0.0) > 0.0}


def read_failure(url: str, status: int, retry_after: str | None, data: bytes) -> Broken | Unusable:
    """What a status other than success means for a call."""
    message = f"{url} answered with status {status}: {_shown(data)}"
    if status in _PASSING or status >= 500:
        return Broken(message, _seconds(retry_after))
    return Unusable(message)


def _seconds(retry_after: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        seconds = (aware - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _shown(data: bytes) -> str:
    return repr(data[:_SHOWN].decode("utf-8", errors="replace"))
