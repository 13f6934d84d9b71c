"""Cut thinking: what comes before the cut, what is inserted, and how sampling goes on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from thinkrl.algorithms.objective import ClippedObjective
from thinkrl.algorithms.types import Advantages
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.learning.torch_learner import TorchLearner
from thinkrl.models.policy import Policy
from thinkrl.models.tiny import TinyModel
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.distribution import draw
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec, ThinkingBudget
from thinkrl.sampling.stream import UniformStream
from thinkrl.sampling.torch_sampler import TorchSampler
from thinkrl.stages.records import batch_metrics
from thinkrl.tracking.recorder import Stopwatch
from thinkrl.tracking.rollout_files import read_rollouts, write_rollouts

LONG = SamplingSpec(temperature=1.2, max_new_tokens=30)
BUDGET = ThinkingBudget(tokens=8, insert="</think><answer>", end="#####")  # random tokens do not say this
CUT = replace(LONG, budget=BUDGET)
INSERT = ("</think>", "<answer>")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return TinyModel(hidden=32, intermediate=48, layers=2, heads=2, kv_heads=1, tokenizer="character").load(
        for_training=True
    )


def sample(policy: Policy, spec: SamplingSpec, batch_size: int = 64, count: int = 12) -> list[Sample]:
    prompts = [np.asarray(policy.tokenizer.encode(text), dtype=np.int32) for text in ("2+2=", "a longer prompt: 7-9=")]
    requests = [SampleRequest(prompt, tuple(range(100 * i, 100 * i + count))) for i, prompt in enumerate(prompts)]
    rows = TorchSampler(batch_size=batch_size).open(policy).sample(requests, spec)
    return [sample for row in rows for sample in row]


def insert_ids(policy: Policy) -> list[int]:
    return [policy.tokenizer.convert_tokens_to_ids(token) for token in INSERT]


def test_a_budget_that_is_not_reached_changes_nothing(policy: Policy) -> None:
    plain = sample(policy, LONG)
    spec = replace(LONG, max_new_tokens=31, budget=replace(BUDGET, tokens=30))
    for one, other in zip(plain, sample(policy, spec), strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids[:30])


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_cut_leaves_the_beginning_and_inserts_the_text(policy: Policy, batch_size: int) -> None:
    plain, cut = sample(policy, LONG), sample(policy, CUT, batch_size)
    touched = 0
    for before, after in zip(plain, cut, strict=True):
        np.testing.assert_array_equal(before.token_ids[:8], after.token_ids[:8])
        np.testing.assert_allclose(before.logprobs[:8], after.logprobs[:8], atol=1e-5)
        if len(before.token_ids) <= 8:
            assert after.sampled is None
            continue
        touched += 1
        assert after.token_ids[8:10].tolist() == insert_ids(policy)
        assert after.sampled is not None
        assert np.flatnonzero(~after.sampled).tolist() == [8, 9]
        for column in (after.logprobs, after.entropies):
            assert np.flatnonzero(np.isnan(column)).tolist() == [8, 9]
        assert len(after.token_ids) <= 30
    assert touched > 10


def test_sampling_goes_on_as_from_the_whole_text_with_the_next_random_number(policy: Policy) -> None:
    """Against the module's own forward pass, one token at a time."""
    prompt = policy.tokenizer.encode("2+2=")
    for key, found in enumerate(sample(policy, CUT, count=4)[:4]):
        ids, stream, drawn = list(prompt), UniformStream(key), 0
        for position, token in enumerate(found.token_ids.tolist()):
            if position in (8, 9):
                ids.append(insert_ids(policy)[position - 8])
            else:
                with torch.inference_mode():
                    logits = policy.module(torch.tensor([ids])).logits[:, -1]
                uniform = torch.tensor([stream.at(drawn)], dtype=torch.float64)
                drawn += 1
                ids.append(int(draw(logits, uniform, CUT).token_ids))
            assert ids[-1] == token, position


def test_thinking_that_has_ended_is_not_cut(policy: Policy) -> None:
    # Every text contains the empty beginning of its own first token.
    for before, after in zip(sample(policy, LONG), sample(policy, CUT), strict=True):
        text = policy.tokenizer.decode(before.token_ids[:1].tolist())
        if not text.strip():
            continue
        ended = replace(CUT, budget=replace(BUDGET, end=text))
        again = [s for s in sample(policy, ended) if s.token_ids[0] == before.token_ids[0]]
        assert again
        assert all(s.sampled is None for s in again)
        assert after.finish_reason is not None
        return
    pytest.fail("no sample starts with a visible token")


def test_the_limit_counts_what_is_inserted(policy: Policy) -> None:
    for found in sample(policy, replace(CUT, max_new_tokens=9)):
        assert len(found.token_ids) <= 9
        if len(found.token_ids) == 9:
            assert found.sampled is not None
            assert found.sampled.tolist() == [True] * 8 + [False]
            assert found.finish_reason is FinishReason.LENGTH


def test_a_stop_string_that_is_inserted_ends_nothing_by_itself(policy: Policy) -> None:
    stopping = sample(policy, replace(CUT, stop=("<answer>",)))
    assert any(s.sampled is not None and len(s.token_ids) > 10 for s in stopping)
    # The first drawn token after it sees the stop string in the text, and ends the response.
    for found in stopping:
        if found.sampled is not None:
            assert len(found.token_ids) == 11
            assert found.finish_reason is FinishReason.STOP


def test_inserted_tokens_carry_no_loss_and_the_rest_agrees_with_the_learner(policy: Policy) -> None:
    prompts = [Prompt(f"p{i}", (Message("user", f"{i}+{i}="),)) for i in range(3)]
    sampler, learner = TorchSampler().open(policy), TorchLearner(learning_rate=0.0).open(policy, 1, False)
    rollouts = SingleTurn(response_prefix="<think>").rollout(
        policy, sampler, prompts, 4, CUT, seed=0, stage="s", step=1
    )  # fmt: skip
    inserted = np.isin(rollouts.token_ids.values, insert_ids(policy)) & ~rollouts.sampled
    assert inserted.sum() >= 2 * 6
    assert np.all(rollouts.versions.values[inserted] == -1)
    assert np.all(np.isfinite(rollouts.logprobs.values[rollouts.sampled]))
    values = rollouts.token_ids.with_values(np.where(rollouts.sampled, 1.0, np.nan))
    advantages = Advantages(values, np.ones(len(rollouts), dtype=np.bool_))
    report = learner.update(rollouts, advantages, ClippedObjective(), CUT)
    assert report.metrics["mismatch/max_abs"] < 1e-4
    assert report.loss == pytest.approx(-1.0)  # a mean over sampled tokens of ratio 1 times advantage 1


def test_records_of_a_batch_with_cuts(policy: Policy, tmp_path: Path) -> None:
    """Metrics are finite and count the cuts; the rollout file gives the gaps back."""
    prompts = [Prompt(f"p{i}", (Message("user", f"{i}+{i}="),)) for i in range(3)]
    sampler = TorchSampler().open(policy)
    rollouts = SingleTurn(response_prefix="<think>").rollout(
        policy, sampler, prompts, 4, CUT, seed=0, stage="s", step=1
    )
    cut = sum(bool(np.isin(insert_ids(policy), row).all()) for row in rollouts.token_ids)
    row = batch_metrics(rollouts, RewardResult(np.ones(12)), CUT, Stopwatch(), asked=3)
    assert row["thinking_cut"] == cut / 12 > 0.5
    assert np.isfinite([row["entropy"], row["response_length"], row["thinking_length"]]).all()
    assert row["sampled_tokens"] == rollouts.token_ids.lengths.sum() - 12 - 2 * cut  # one given token in front
    write_rollouts(tmp_path / "rollouts.parquet", rollouts, {}, "s", 1)
    stored = read_rollouts(tmp_path / "rollouts.parquet").rollouts
    for name in ("token_ids", "origins", "logprobs", "entropies", "versions"):
        assert getattr(stored, name).values.tobytes() == getattr(rollouts, name).values.tobytes()
    plain = SingleTurn().rollout(policy, sampler, prompts, 2, LONG, seed=0, stage="s", step=1)
    assert "thinking_cut" not in batch_metrics(plain, RewardResult(np.ones(6)), LONG, Stopwatch(), asked=3)


@pytest.mark.parametrize("fields", [{"tokens": 0}, {"insert": ""}, {"end": ""}])
def test_budgets_that_make_no_sense(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        replace(BUDGET, **fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"budget\.tokens must be below max_new_tokens"):
        SamplingSpec(max_new_tokens=8, budget=BUDGET)
