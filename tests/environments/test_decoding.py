import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from thinkrl.environments.decoding import Decoder
from thinkrl.models.tiny import tiny_tokenizer

BYTES = tiny_tokenizer("byte", ("<think>", "</think>"))
SAMPLES = ["naïve café 日本語 🎉🎉 12 + 35 = 47", "the cat sat on the mat and the hat", "  two  spaces ’s  don't ."] * 3


def byte_level_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SAMPLES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace_bpe() -> PreTrainedTokenizerFast:
    """Like SentencePiece: the text of a sequence loses its leading space, so it is no concatenation of tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(SAMPLES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


BPE, METASPACE = byte_level_bpe(), metaspace_bpe()


def whole_characters(tokenizer: PreTrainedTokenizerFast, ids: list[int], text: str) -> list[int]:
    """The definition, in quadratic time: the longest beginning of the text that the first tokens settle."""
    ends = []
    for count in range(1, len(ids) + 1):
        head = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False).rstrip("\ufffd")
        ends.append(len(head))
    ends[-1] = len(text)
    return ends


@pytest.mark.parametrize("tokenizer", [BYTES, BPE, METASPACE], ids=["bytes", "bpe", "metaspace"])
@pytest.mark.parametrize("text", SAMPLES[:3])
def test_known_texts(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoder = Decoder(tokenizer)
    decoded = decoder.decode(ids)
    assert decoder.char_ends(ids, decoded).tolist() == whole_characters(tokenizer, ids, decoded)


def test_bytes_of_one_character_count_when_it_is_whole() -> None:
    ids = BYTES("aé🎉")["input_ids"]
    assert Decoder(BYTES).char_ends(ids, "aé🎉").tolist() == [1, 1, 2, 2, 2, 2, 3]


def test_an_unfinished_character_ends_with_the_text() -> None:
    ids = BYTES("a🎉")["input_ids"][:-1]
    text = Decoder(BYTES).decode(ids)
    assert text == "a\ufffd"
    assert Decoder(BYTES).char_ends(ids, text).tolist() == [1, 1, 1, 2]


def test_special_tokens_and_spaces_stay_visible() -> None:
    ids = BYTES("<think> 1 , 2 .<|im_end|></think>")["input_ids"]
    assert Decoder(BYTES).decode(ids) == "<think> 1 , 2 .<|im_end|></think>"


def test_nothing_has_no_ends() -> None:
    ends = Decoder(BYTES).char_ends([], "")
    assert ends.shape == (0,)
    assert ends.dtype == np.int32


@pytest.mark.parametrize("tokenizer", [BYTES, BPE, METASPACE], ids=["bytes", "bpe", "metaspace"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_ids_give_ends_that_rise_to_the_whole_text(tokenizer: PreTrainedTokenizerFast, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), min_size=1, max_size=24))
    decoder = Decoder(tokenizer)
    text = decoder.decode(ids)
    ends = decoder.char_ends(ids, text)
    assert len(ends) == len(ids)
    assert np.all(np.diff(ends) >= 0)
    assert ends[0] >= 0
    assert ends[-1] == len(text)


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_valid_text_settles_as_its_bytes_do(text: str) -> None:
    ids = BYTES(text)["input_ids"]
    if len(ids) != len(text.encode()) or "\ufffd" in text:
        return
    expected = np.cumsum([1 if last else 0 for char in text for last in _last_byte(char)])
    assert Decoder(BYTES).char_ends(ids, text).tolist() == expected.tolist()


def _last_byte(char: str) -> list[bool]:
    size = len(char.encode())
    return [index == size - 1 for index in range(size)]
