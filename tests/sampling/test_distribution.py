"""Draws follow exact probabilities; truncation keeps the sets its definition names."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.sampling.distribution import draw, kept_tokens, processed_logprobs
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.sampling.stream import UniformStream

PROBABILITIES = [0.4, 0.2, 0.2, 0.1, 0.06, 0.04]
LOGITS = torch.tensor(PROBABILITIES, dtype=torch.float64).log()[None]


def kept(**fields) -> list[int]:
    mask = kept_tokens(LOGITS, SamplingSpec(**fields))
    return list(range(6)) if mask is None else mask[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 1}, [0]),
        ({"top_k": 2}, [0, 1, 2]),  # tokens 1 and 2 are equally likely
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_k": 9}, [0, 1, 2, 3, 4, 5]),
        ({"top_p": 0.3}, [0]),
        ({"top_p": 0.5}, [0, 1, 2]),
        ({"top_p": 0.85}, [0, 1, 2, 3]),
        ({"min_p": 0.3}, [0, 1, 2]),
        ({"min_p": 0.12}, [0, 1, 2, 3, 4]),
        # Among the four most likely (mass 0.9), 0.8 of the mass is 0.72: tokens 0 to 2 hold 0.8.
        ({"top_k": 4, "top_p": 0.8}, [0, 1, 2]),
        ({"top_p": 0.85, "min_p": 0.3}, [0, 1, 2]),
    ],
)
def test_truncation_keeps_the_set_worked_out_by_hand(fields, expected):
    assert kept(**fields) == expected


def test_processed_logprobs_are_renormalised_over_the_kept_set():
    logprobs = processed_logprobs(LOGITS, SamplingSpec(top_p=0.85))[0]
    expected = np.array([0.4, 0.2, 0.2, 0.1]) / 0.9
    np.testing.assert_allclose(logprobs[:4].exp().numpy(), expected, rtol=1e-6)
    assert torch.isinf(logprobs[4:]).all()


def test_temperature_comes_before_truncation():
    # At temperature 0.5 the probabilities are squared: 16, 4, 4, 1, .36, .16 of 25.52.
    mask = kept_tokens(LOGITS / 0.5, SamplingSpec(temperature=0.5, top_p=0.6))
    assert mask[0].nonzero()[:, 0].tolist() == [0]


def test_there_are_no_logprobs_at_temperature_zero():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        processed_logprobs(LOGITS, SamplingSpec(temperature=0.0))


@pytest.mark.parametrize("spec", [SamplingSpec(), SamplingSpec(temperature=0.7, top_k=5, top_p=0.97)])
def test_frequencies_follow_the_probabilities(spec):
    """Chi-square over 20,000 draws, at the 0.9999 quantile for the degrees of freedom."""
    count = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(3).random(count))
    ids = draw(LOGITS.float().expand(count, -1), uniforms, spec).token_ids
    probabilities = processed_logprobs(LOGITS, spec)[0].exp().double()
    observed = torch.bincount(ids, minlength=6).double()
    possible = probabilities > 0
    assert observed[~possible].sum() == 0
    expected = probabilities[possible] * count
    statistic = float(((observed[possible] - expected) ** 2 / expected).sum())
    limits = {4: 23.5, 5: 25.7}
    assert statistic < limits[int(possible.sum()) - 1]


def test_the_draw_is_the_inverse_of_the_cumulative_distribution():
    """Against a float64 loop, for a vocabulary of several blocks that does not fill the last one."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(40, 700)).astype(np.float32) * 3)
    uniforms = rng.random(40)
    draws = draw(logits, torch.from_numpy(uniforms), SamplingSpec())
    cumulative = logits.double().softmax(-1).cumsum(-1).numpy()
    expected = [int(np.argmax(row > u)) for row, u in zip(cumulative, uniforms, strict=True)]
    assert draws.token_ids.tolist() == expected
    logprobs = logits.double().log_softmax(-1)
    np.testing.assert_allclose(
        draws.logprobs.numpy(), logprobs.gather(-1, draws.token_ids[:, None])[:, 0].numpy(), atol=2e-6
    )
    np.testing.assert_allclose(draws.entropies.numpy(), -(logprobs.exp() * logprobs).sum(-1).numpy(), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=600),
    st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53]),
    st.integers(0, 4),
)
def test_a_dropped_token_is_never_drawn(values, uniform, top_k):
    spec = SamplingSpec(top_k=top_k, min_p=0.01)
    logits = torch.tensor([values])
    draws = draw(logits, torch.tensor([uniform], dtype=torch.float64), spec)
    logprobs = processed_logprobs(logits, spec)[0]
    chosen = int(draws.token_ids)
    assert torch.isfinite(logprobs[chosen])
    assert float(draws.logprobs) == pytest.approx(float(logprobs[chosen]), abs=1e-5)


def test_entropy_is_that_of_the_kept_set():
    draws = draw(LOGITS.float(), torch.tensor([0.0]), SamplingSpec(top_k=2))
    p = np.array([0.5, 0.25, 0.25])
    assert float(draws.entropies) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-6)


def test_temperature_zero_takes_the_most_likely_token():
    draws = draw(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([0.99]), SamplingSpec(temperature=0.0))
    assert (int(draws.token_ids), float(draws.logprobs), float(draws.entropies)) == (1, 0.0, 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_diverged_weights_stop_the_run(bad, temperature):
    with pytest.raises(FloatingPointError, match="diverged"):
        draw(torch.tensor([[0.0, bad, 1.0]]), torch.tensor([0.5]), SamplingSpec(temperature=temperature))


def test_token_t_uses_draw_t_of_its_own_stream():
    expected = np.random.Generator(np.random.Philox(key=12345)).random(600)
    stream = UniformStream(12345)
    assert [stream.at(t) for t in (599, 0, 255, 256)] == [expected[t] for t in (599, 0, 255, 256)]
    assert UniformStream(2**64 - 1).at(0) != UniformStream(0).at(0)
