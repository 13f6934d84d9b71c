"""The written-out decode step equals the module's own full forward pass, whatever the batch goes through."""

from functools import partial

import pytest
import torch
from architectures import FAMILIES, tiny_module
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.sampling.block_decoder import BlockDecoder, supports
from thinkrl.sampling.decoder import ModuleDecoder
from thinkrl.sampling.packed_prompts import common_beginning, passes

PROMPTS = [torch.tensor([5, 9, 200]), torch.arange(70) + 3, torch.tensor([44])]
COPIES = [2, 1, 3]
NOTHING = torch.zeros(0, dtype=torch.int64)
DECODERS = {
    "compiled": BlockDecoder,
    "blocks": partial(BlockDecoder, compiled=False),
    "module": ModuleDecoder,
}


def full_logits(module, ids):
    with torch.no_grad():
        return module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


def assert_close(logits, module, rows):
    expected = torch.stack([full_logits(module, row) for row in rows])
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std(-1).min() > 0.1, "the model must not be so flat that any answer is close"


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_logits_equal_a_full_forward_pass(family, kind):
    """Rows of three lengths run, leave out of order, are joined by a newcomer, and cross a capacity step."""
    module = tiny_module(family)
    decoder = DECODERS[kind](module)
    decoder.begin(6, NOTHING)
    rows = []
    for prompt, copies in zip(PROMPTS, COPIES, strict=True):
        prefilled = decoder.prefill([prompt])[0]
        assert_close(prefilled.logits, module, [prompt.tolist()])
        decoder.join(prefilled, copies)
        rows += [prompt.tolist() for _ in range(copies)]

    def run(steps):
        for step in range(steps):
            ids = [(17 * step + 31 * i) % 250 + 3 for i in range(len(rows))]
            for row, token in zip(rows, ids, strict=True):
                row.append(token)
            logits = decoder.step(torch.tensor(ids))
        assert_close(logits, module, rows)

    run(3)
    order = [0, 5, 4, 3]  # rows 1 and 2 leave; 5 and 4 take their places
    decoder.arrange(order)
    rows[:] = [rows[row] for row in order]
    run(2)
    newcomer = torch.tensor([8, 8, 120, 33])
    decoder.join(decoder.prefill([newcomer])[0], 2)
    rows += [newcomer.tolist(), newcomer.tolist()]
    run(60)
    decoder.arrange([0])
    del rows[1:]
    run(2)
    decoder.end()


@torch.inference_mode()
def test_refresh_takes_over_changed_weights():
    module = tiny_module("qwen2")
    decoder = BlockDecoder(module)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    decoder.refresh()
    decoder.begin(1, NOTHING)
    assert_close(decoder.prefill(PROMPTS[:1])[0].logits, module, [PROMPTS[0].tolist()])


def test_what_is_not_of_the_family_is_left_to_the_module():
    assert all(supports(tiny_module(family)) for family in FAMILIES)
    assert not supports(tiny_module("mistral", sliding_window=8))
    assert not supports(tiny_module("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1))
    assert not supports(tiny_module("llama-tied", hidden_act="gelu"))
    adapted = tiny_module("llama-tied")
    projection = adapted.model.layers[0].self_attn.q_proj
    adapted.model.layers[0].self_attn.q_proj = type("Adapted", (torch.nn.Linear,), {})(
        projection.in_features, projection.out_features, bias=False
    )
    assert not supports(adapted)
    with pytest.raises(ValueError, match="Llama block family"):
        BlockDecoder(adapted)


@pytest.mark.parametrize("kind", DECODERS)
@torch.inference_mode()
def test_rows_part_swap_and_leave_in_one_arrangement(kind):
    module = tiny_module("qwen3")
    decoder = DECODERS[kind](module)
    decoder.begin(6, NOTHING)
    rows = []
    for prefilled, prompt in zip(decoder.prefill(PROMPTS), PROMPTS, strict=True):
        decoder.join(prefilled, 1)
        rows.append(prompt.tolist())

    def run(steps):
        for step in range(steps):
            ids = [(29 * step + 41 * i) % 250 + 3 for i in range(len(rows))]
            for row, token in zip(rows, ids, strict=True):
                row.append(token)
            logits = decoder.step(torch.tensor(ids))
        assert_close(logits, module, rows)

    run(2)
    for order in ([1, 0, 2, 1, 1, 0], [5, 5, 1, 2, 4, 3], [3, 2], [1, 0, 0]):
        decoder.arrange(order)
        rows[:] = [list(rows[row]) for row in order]
        run(2)


@torch.inference_mode()
def test_more_rows_than_were_set_aside_are_refused():
    decoder = BlockDecoder(tiny_module("llama-tied"))
    decoder.begin(3, NOTHING)
    (prefilled,) = decoder.prefill(PROMPTS[:1])
    decoder.join(prefilled, 3)
    with pytest.raises(ValueError, match="3 rows are set aside, got 4"):
        decoder.join(prefilled, 1)
    with pytest.raises(ValueError, match="3 rows are set aside, got 4"):
        decoder.arrange([0, 1, 2, 2])


@pytest.mark.parametrize("kind", ["compiled", "blocks"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("begun", [0, 1, 40])
@torch.inference_mode()
def test_prompts_read_together_behind_a_common_beginning(family, begun, kind):
    """Prompts of 41 to 110 tokens, in one pass and in several: logits, and what continues them."""
    module = tiny_module(family)
    own = [torch.arange(n) * 7 % 250 + 3 for n in (1, 70, 13, 70, 2)]
    beginning = torch.arange(begun) * 11 % 250 + 3
    prompts = [torch.cat([beginning, torch.arange(40 - begun) + 5 * i, rest]) for i, rest in enumerate(own)]
    decoder = DECODERS[kind](module)
    for size in (5, 2):
        decoder.begin(5, beginning)
        found = []
        for start in range(0, 5, size):
            found += decoder.prefill(prompts[start : start + size])
        assert_close(torch.cat([prefilled.logits for prefilled in found]), module, [p.tolist() for p in prompts])
        for prefilled in found:
            decoder.join(prefilled, 1)
        logits = decoder.step(torch.full((5,), 77))
        assert_close(logits, module, [[*prompt.tolist(), 77] for prompt in prompts])
        decoder.end()


def test_the_beginning_leaves_every_prompt_a_token_of_its_own():
    def beginning(*prompts):
        return common_beginning([torch.tensor(prompt) for prompt in prompts]).tolist()

    assert beginning([1, 2, 3]) == []
    assert beginning([1, 2, 3], [1, 2, 4], [1, 2, 3, 4]) == [1, 2]
    assert beginning([1, 2, 3], [1, 2, 3], [1, 2, 3, 4]) == [1, 2]
    assert beginning([1, 2], [2, 2]) == []
    assert beginning([1], [1, 2]) == []


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=30))
def test_a_pass_holds_as_many_prompts_as_fit(lengths):
    parts = passes(lengths)
    assert [place for part in parts for place in part] == list(range(len(lengths)))
    sizes = [len(part) * max(lengths[place] for place in part) for part in parts]
    assert all(size <= 2048 or len(part) == 1 for size, part in zip(sizes, parts, strict=True))
    for part in parts[:-1]:  # one more would not have fitted
        assert (len(part) + 1) * max(lengths[part.start : part.stop + 1]) > 2048


@torch.inference_mode()
def test_a_prompt_that_is_joined_again_is_the_same_prompt_and_leaves_with_its_last_row():
    module = tiny_module("qwen3")
    decoder = BlockDecoder(module)
    decoder.begin(4, NOTHING)
    first, second = decoder.prefill([PROMPTS[1], PROMPTS[0]])
    rows = []
    for prefilled, prompt, copies in ((first, 1, 1), (second, 0, 1), (first, 1, 2)):
        decoder.join(prefilled, copies)
        rows += [PROMPTS[prompt].tolist() for _ in range(copies)]
    cache = decoder._running()
    for step in range(3):
        ids = [7 + step, 8 + step, 9 + step, 90 + step]
        for row, token in zip(rows, ids, strict=True):
            row.append(token)
        logits = decoder.step(torch.tensor(ids))
        assert len(cache._prompts) == 2
    assert_close(logits, module, rows)
    decoder.arrange([1])
    assert cache._prompts == [second]
    rows[1].append(11)
    assert_close(decoder.step(torch.tensor([11])), module, [rows[1]])
