"""How long prompts and responses are, in tokens, as far as can be told before a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinkrl.config.component import UserError
from thinkrl.data.chat import ChatRenderer
from thinkrl.models.shapes import local_folder
from thinkrl.rollouts.prompt import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_READ = 200
_CHARACTERS_A_TOKEN = 3.5
_TURN_TOKENS = 8
_UNKNOWN_PROMPT, _UNKNOWN_RESPONSE = 256, 256


@dataclass(frozen=True)
class Lengths:
    """Tokens of a text: mean, longest, and where the figures come from."""

    mean: float
    longest: int
    source: str


class TokenCounter:
    """Counts tokens with the model's own tokenizer when it is on this machine, else from characters."""

    def __init__(self, model: object) -> None:
        self._tokenizer = _tokenizer(model)
        self._renderer = None
        if self._tokenizer is not None and self._tokenizer.chat_template:
            self._renderer = ChatRenderer(self._tokenizer)

    def prompts(self, read: Callable[[], Sequence[Prompt]]) -> Lengths:
        """Lengths of the first prompts that `read` gives."""
        try:
            prompts = read()[:_READ]
        except UserError as error:
            return _unknown(_UNKNOWN_PROMPT, error)
        return self._lengths([self._prompt(prompt) for prompt in prompts])

    def texts(self, texts: Sequence[str]) -> Lengths:
        """Lengths of responses written as text, with the token that ends them."""
        return self._lengths([self._text(text) + 1 for text in texts[:_READ]])

    def _lengths(self, counts: Sequence[int]) -> Lengths:
        how = "tokenized" if self._tokenizer is not None else f"{_CHARACTERS_A_TOKEN} characters a token"
        source = f"the first {len(counts)}, {how}"
        return Lengths(sum(counts) / max(len(counts), 1), max(counts, default=0), source)

    def _prompt(self, prompt: Prompt) -> int:
        if self._renderer is not None:
            return len(self._renderer.prompt_ids(prompt.messages))
        return sum(self._text(message.content) + _TURN_TOKENS for message in prompt.messages)

    def _text(self, text: str) -> int:
        if self._tokenizer is not None:
            return len(self._tokenizer.encode(text, add_special_tokens=False))
        return round(len(text) / _CHARACTERS_A_TOKEN)


def unknown_response(reason: str) -> Lengths:
    """Lengths of responses that an earlier stage is to make, or that cannot be read."""
    return Lengths(_UNKNOWN_RESPONSE, _UNKNOWN_RESPONSE, f"assumed: {reason}")


def _unknown(tokens: int, error: Exception) -> Lengths:
    return Lengths(tokens, tokens, f"assumed: {str(error).splitlines()[0][:120]}")


def _tokenizer(model: object) -> "PreTrainedTokenizerBase | None":
    from thinkrl.models.tiny import TinyModel

    if isinstance(model, TinyModel):
        return model.load_tokenizer()
    folder = local_folder(model)
    if folder is None or not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return None
    from transformers import AutoTokenizer

    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return loaded
