from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from thinkrl.data.chat import ChatRenderer, TemplateError
from thinkrl.models.tiny import CHAT_TEMPLATE, tiny_tokenizer
from thinkrl.rollouts.prompt import Message, Role

ASK = (Message("user", "What is 12 + 35?"),)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

HEADER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TURN = "'<|im_start|>' + message['role'] + '\n' + CONTENT + '<|im_end|>\n'"
LOOP = "{% for message in messages %}{{ " + TURN + " }}{% endfor %}"
# Like R1-distill: every assistant turn loses its thinking, and the header opens a new one.
DROPS_ALL = LOOP.replace("CONTENT", "message['content'].split('</think>')[-1]") + HEADER.replace(
    "assistant\n", "assistant\n<think>\n"
)
# Like Qwen3: thinking is dropped from turns before the last question only.
DROPS_HISTORY = (
    "{% for message in messages %}{% set last = loop.last %}{{ "
    + TURN.replace("CONTENT", "(message['content'] if last else message['content'].split('</think>')[-1])")
    + " }}{% endfor %}"
    + HEADER
)
DATED = "{{ '<|im_start|>system\n' + strftime_now('%d %b %Y') + '<|im_end|>\n' }}" + CHAT_TEMPLATE
DATED_BY_DEFAULT = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }}" + CHAT_TEMPLATE
)


def tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    made = tiny_tokenizer("byte", TAGS)
    made.chat_template = template or CHAT_TEMPLATE
    return made


def text(renderer: ChatRenderer, ids: Any) -> str:
    return str(renderer.tokenizer.decode(ids))


CONTENT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
TURNS = st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4)


def conversation(pairs: list[tuple[str, str]]) -> list[Message]:
    roles: list[Role] = ["user", "assistant"]
    return [Message(role, content) for pair in pairs for role, content in zip(roles, pair, strict=True)]


def test_prompt_is_what_the_template_says() -> None:
    renderer = ChatRenderer(tokenizer())
    ids = renderer.prompt_ids(ASK)
    assert ids.dtype == np.int32
    assert text(renderer, ids) == "<|im_start|>user\nWhat is 12 + 35?<|im_end|>\n<|im_start|>assistant\n"
    assert renderer.header_count == 1 + len("assistant\n")
    assert text(renderer, ids[-renderer.header_count :]) == "<|im_start|>assistant\n"


@given(TURNS)
@settings(max_examples=40, deadline=None)
def test_appending_equals_rendering_under_a_prefix_preserving_template(pairs: list[tuple[str, str]]) -> None:
    renderer = ChatRenderer(tokenizer())
    turns = conversation(pairs)
    grown = renderer.prompt_ids(turns[:1])
    for position in range(1, len(turns), 2):
        grown = np.concatenate([grown, renderer.response_ids(turns[position].content, end=True)])
        if position + 1 < len(turns):
            grown = np.concatenate([grown, renderer.next_turn_ids(turns[position + 1 : position + 2])])
            assert np.array_equal(grown, renderer.prompt_ids(turns[: position + 2]))
    assert renderer.prefix_fault == ""
    renderer.require_prefix()


@pytest.mark.parametrize("template", [DROPS_ALL, DROPS_HISTORY])
def test_templates_that_drop_thinking_are_refused_with_the_reason(template: str) -> None:
    renderer = ChatRenderer(tokenizer(template))
    with pytest.raises(TemplateError, match=r"drops the thinking of earlier turns: . turns rendered are no prefix of"):
        renderer.require_prefix()


def test_templates_that_rewrite_turns_are_refused() -> None:
    rewriting = "{{ messages | length }}" + CHAT_TEMPLATE
    assert "rewrites earlier turns: 1 turns" in ChatRenderer(tokenizer(rewriting)).prefix_fault


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, DROPS_ALL, DROPS_HISTORY])
def test_a_new_turn_is_rendered_alone(template: str) -> None:
    renderer = ChatRenderer(tokenizer(template))
    sampled = renderer.response_ids("<think>\n12 + 35 = 47\n</think>47", end=True)
    ids = np.concatenate(
        [renderer.prompt_ids(ASK), sampled, renderer.next_turn_ids([Message("tool", "ok"), Message("user", "Sure?")])]
    )
    assert text(renderer, ids) == (
        "<|im_start|>user\nWhat is 12 + 35?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n12 + 35 = 47\n</think>47<|im_end|>\n"
        "<|im_start|>tool\nok<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_opening_written_by_the_template_belongs_to_the_response() -> None:
    plain, opens = ChatRenderer(tokenizer()), ChatRenderer(tokenizer(DROPS_ALL))
    assert (plain.opening, opens.opening) == ("", "<think>\n")
    assert np.array_equal(plain.prompt_ids(ASK), opens.prompt_ids(ASK))
    whole = opens.tokenizer.apply_chat_template(
        [{"role": "user", "content": ASK[0].content}], add_generation_prompt=True, return_dict=False
    )
    assert np.concatenate([opens.prompt_ids(ASK), opens.given_ids()]).tolist() == whole
    assert text(opens, opens.given_ids("<think>\n1 +")) == "<think>\n1 +"
    assert plain.given_ids().tolist() == []
    assert text(plain, plain.given_ids("<think>")) == "<think>"


@pytest.mark.parametrize("response", ["<think>\n1</think>2", "<think>1</think>2", "1</think>2"])
def test_a_written_response_has_the_opening_once(response: str) -> None:
    renderer = ChatRenderer(tokenizer(DROPS_ALL))
    assert text(renderer, renderer.response_ids(response, end=False)) == "<think>\n1</think>2"


def test_a_response_ends_with_the_templates_end_token() -> None:
    made = tokenizer()
    renderer = ChatRenderer(made)
    assert renderer.end_id == made.convert_tokens_to_ids("<|im_end|>")
    assert text(renderer, renderer.response_ids("47", end=True)) == "47<|im_end|>"
    assert text(renderer, renderer.response_ids("47", end=False)) == "47"


def test_a_template_without_an_end_token_ends_with_eos() -> None:
    made = tokenizer("{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}")
    made.eos_token = "<|pad|>"
    renderer = ChatRenderer(made)
    assert renderer.end_id == made.convert_tokens_to_ids("<|pad|>")
    assert text(renderer, renderer.next_turn_ids([Message("user", "x")])) == "\nx\n"


def test_a_doubled_beginning_is_refused() -> None:
    made = tokenizer("{{ bos_token }}" + CHAT_TEMPLATE)
    made.bos_token = "<|im_start|>"
    with pytest.raises(TemplateError, match=r"begins with '<\|im_start\|>' twice"):
        ChatRenderer(made).prompt_ids(ASK)


def test_the_tokenizers_own_special_tokens_are_not_added() -> None:
    from tokenizers.processors import TemplateProcessing

    made = tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", made.convert_tokens_to_ids("<|pad|>"))]
    )
    assert made("x")["input_ids"][0] == made.convert_tokens_to_ids("<|pad|>")
    assert np.array_equal(ChatRenderer(made).prompt_ids(ASK), ChatRenderer(tokenizer()).prompt_ids(ASK))


@pytest.mark.parametrize("template", [DATED, DATED_BY_DEFAULT])
def test_dates_in_templates_are_pinned(template: str) -> None:
    renderer = ChatRenderer(tokenizer(template))
    assert "26 Jul 2024" in text(renderer, renderer.prompt_ids(ASK))


def test_no_template_and_refused_roles_are_clear_errors() -> None:
    bare = tiny_tokenizer("byte")
    bare.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        ChatRenderer(bare)
    strict = tokenizer("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}")
    with pytest.raises(TemplateError, match=r"refuses turns of roles \(system, user\): no system"):
        ChatRenderer(strict).prompt_ids([Message("system", "x"), *ASK])


def test_fingerprints_follow_template_and_tokenizer() -> None:
    first, again, other = ChatRenderer(tokenizer()), ChatRenderer(tokenizer()), ChatRenderer(tokenizer(DROPS_ALL))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.template_fingerprint == again.template_fingerprint != other.template_fingerprint
    grown = tokenizer()
    grown.add_tokens(["<step>"])
    assert ChatRenderer(grown).fingerprint != first.fingerprint
    assert ChatRenderer(grown).template_fingerprint == first.template_fingerprint


def test_fingerprint_does_not_depend_on_what_was_called_before() -> None:
    used = tokenizer()
    used(["x", "xyz"], padding=True, truncation=True, max_length=2)
    assert ChatRenderer(used).fingerprint == ChatRenderer(tokenizer()).fingerprint
