"""The written-out decode step equals the module's own full forward pass, whatever the batch goes through."""

import pytest
import torch
from architectures import FAMILIES, tiny_module

from thinkrl.sampling.block_decoder import BlockDecoder, supports
from thinkrl.sampling.decoder import ModuleDecoder

PROMPTS = [torch.tensor([5, 9, 200]), torch.arange(70) + 3, torch.tensor([44])]
COPIES = [2, 1, 3]
DECODERS = {"blocks": BlockDecoder, "module": ModuleDecoder}


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
    decoder.begin(6)
    rows = []
    for prompt, copies in zip(PROMPTS, COPIES, strict=True):
        prefilled = decoder.prefill(prompt)
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
    decoder.keep(order)
    rows[:] = [rows[row] for row in order]
    run(2)
    newcomer = torch.tensor([8, 8, 120, 33])
    decoder.join(decoder.prefill(newcomer), 2)
    rows += [newcomer.tolist(), newcomer.tolist()]
    run(60)
    decoder.keep([0])
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
    decoder.begin(1)
    assert_close(decoder.prefill(PROMPTS[0]).logits, module, [PROMPTS[0].tolist()])


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


@torch.inference_mode()
def test_rows_that_stay_in_place_cannot_be_overwritten():
    decoder = BlockDecoder(tiny_module("llama-tied"))
    decoder.begin(3)
    decoder.join(decoder.prefill(PROMPTS[0]), 3)
    with pytest.raises(ValueError, match="from behind"):
        decoder.keep([1, 0])


@torch.inference_mode()
def test_a_prompt_that_is_joined_again_is_the_same_prompt_and_leaves_with_its_last_row():
    module = tiny_module("qwen3")
    decoder = BlockDecoder(module)
    decoder.begin(4)
    first, second = decoder.prefill(PROMPTS[1]), decoder.prefill(PROMPTS[0])
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
    decoder.keep([1])
    assert cache._prompts == [second]
    rows[1].append(11)
    assert_close(decoder.step(torch.tensor([11])), module, [rows[1]])
