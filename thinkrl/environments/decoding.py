"""Text of a response, and where in it each token ends."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"
"""What stands for bytes that make no whole character yet."""


class Decoder:
    """Ids to text, exactly as the ids say: special tokens stay visible, spaces are not tidied."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._memory: dict[tuple[int, ...], str] = {}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def char_ends(self, ids: Sequence[int], text: str, known: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
        """How many characters of `text` (the decoded `ids`) stand once each token is read, int32 [t].

        A token that ends inside a character adds none; the token that completes it adds it.
        known: the ends of the first tokens, [k], where another text that begins alike has been read; they are taken
            where the text is what those tokens and the others say one after the other.
        """
        if known is not None and 0 < len(known) < len(ids):
            begin = int(known[-1])
            head, tail = ids[: len(known)], ids[len(known) :]
            if self.decode(tail) == text[begin:] and self.decode(head) == text[:begin]:
                return np.concatenate([known, begin + self.char_ends(tail, text[begin:])]).astype(np.int32)
        ends = _window_ends(self._short, ids)
        if ends and (ends[-1] > len(text) or (ends[-1] < len(text) and not text.endswith(_INCOMPLETE))):
            # A tokenizer whose text is no concatenation of its parts: read every beginning in full.
            ends = _prefix_ends(self.decode, ids)
        if ends:
            ends[-1] = len(text)
        return np.asarray(ends, dtype=np.int32)

    def _short(self, ids: tuple[int, ...]) -> str:
        # The same few tokens stand beside each other again and again.
        if ids not in self._memory:
            self._memory[ids] = self.decode(ids)
        return self._memory[ids]


def _window_ends(decode: Callable[[tuple[int, ...]], str], ids: Sequence[int]) -> list[int]:
    """Linear time: only the tokens since the last whole character, after one token of context, are decoded."""
    ends: list[int] = []
    context, begin, characters = 0, 0, 0
    for position in range(len(ids)):
        before = decode(tuple(ids[context:begin])) if begin > context else ""
        now = decode(tuple(ids[context : position + 1]))
        if not now.endswith(_INCOMPLETE):
            characters += len(now) - len(before)
            context, begin = begin, position + 1
        ends.append(characters)
    return ends


def _prefix_ends(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[int]:
    ends: list[int] = []
    for position in range(1, len(ids) + 1):
        text = decode(ids[:position])
        end = len(text.rstrip(_INCOMPLETE)) if text.endswith(_INCOMPLETE) else len(text)
        ends.append(max(end, ends[-1] if ends else 0))
    return ends
