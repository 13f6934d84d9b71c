"""When a sample ends."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.sampler import SamplingSpec

_SPARE_TOKENS = 8
"""Tokens decoded before the earliest one a stop string could start in, so that the decoder has context."""


class StopRule:
    """Ends a sample at a stop token, at a stop string, or at the length limit; a stop wins over the limit."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], spec: SamplingSpec) -> None:
        if any(not text for text in spec.stop):
            raise ValueError(f"stop must hold no empty string, got {spec.stop}")
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._strings = spec.stop
        self._limit = spec.max_new_tokens
        # A token in the middle of a stop string carries at least one of its bytes.
        self._window = max((len(text.encode("utf-8")) for text in spec.stop), default=0) + _SPARE_TOKENS

    def finished(self, token_ids: Sequence[int]) -> FinishReason | None:
        """Why the sample ends with the last of `token_ids`, or None if it goes on. To be asked after every token."""
        if token_ids[-1] in self._stop_ids or (self._strings and self._has_stop_string(token_ids)):
            return FinishReason.STOP
        return self.cut(len(token_ids))

    def cut(self, length: int) -> FinishReason | None:
        """Why a sample of this length ends whatever its tokens are: all that is asked after an inserted token."""
        return FinishReason.LENGTH if length >= self._limit else None

    def _has_stop_string(self, token_ids: Sequence[int]) -> bool:
        text = self._tokenizer.decode(list(token_ids[-self._window :]), clean_up_tokenization_spaces=False)
        return any(stop in text for stop in self._strings)
