"""Accuracy of answers that are forced early: numbers by hand, by budget and by share of each thinking."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.benchmarks.early_answers import EarlyAnswers
from thinkrl.benchmarks.evaluate import evaluate_model
from thinkrl.benchmarks.metrics import overthought
from thinkrl.benchmarks.result import BenchmarkResult
from thinkrl.environments.forced_answers import ForcedAnswers
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.number import NumberGrader
from thinkrl.models.tiny import tiny_tokenizer
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec

TOKENIZER = tiny_tokenizer("byte", ("<think>", "</think>", "<answer>", "</answer>"))
THOUGHTS = ["abcd</think><answer>4</answer>", "ab</think><answer>2</answer>"]


@dataclass(frozen=True)
class Given:
    rows: tuple[Prompt, ...]

    def prompts(self) -> Sequence[Prompt]:
        return self.rows


class Counter:
    """Answers with the number of tokens of thinking that it sees, twice over for the second of two answers."""

    version = 0

    def __init__(self) -> None:
        self.calls = 0
        self.continued = 0

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        self.calls += 1
        if self.calls == 1:
            return [[_sample(text + "<|im_end|>") for text in THOUGHTS] for _ in requests]
        found = []
        for request in requests:
            text = str(TOKENIZER.decode(request.prompt_ids)).rpartition("assistant\n")[2]
            seen = len(text.partition("</think>")[0].replace("..", ""))
            keys = len(request.stream_keys)
            self.continued += keys
            found.append([_sample(f"{seen * (1 + n % 2)}</answer><|im_end|>") for n in range(keys)])
        return found


def _sample(text: str) -> Sample:
    ids = np.asarray(TOKENIZER(text)["input_ids"], dtype=np.int32)
    zeros = np.zeros(len(ids), dtype=np.float32)
    return Sample(ids, zeros, zeros, FinishReason.STOP, 0)


FORCED = ForcedAnswers(insert="..</think><answer>", insert_after_end="<answer>", answers=2, answer_tokens=8)
BENCHMARK = Benchmark(
    name="counts",
    version=1,
    prompts=Given((Prompt("a", (Message("user", "?"),), "2"), Prompt("b", (Message("user", "?"),), "no number"))),
    environment=SingleTurn(),
    sampling=SamplingSpec(max_new_tokens=8),
    extractor=AnswerExtractor(),
    grader=NumberGrader(),
    samples=2,
    early=EarlyAnswers(FORCED),
)
POLICY: Any = SimpleNamespace(tokenizer=TOKENIZER, stop_ids=frozenset({TOKENIZER.eos_token_id}), name="model")


def measure(early: EarlyAnswers | None) -> BenchmarkResult:
    sampler: Any = Counter()
    return evaluate_model(POLICY, replace(BENCHMARK, early=early), sampler, seed=0)[0]


def test_accuracy_at_each_budget_by_hand() -> None:
    """Budgets 2, 4, 6, 8 and the reference 2. The thinking abcd is seen as 2, then 4 tokens; ab as 2 always; the second
    answer says twice as much."""
    result = measure(EarlyAnswers(FORCED))
    # abcd: cut at 2 it answers 2 and 4, later 4 and 8. ab: 2 and 4 at every budget. The reference of b is no number.
    assert result.early_scores[0].tolist() == [[0.5, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]]
    assert np.isnan(result.early_scores[1]).all()
    assert result.mean("accuracy@0.25") == 0.5
    assert result.mean("accuracy@1") == 0.25
    assert result.mean("anytime_accuracy") == pytest.approx((0.5 + 3 * 0.25) / 4)
    assert result.accuracy == 0.5  # of the responses as they were
    metrics = result.metrics()
    assert metrics["accuracy@0.5"] == 0.25
    assert metrics["overthought"] == 0.5  # abcd was right sooner
    assert result.measures[-5:] == ("anytime_accuracy", "accuracy@0.25", "accuracy@0.5", "accuracy@0.75", "accuracy@1")


def test_shares_of_each_thinking() -> None:
    """Of abcd</think>, five tokens, half are three; of ab</think>, three, half are two."""
    result = measure(EarlyAnswers(FORCED, at=(0.0, 0.5, 1.0), of="thinking"))
    assert result.early_scores[0].tolist() == [[0, 0, 0], [0, 0.5, 0.5]]
    assert result.measures[-3:] == ("accuracy@0", "accuracy@0.5", "accuracy@1")


def test_thinking_is_not_sampled_again() -> None:
    sampler: Any = Counter()
    evaluate_model(POLICY, BENCHMARK, sampler, seed=0)
    assert sampler.calls == 2
    assert sampler.continued == 2 * 2 * 4 * 2


def test_results_are_stored_and_read_again() -> None:
    result = measure(EarlyAnswers(FORCED))
    text = result.to_json()
    assert BenchmarkResult.from_json(text) == result
    stored = json.loads(text, parse_constant=pytest.fail)
    assert stored["summary"]["accuracy@1"] == 0.25
    assert stored["early"]["0.25"] == [[0.5, 0.5], [None, None]]
    old = json.loads(measure(None).to_json())
    del old["early"]
    assert BenchmarkResult.from_json(json.dumps(old)) == measure(None)


def test_the_protocol_says_how_answers_were_forced_and_is_as_before_without() -> None:
    plain, early = measure(None), measure(EarlyAnswers(FORCED))
    other = measure(EarlyAnswers(FORCED, at=(0.5, 1.0)))
    assert plain.protocol.differences(early.protocol) == ["early"]
    assert early.protocol.differences(other.protocol) == ["early.at"]
    assert len({one.protocol.hash for one in (plain, early, other)}) == 3
    assert plain.measures == ("accuracy", "format_rate", "thinking_tokens", "response_tokens", "truncation_rate")
    with pytest.raises(ValueError, match="got 'anytime_accuracy'"):
        plain.measured("anytime_accuracy")
    assert "overthought" not in plain.metrics()


def test_overthinking_is_a_worse_answer_in_the_end_than_before() -> None:
    nan = float("nan")
    scores = np.asarray([[[0.0, 1, 1]], [[0.5, 1, 0.5]], [[1, 0, 1]], [[nan, 1, 0]]])
    assert overthought(scores) == pytest.approx(1 / 3)
    assert np.isnan(overthought(scores[3:]))


def test_shares_must_rise() -> None:
    with pytest.raises(ValueError, match="at must be numbers that rise within 0 to 1"):
        EarlyAnswers(at=(0.5, 0.25))
