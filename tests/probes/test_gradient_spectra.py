"""Gradients of a response at every projection, against plain back-propagation and against a model of another layout."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from thinkrl.models.tiny import TinyModel
from thinkrl.probes.gradient_spectra import (
    PROJECTIONS,
    projection_weights,
    response_gradient,
    singular_values,
    spectrum,
)

torch.set_num_threads(1)

SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}  # fmt: skip
IDS = np.asarray([5, 9, 11, 7, 3, 22, 14], np.int32)
LEARNED = np.asarray([False, False, False, True, True, False, True])


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def test_loss_and_gradients_are_those_of_back_propagation(module: Any) -> None:
    found = response_gradient(module, IDS, LEARNED)
    assert all(parameter.grad is None for parameter in module.parameters())
    labels = torch.from_numpy(np.where(LEARNED, IDS, -100).astype(np.int64))
    loss = module(torch.from_numpy(IDS.astype(np.int64))[None], labels=labels[None]).loss
    loss.backward()
    assert found.loss == pytest.approx(loss.item(), rel=1e-6)
    assert found.tokens == 3
    assert list(found.spectra) == [(which, layer) for layer in range(2) for which in PROJECTIONS]
    for (which, layer), one in found.spectra.items():
        gradient = getattr(module.model.layers[layer].self_attn, f"{which}_proj").weight.grad.double()
        values = np.linalg.svd(gradient.numpy(), compute_uv=False)
        assert one.nuclear == pytest.approx(values.sum(), rel=1e-4)
        assert one.ratio == pytest.approx(values[0] / values.sum(), rel=1e-4)
        assert one.frobenius == pytest.approx(np.sqrt((values**2).sum()), rel=1e-5)
        assert (one.maximum, one.minimum) == pytest.approx((gradient.max().item(), gradient.min().item()), rel=1e-5)
        shares = values / values.sum()
        assert one.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares + 1e-300)).sum()), rel=1e-3)
    module.zero_grad(set_to_none=True)


def test_a_fused_projection_is_split(module: Any) -> None:
    fused = Phi3ForCausalLM(Phi3Config(**SIZES)).eval()
    state = module.state_dict()
    for layer in range(2):
        place = f"model.layers.{layer}"
        rows = [state.pop(f"{place}.self_attn.{which}_proj.weight") for which in "qkv"]
        state[f"{place}.self_attn.qkv_proj.weight"] = torch.cat(rows)
        gates = [state.pop(f"{place}.mlp.{which}_proj.weight") for which in ("gate", "up")]
        state[f"{place}.mlp.gate_up_proj.weight"] = torch.cat(gates)
    fused.load_state_dict(state)
    one, other = response_gradient(module, IDS, LEARNED), response_gradient(fused, IDS, LEARNED)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert other.spectra.keys() == one.spectra.keys()
    for place, wanted in one.spectra.items():
        assert other.spectra[place].nuclear == pytest.approx(wanted.nuclear, rel=1e-3)
        assert other.spectra[place].largest == pytest.approx(wanted.largest, rel=1e-3)


def test_some_projections_alone(module: Any) -> None:
    found = response_gradient(module, IDS, LEARNED, ("v", "o"))
    assert set(found.spectra) == {(which, layer) for which in ("v", "o") for layer in range(2)}
    whole = response_gradient(module, IDS, LEARNED)
    assert all(found.spectra[place] == whole.spectra[place] for place in found.spectra)


def test_what_comes_behind_the_last_learned_token_changes_nothing(module: Any) -> None:
    learned = LEARNED.copy()
    learned[-1] = False
    one = response_gradient(module, IDS, learned)
    other = response_gradient(module, np.asarray([*IDS[:-1], 30], np.int32), learned)
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.spectra["v", 0].nuclear == pytest.approx(other.spectra["v", 0].nuclear, rel=1e-4)


def test_the_first_token_alone_cannot_be_learned(module: Any) -> None:
    learned = np.zeros(len(IDS), np.bool_)
    learned[0] = True
    with pytest.raises(ValueError, match="learned must mark a token behind the first"):
        response_gradient(module, IDS, learned)


def test_a_loss_without_a_number_has_spectra_without_numbers() -> None:
    torch.manual_seed(3)
    broken = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    broken.lm_head.weight.data.fill_(float("nan"))
    found = response_gradient(broken, IDS, LEARNED)
    assert np.isnan(found.loss)
    assert all(np.isnan(one.nuclear) for one in found.spectra.values())


@pytest.mark.parametrize(("rows", "columns"), [(60, 60), (24, 90), (90, 24)])
def test_a_known_rank_changes_the_time_alone(rows: int, columns: int) -> None:
    draw = torch.Generator().manual_seed(1)
    left, right = torch.randn(rows, 8, generator=draw), torch.randn(8, columns, generator=draw)
    matrix = left @ torch.diag(0.1 ** torch.arange(8.0)) @ right
    plain, fast = singular_values(matrix), singular_values(matrix, rank=8)
    assert len(fast) == len(plain) == min(rows, columns)
    assert fast[:8].numpy() == pytest.approx(plain[:8].numpy(), rel=1e-4, abs=1e-5)
    assert float(fast[8:].abs().max()) <= 1e-4 * float(plain[0])
    assert spectrum(matrix, rank=8).nuclear == pytest.approx(spectrum(matrix).nuclear, rel=1e-5)
    assert torch.equal(fast, singular_values(matrix, rank=8))


def test_square_matrices_that_are_no_projections_are_left_out() -> None:
    module = TinyModel(hidden=32, intermediate=32, layers=1, heads=2, kv_heads=2, tokenizer="character").load().module
    assert [name.split(".")[-2] for name in projection_weights(module)] == ["q_proj", "k_proj", "v_proj", "o_proj"]


def test_a_model_with_other_names_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    other = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel must have one layers\.N\.self_attn"):
        projection_weights(other)
