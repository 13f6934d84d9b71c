"""Two digits in a row as one token of the character tokenizer."""

import pytest

from thinkrl.models.shapes import shape_of
from thinkrl.models.tiny import TinyModel, tiny_tokenizer

PAIRED = tiny_tokenizer("character", ("<think>", "12h"), paired_digits=True)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("37*48", ["37", "*", "48"]),
        ("1776", ["17", "76"]),
        ("00523", ["00", "52", "3"]),
        ("5+5", ["5", "+", "5"]),
        ("<think>12h12", ["<think>", "12h", "12"]),
        ("", []),
    ],
)
def test_pairs_are_taken_from_the_left_and_read_back(text: str, tokens: list[str]) -> None:
    ids = PAIRED(text, add_special_tokens=False)["input_ids"]
    assert PAIRED.convert_ids_to_tokens(ids) == tokens
    assert PAIRED.decode(ids, clean_up_tokenization_spaces=False) == text


def test_without_pairs_the_vocabulary_is_as_it_was() -> None:
    plain = tiny_tokenizer("character", ("<think>",))
    assert len(tiny_tokenizer("character", ("<think>",), paired_digits=True)) == len(plain) + 100
    assert plain("12", add_special_tokens=False)["input_ids"] == [plain.convert_tokens_to_ids(c) for c in "12"]
    assert all(plain.get_vocab()[token] == PAIRED.get_vocab()[token] - 1 for token in "0123abc")


def test_the_model_says_how_large_it_is_with_them() -> None:
    model = TinyModel(tokenizer="character", paired_digits=True)
    assert (
        shape_of(model).vocabulary
        == len(model.load_tokenizer())
        == shape_of(TinyModel(tokenizer="character")).vocabulary + 100
    )
    with pytest.raises(ValueError, match="paired_digits must be false with tokenizer byte, got true"):
        TinyModel(paired_digits=True)
