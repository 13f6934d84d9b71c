"""The from-scratch model: reproducible weights, and a tokenizer that loses nothing."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.models.tiny import TinyModel, tiny_tokenizer

BYTES = tiny_tokenizer("byte", ("<think>", "</think>"))
CHARACTERS = tiny_tokenizer("character")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_bytes_decode_to_the_encoded_text(text):
    ids = BYTES.encode(text, add_special_tokens=False)
    assert BYTES.decode(ids, clean_up_tokenization_spaces=False) == text


@given(st.text(st.sampled_from([chr(c) for c in range(32, 127)] + ["\n"]), max_size=40))
def test_printable_ascii_is_one_token_per_character(text):
    ids = CHARACTERS.encode(text, add_special_tokens=False)
    special = any(mark in text for mark in ("<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"))
    assert special or len(ids) == len(text)
    assert CHARACTERS.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_byte_text_has_one_token_per_byte_and_one_per_mark():
    ids = BYTES.encode("<think>né</think><|im_end|>", add_special_tokens=False)
    assert len(ids) == 1 + len("né".encode()) + 1 + 1
    assert ids[-1] == BYTES.eos_token_id


def test_padding_is_not_the_end_token():
    for tokenizer in (BYTES, CHARACTERS):
        assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_template_renders_turns_that_are_prefixes_of_each_other():
    turns = [
        {"role": "system", "content": " keep  spaces "},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\n2\n</think>2"},
        {"role": "user", "content": "sure?"},
    ]
    rendered = [BYTES.apply_chat_template(turns[:n], tokenize=False) for n in range(1, 5)]
    assert rendered[1] == "<|im_start|>system\n keep  spaces <|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(rendered))
    asked = BYTES.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True)
    assert rendered[2].startswith(asked)


def test_default_size_is_one_to_three_million_parameters():
    module = TinyModel().load().module
    assert 1_000_000 <= sum(p.numel() for p in module.parameters()) <= 3_000_000


def test_weights_depend_on_the_seed_alone():
    source = TinyModel(hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1)
    torch.manual_seed(1)
    first = source.load(seed=3)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1)), "loading must leave the global random state alone"
    again, other = source.load(seed=3), source.load(seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True))
    assert not torch.equal(first.module.lm_head.weight, other.module.lm_head.weight)
    fixed = TinyModel(hidden=16, intermediate=16, layers=1, heads=2, kv_heads=1, init_seed=3).load(seed=9)
    assert torch.equal(first.module.lm_head.weight, fixed.module.lm_head.weight)


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"layers": 0}, "layers"), ({"hidden": 20, "heads": 4}, "hidden"), ({"heads": 6, "kv_heads": 4}, "kv_heads")],
)
def test_impossible_sizes_name_the_field(fields, named):
    with pytest.raises(ValueError, match=f"^{named} must"):
        TinyModel(**fields)
