"""Samples share a row of the decoder for as long as they are the same, and come out as if each had its own."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from architectures import tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkrl.models.policy import Policy
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.distribution import draw
from thinkrl.sampling.running_batch import RunningBatch, RunningSample
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec, ThinkingBudget
from thinkrl.sampling.torch_sampler import OpenTorchSampler, TorchSampler

PROMPTS = ([5, 9, 200], [7] * 40, [5, 9, 201, 33])
COLD = SamplingSpec(temperature=0.35, max_new_tokens=24)  # samples of a group stay together for a while


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy()


def requests(samples: int, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[SampleRequest]:
    return [
        SampleRequest(np.asarray(prompt, dtype=np.int32), tuple(range(50 * i, 50 * i + samples)))
        for i, prompt in enumerate(prompts)
    ]


def rows_read(sampler: OpenTorchSampler, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the number of rows of every decoding step from now on."""
    read: list[int] = []
    step = sampler._decoder.step
    monkeypatch.setattr(sampler._decoder, "step", lambda ids: read.append(len(ids)) or step(ids))
    return read


def beginnings(rows: Sequence[Sequence[Sample]]) -> set[tuple[int, tuple[int, ...]]]:
    """What has to be read to draw every token but the first ones: each beginning of a sample once for its prompt."""
    return {
        (prompt, tuple(sample.token_ids[:length].tolist()))
        for prompt, row in enumerate(rows)
        for sample in row
        for length in range(1, len(sample.token_ids))
    }


@pytest.mark.parametrize("plain_forward", [False, True])
def test_every_text_is_read_once(policy: Policy, plain_forward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = TorchSampler(plain_forward=plain_forward).open(policy)
    read = rows_read(sampler, monkeypatch)
    rows = sampler.sample(requests(12), COLD)
    assert sum(read) == len(beginnings(rows))
    assert sum(read) < 0.8 * sum(len(sample.token_ids) - 1 for row in rows for sample in row)
    alone = TorchSampler(batch_size=1, plain_forward=True).open(policy).sample(requests(12), COLD)
    for one, other in zip((s for row in rows for s in row), (s for row in alone for s in row), strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
        np.testing.assert_allclose(one.entropies, other.entropies, atol=2e-5)
        assert one.finish_reason == other.finish_reason


def test_greedy_samples_are_one_row_to_the_end(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = TorchSampler().open(policy)
    read = rows_read(sampler, monkeypatch)
    (row,) = sampler.sample(requests(9, PROMPTS[:1]), SamplingSpec(temperature=0.0, max_new_tokens=10))
    assert read == [1] * (len(row[0].token_ids) - 1)
    assert len({tuple(sample.token_ids.tolist()) for sample in row}) == 1


def test_samples_that_were_the_same_are_cut_together(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = ThinkingBudget(tokens=4, insert="ab", end="####")
    spec = SamplingSpec(temperature=0.0, max_new_tokens=12, budget=budget)
    sampler = TorchSampler().open(policy)
    read = rows_read(sampler, monkeypatch)
    (row,) = sampler.sample(requests(5, PROMPTS[:1]), spec)
    assert all(sample.sampled is not None and not sample.sampled[4:6].any() for sample in row)
    assert set(read) == {1}


def test_a_row_of_several_draws_is_that_many_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((5, 700), generator=generator) * 3
    counts = [3, 1, 0, 9, 2]
    uniforms = torch.rand(15, generator=generator, dtype=torch.float64)
    repeated = logits.repeat_interleave(torch.tensor(counts), 0)
    for spec in (SamplingSpec(), SamplingSpec(temperature=0.0), SamplingSpec(temperature=0.7, top_k=9, top_p=0.8)):
        found, expected = draw(logits, uniforms, spec, counts), draw(repeated, uniforms, spec)
        assert torch.equal(found.token_ids, expected.token_ids)
        assert torch.equal(found.logprobs, expected.logprobs)
        assert torch.equal(found.entropies, expected.entropies)


class Arranged:
    """A decoder that only remembers the text of each row."""

    def __init__(self, texts: list[tuple[int, ...]]) -> None:
        self.texts = texts

    def arrange(self, sources: Sequence[int]) -> None:
        self.texts = [self.texts[source] for source in sources]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=6))
def test_rows_part_wherever_samples_differ(last: list[list[int]]) -> None:
    """`last`: the newest token of each sample of each row, 3 for one that has ended."""
    decoder = Arranged([(row,) for row in range(len(last))])
    batch = RunningBatch(decoder, None, None, SamplingSpec(), torch.device("cpu"))  # type: ignore[arg-type]
    for row, tokens in enumerate(last):
        samples = [RunningSample(row, place, None, [row, token]) for place, token in enumerate(tokens)]  # type: ignore[arg-type]
        for sample in samples:
            sample.finish_reason = FinishReason.STOP if sample.token_ids[-1] == 3 else None
        batch._rows.append(samples)
    batch._part()
    going_on = {(row, token) for row, tokens in enumerate(last) for token in tokens if token != 3}
    assert sorted((row[0].request, row[0].token_ids[-1]) for row in batch._rows) == sorted(going_on)
    assert batch.samples == sum(token != 3 for tokens in last for token in tokens)
    for (source,), row in zip(decoder.texts, batch._rows, strict=True):
        assert {(sample.request, sample.token_ids[-1]) for sample in row} == {(source, row[0].token_ids[-1])}
