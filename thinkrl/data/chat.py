"""Chat rendering that never re-renders what was sampled: ids in, ids out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.config.component import UserError
from thinkrl.rollouts.prompt import Message
from thinkrl.rollouts.spans import Span, stretches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int32]

THINK = "<think>"
TEMPLATE_DATE = datetime(2024, 7, 26)
"""What a template that prints today's date prints here: a prompt must not change from day to day."""

_ASK = Message("user", "one")
_MARK = "thinkrl-mark"
_THOUGHT = f"{THINK}\nthought\n</think>\n\n{_MARK}"


class TemplateError(UserError):
    """A chat template that cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class ChatRenderer:
    """Messages to token ids through the tokenizer's own chat template.

    A response is always tokenized (or sampled) on its own and appended to the prompt's ids; the
    history is never rendered again. Some templates write `<think>` themselves when it is the
    policy's turn. That `opening` is not part of `prompt_ids`: it begins the response, as given
    tokens, so a response reads the same under every template.
    """

    tokenizer: "PreTrainedTokenizerBase"

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise TemplateError("the tokenizer has no chat template: set one in the model's configuration")

    def prompt_ids(self, messages: Sequence[Message]) -> Ids:
        """Ids [p] up to the policy's turn, its header included and `opening` excluded.

        Raises TemplateError for a doubled beginning-of-sequence token.
        """
        text = self._render(messages, turn=True)
        ids = self._encode(text.removesuffix(self.opening) if self.opening else text)
        bos = self.tokenizer.bos_token_id
        if bos is not None and len(ids) > 1 and ids[0] == bos and ids[1] == bos:
            raise TemplateError(f"the rendered prompt begins with {self.tokenizer.bos_token!r} twice")
        return ids

    def response_ids(self, text: str, end: bool) -> Ids:
        """Ids [t] of a response written as text, for supervised targets; `end` appends the stop token.

        Where the template opens the thinking itself, the response begins with that opening.
        """
        return self.response_parts(text, (), end)[0]

    def response_parts(self, text: str, given: Sequence[Span], end: bool) -> tuple[Ids, NDArray[np.bool_]]:
        """Ids [t] as `response_ids`, of a response of which some stretches are `given`, and which ids are theirs, [t].

        Each stretch, given or not, is tokenized on its own: an environment appends the ids of what it gives to those
        that were sampled. Without given stretches the ids are those of the whole text. ValueError for bad ranges.
        """
        parts = [(text[first:last], is_given) for (first, last), is_given in stretches(len(text), given)]
        if self.opening and not text.startswith(self.opening):
            parts[0] = (self.opening + parts[0][0].removeprefix(THINK).lstrip("\n"), parts[0][1])
        rows = [(self._encode(part), is_given) for part, is_given in parts]
        if end:
            rows.append((np.asarray([self.end_id], dtype=np.int32), False))
        mask = np.concatenate([np.full(len(ids), is_given, dtype=np.bool_) for ids, is_given in rows])
        return np.concatenate([ids for ids, _ in rows]), mask

    def given_ids(self, prefix: str = "") -> Ids:
        """Ids [g] that stand at the start of every sampled response: the template's opening, then `prefix`."""
        return self._encode(self.opening + prefix.removeprefix(self.opening))

    def next_turn_ids(self, messages: Sequence[Message]) -> Ids:
        """Ids that go on after a response and its stop token: the new given `messages` and the policy's header.

        Only the new part is rendered, so templates that rewrite the history cannot touch it.
        """
        if not messages:
            raise ValueError("messages must not be empty")
        history = [_ASK, Message("assistant", _MARK)]
        text = self._render([*history, *messages], turn=True).removesuffix(self.opening).partition(_MARK)[2]
        return self._encode(text.lstrip(" ").removeprefix(self._end_text) if self._end_text else text)

    @cached_property
    def opening(self) -> str:
        r"""The thinking tag that the template itself opens in the policy's header, such as `<think>\n`, or empty."""
        header = self._header
        if not header.rstrip().endswith(THINK):
            return ""
        start = header.rindex(THINK)
        parts = np.concatenate([self._encode(header[:start]), self._encode(header[start:])])
        if not np.array_equal(parts, self._encode(header)):
            raise TemplateError(f"the tokenizer joins {THINK!r} with the end of the policy's header in one token")
        return header[start:]

    @cached_property
    def header_count(self) -> int:
        """How many ids at the end of `prompt_ids` are the policy's header."""
        return len(self._encode(self._header.removesuffix(self.opening)))

    @cached_property
    def end_id(self) -> int:
        """The token that the template writes after a finished response."""
        if self._end_text:
            return int(self._encode(self._end_text)[0])
        if self.tokenizer.eos_token_id is None:
            raise TemplateError("the template ends a response with no special token and the tokenizer has no EOS token")
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def prefix_fault(self) -> str:
        """Why a rendering of n turns is not an id-level prefix of n + 1 turns; empty when it is."""
        answered = [_ASK, Message("assistant", _THOUGHT)]
        asked = [*answered, Message("user", "two")]
        finished = [*asked, Message("assistant", _MARK)]
        stages = [self._render([_ASK], turn=True), self._render(answered), self._render(asked, turn=True)]
        stages.append(self._render(finished))
        for turns, (shorter, longer) in enumerate(pairwise(stages), start=1):
            ids, more = self._encode(shorter), self._encode(longer)
            if not np.array_equal(ids, more[: len(ids)]):
                reason = "rewrites earlier turns" if "thought" in longer else "drops the thinking of earlier turns"
                return f"the chat template {reason}: {turns} turns rendered are no prefix of {turns + 1}"
        return ""

    def require_prefix(self) -> None:
        """Raises TemplateError unless a longer conversation's ids begin with the shorter one's."""
        if self.prefix_fault:
            raise TemplateError(f"{self.prefix_fault}; append new turns with next_turn_ids instead")

    @cached_property
    def template_fingerprint(self) -> str:
        """16 hex digits over the template and what it inserts; the same for models that share a template."""
        return _digest([self.tokenizer.chat_template, self.opening, self._header, self._end_text])

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over template and tokenizer, for cache keys: equal means equal ids for every text."""
        tokenizer = self.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        # Padding and truncation are switches that calls flip; they do not change ids here.
        rules = json.loads(backend.to_str()) if backend is not None else {}
        rules = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
        special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        vocabulary = sorted(tokenizer.get_vocab().items())
        return _digest([self.template_fingerprint, type(tokenizer).__name__, rules, special, vocabulary])

    @cached_property
    def _header(self) -> str:
        with_turn, without = self._render([_ASK], turn=True), self._render([_ASK])
        if not with_turn.startswith(without):
            raise TemplateError("the chat template rewrites the prompt when it adds the policy's header")
        return with_turn[len(without) :]

    @cached_property
    def _end_text(self) -> str:
        """The special token right after a finished response, as text; empty when there is none."""
        after = self._render([_ASK, Message("assistant", _MARK)]).partition(_MARK)[2].lstrip(" ")
        special = [token for token in self.tokenizer.all_special_tokens if after.startswith(token)]
        return max(special, key=len, default="")

    def _render(self, messages: Sequence[Message], turn: bool = False) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: Any = self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=turn,
                date_string=TEMPLATE_DATE.strftime("%d %b %Y"),
                strftime_now=TEMPLATE_DATE.strftime,
            )
        except Exception as error:
            roles = ", ".join(message.role for message in messages)
            raise TemplateError(f"the chat template refuses turns of roles ({roles}): {error}") from error
        return str(text)

    def _encode(self, text: str) -> Ids:
        # The template writes its own special tokens; adding them again would double them.
        ids: Any = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return np.asarray(ids, dtype=np.int32)


def _digest(parts: Sequence[Any]) -> str:
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
