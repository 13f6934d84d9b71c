"""Prompts without a chat template, as base models read them: the turns' text, a line each, then the response."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.rollouts.prompt import Message
from thinkrl.rollouts.spans import Span, stretches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class PlainRenderer:
    """Messages to token ids without roles. A response is tokenized on its own, so no token joins it with its prompt."""

    tokenizer: "PreTrainedTokenizerBase"

    def prompt_ids(self, messages: Sequence[Message]) -> Ids:
        """Ids [p] of the turns, with a newline behind each, and of what the tokenizer puts before every text."""
        return self._encode("".join(f"{message.content}\n" for message in messages), special=True)

    def response_parts(self, text: str, given: Sequence[Span], end: bool) -> tuple[Ids, NDArray[np.bool_]]:
        """Ids [t] of a response, and which of them are `given`, [t]; `end` appends the end token, where there is one.

        Each stretch, given or not, is tokenized on its own.
        """
        rows = [
            (self._encode(text[first:last], special=False), is_given)
            for (first, last), is_given in stretches(len(text), given)
        ]
        if end and isinstance(self.tokenizer.eos_token_id, int):
            rows.append((np.asarray([self.tokenizer.eos_token_id], dtype=np.int32), False))
        mask = [np.full(len(ids), is_given, dtype=np.bool_) for ids, is_given in rows]
        return np.concatenate([ids for ids, _ in rows]), np.concatenate(mask)

    def _encode(self, text: str, special: bool) -> Ids:
        ids: Any = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return np.asarray(ids, dtype=np.int32)
