import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.benchmarks.evaluate import evaluate_model
from thinkrl.benchmarks.protocol import data_fingerprint
from thinkrl.benchmarks.result import BenchmarkResult, ProtocolMismatch, ResultError, compare
from thinkrl.data.length import OverlongPolicy
from thinkrl.data.source import DataError
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.mathematics import MathGrader
from thinkrl.grading.number import NumberGrader
from thinkrl.grading.verdict import Verdict
from thinkrl.models.tiny import TinyModel, tiny_tokenizer
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason
from thinkrl.sampling.sampler import Sample, SamplingSpec
from thinkrl.sampling.torch_sampler import TorchSampler

TOKENIZER = tiny_tokenizer("byte", ("<think>", "</think>", "<answer>", "</answer>"))
TEXTS = {
    "a": ["<think>1 + 1</think><answer>2</answer>", "<think>12</think><answer>3</answer>"],
    "b": ["<answer>5</answer>", "no answer"],
    "c": ["<think>x</think><answer>1</answer>", "<think>x</think><answer>1</answer>"],
}


@dataclass(frozen=True)
class Given:
    rows: tuple[Prompt, ...]

    def prompts(self) -> Sequence[Prompt]:
        return self.rows


PROMPTS = (
    Prompt("a", (Message("user", "1 + 1?"),), "2"),
    Prompt("b", (Message("user", "2 + 3?"),), "5"),
    Prompt("c", (Message("user", "unknown"),), "not a number"),
)
BENCHMARK = Benchmark(
    name="sums",
    version=1,
    prompts=Given(PROMPTS),
    environment=SingleTurn(),
    sampling=SamplingSpec(max_new_tokens=64),
    extractor=AnswerExtractor(),
    grader=NumberGrader(),
    samples=2,
)


class Writer:
    """Writes the given texts, the last one cut at the limit."""

    version = 3

    def __init__(self, texts: dict[str, list[str]], order: str = "abc") -> None:
        self.texts, self.order = texts, order

    def sample(self, requests: Any, spec: SamplingSpec) -> list[list[Sample]]:
        return [[self._one(text) for text in self.texts[name]] for name in self.order[: len(requests)]]

    def sync(self, version: int) -> str:
        return ""

    def _one(self, text: str) -> Sample:
        cut = text == "no answer"
        ids = np.asarray(TOKENIZER(text + ("" if cut else "<|im_end|>"))["input_ids"], dtype=np.int32)
        zeros = np.zeros(len(ids), dtype=np.float32)
        return Sample(ids, zeros, zeros, FinishReason.LENGTH if cut else FinishReason.STOP, self.version)


def policy(name: str = "model", tokenizer: Any = TOKENIZER) -> Any:
    return SimpleNamespace(tokenizer=tokenizer, stop_ids=frozenset({tokenizer.eos_token_id}), name=name)


def measure(benchmark: Benchmark = BENCHMARK, texts: dict[str, list[str]] = TEXTS, **fields: Any) -> BenchmarkResult:
    return evaluate_model(policy(**fields), benchmark, Writer(texts), seed=0)[0]


def test_numbers_by_hand() -> None:
    result, rollouts = evaluate_model(policy(), BENCHMARK, Writer(TEXTS), seed=0)
    right, wrong, no = Verdict.CORRECT, Verdict.WRONG, Verdict.UNGRADABLE
    assert result.verdicts == ((right, wrong), (right, wrong), (no, no))
    assert result.answers == (("2", "3"), ("5", None), ("1", "1"))
    assert (result.n, result.k) == (3, 2)
    assert result.accuracy == 0.5  # the ungradable prompt is left out, not counted as 0
    assert result.pass_at == {1: 0.5, 2: 1.0}
    assert result.majority == 0.75  # a tie between 2 and 3, then 5 against nothing
    assert result.mean("format_rate") == pytest.approx(4 / 6)
    assert result.mean("thinking_tokens") == pytest.approx((5 + 2 + 0 + 0 + 1 + 1) / 6)
    assert result.mean("response_tokens") == pytest.approx((11 + 8 + 4 + 9 + 7 + 7) / 6)
    assert result.mean("truncation_rate") == pytest.approx(1 / 6)
    assert result.metrics()["ungradable"] == 2
    assert result.measured("thinking_tokens").tolist() == [[5, 2], [0, 0], [1, 1]]
    with pytest.raises(ValueError, match="metric must be one of accuracy, format_rate"):
        result.measured("speed")
    assert result.flat_verdicts() == [v.value for v in (right, wrong, right, wrong, no, no)]
    assert rollouts.texts == tuple(text for name in "abc" for text in TEXTS[name])
    assert [rollouts.prompt(row).prompt_id for row in range(6)] == ["a", "a", "b", "b", "c", "c"]


def test_json_round_trip() -> None:
    result = measure()
    text = result.to_json()
    assert BenchmarkResult.from_json(text) == result
    stored = json.loads(text)
    assert stored["summary"]["accuracy"] == 0.5
    assert stored["protocol_id"]["hash"] == result.protocol.hash
    assert "3 prompts, 2 samples each, temperature 1, at most 64 new tokens" in stored["protocol_id"]["words"]
    assert "graded by NumberGrader, engine Writer" in stored["protocol_id"]["words"]


def test_json_without_a_number_is_still_json() -> None:
    result = measure(replace(BENCHMARK, prompts=Given(PROMPTS[2:])), {"a": TEXTS["c"]})
    assert isnan(result.accuracy)
    assert json.loads(result.to_json(), parse_constant=pytest.fail)["summary"]["accuracy"] is None


def test_an_edited_protocol_is_noticed() -> None:
    stored = json.loads(measure().to_json())
    stored["protocol"]["sampling"]["temperature"] = 0.6
    with pytest.raises(ResultError, match="the result was edited"):
        BenchmarkResult.from_json(json.dumps(stored))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"summary": 1, "protocol_id": {}}'])
def test_other_texts_are_no_results(text: str) -> None:
    with pytest.raises(ResultError, match="this is no benchmark result"):
        BenchmarkResult.from_json(text)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampling": SamplingSpec(temperature=0.6, max_new_tokens=64)}, "sampling.temperature"),
        ({"sampling": SamplingSpec(max_new_tokens=65)}, "sampling.max_new_tokens"),
        ({"sampling": SamplingSpec(max_new_tokens=64, stop=("x",))}, "sampling.stop"),
        ({"grader": NumberGrader(relative_tolerance=0.1)}, "grader.relative_tolerance"),
        ({"extractor": AnswerExtractor(sources=("answer_tag", "boxed"))}, "extractor.sources"),
        ({"environment": SingleTurn(overlong=OverlongPolicy.DROP)}, "environment.overlong"),
        ({"version": 2}, "version"),
        ({"name": "other"}, "benchmark"),
        ({"prompts": Given((*PROMPTS[:2], replace(PROMPTS[2], reference="7")))}, "data"),
    ],
)
def test_every_part_of_the_protocol_changes_the_hash_and_is_named(change: dict[str, Any], field: str) -> None:
    first, second = measure(), measure(replace(BENCHMARK, **change))
    assert first.protocol.hash != second.protocol.hash
    assert first.protocol.differences(second.protocol) == [field]
    with pytest.raises(ProtocolMismatch, match=f"these fields differ: {field}"):
        compare(first, second)


def test_samples_template_and_engine_belong_to_the_protocol() -> None:
    first = measure()
    single = measure(replace(BENCHMARK, samples=1), {name: rows[:1] for name, rows in TEXTS.items()})
    assert first.protocol.differences(single.protocol) == ["samples"]
    other = tiny_tokenizer("byte", ("<think>", "</think>", "<answer>", "</answer>"))
    other.chat_template = "{{ '\n' }}" + str(other.chat_template)
    assert first.protocol.differences(measure(tokenizer=other).protocol) == ["template"]

    class Other(Writer):
        pass

    engine = evaluate_model(policy(), BENCHMARK, Other(TEXTS), seed=0)[0]
    assert first.protocol.differences(engine.protocol) == ["engine"]


def test_one_and_one_point_zero_are_one_protocol() -> None:
    whole = measure(replace(BENCHMARK, sampling=SamplingSpec(temperature=1, max_new_tokens=64)))
    assert whole.protocol.hash == measure().protocol.hash


def test_how_fast_grading_runs_is_no_part_of_the_protocol() -> None:
    two, four = (measure(replace(BENCHMARK, grader=MathGrader(workers=count))) for count in (2, 4))
    slow = measure(replace(BENCHMARK, grader=MathGrader(timeout_seconds=9.0)))
    assert two.protocol.hash == four.protocol.hash != slow.protocol.hash


def test_model_seed_and_prompt_ids_do_not() -> None:
    first = measure()
    renamed = tuple(replace(prompt, prompt_id=f"{prompt.prompt_id}2") for prompt in PROMPTS)
    second = evaluate_model(policy("other"), replace(BENCHMARK, prompts=Given(renamed)), Writer(TEXTS), seed=9)[0]
    assert first.protocol.hash == second.protocol.hash


def test_comparison_pairs_prompts_by_id() -> None:
    better = {**TEXTS, "b": [TEXTS["b"][0]] * 2}
    first, second = measure(), measure(texts=better)
    comparison = compare(first, second)
    assert comparison.paired.difference == pytest.approx(0.25)
    assert comparison.paired.prompts == 2
    reordered = evaluate_model(
        policy(), replace(BENCHMARK, prompts=Given(PROMPTS[::-1])), Writer(better, order="cba"), seed=0
    )[0]
    forced = compare(first, reordered, force=True)
    assert forced.differing == ("data",)
    assert forced.paired == comparison.paired


def test_nothing_in_common_cannot_be_compared() -> None:
    renamed = tuple(replace(prompt, prompt_id=f"{prompt.prompt_id}2") for prompt in PROMPTS)
    with pytest.raises(ValueError, match="must have prompts in common"):
        compare(measure(), measure(replace(BENCHMARK, prompts=Given(renamed))))


def test_long_prompts_are_counted() -> None:
    long = Prompt("long", (Message("user", "y" * 100),), "1")
    prompts = Given((PROMPTS[0], long, PROMPTS[1]))
    drop = SingleTurn(max_prompt_tokens=60, overlong=OverlongPolicy.DROP)
    dropped = measure(replace(BENCHMARK, prompts=prompts, environment=drop))
    assert (dropped.n, dropped.dropped, dropped.shortened) == (2, 1, 0)
    assert dropped.prompt_ids == ("a", "b")
    cut = SingleTurn(max_prompt_tokens=60, overlong=OverlongPolicy.TRUNCATE_LEFT)
    shortened = measure(replace(BENCHMARK, prompts=prompts, environment=cut))
    assert (shortened.n, shortened.dropped, shortened.shortened) == (3, 0, 1)


def test_max_prompts_and_no_prompts() -> None:
    assert measure(replace(BENCHMARK, max_prompts=1)).prompt_ids == ("a",)
    with pytest.raises(DataError, match="benchmark sums has no prompts"):
        measure(replace(BENCHMARK, prompts=Given(())))
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        replace(BENCHMARK, samples=0)


def test_data_fingerprint_reads_what_is_asked_and_what_is_right() -> None:
    base = data_fingerprint(PROMPTS)
    assert data_fingerprint(PROMPTS[::-1]) != base
    assert data_fingerprint((replace(PROMPTS[0], metadata={"x": 1}), *PROMPTS[1:])) == base
    assert data_fingerprint((replace(PROMPTS[0], messages=(Message("system", "1 + 1?"),)), *PROMPTS[1:])) != base


def test_a_real_model_twice_gives_the_same_result() -> None:
    torch.set_num_threads(1)
    tiny = TinyModel(hidden=32, intermediate=64, layers=1, heads=2, kv_heads=1).load(seed=0)
    benchmark = replace(BENCHMARK, sampling=SamplingSpec(max_new_tokens=8))
    first, second = (evaluate_model(tiny, benchmark, TorchSampler().open(tiny), seed=1)[0] for _ in range(2))
    assert first == second
    assert first.to_json() == second.to_json()
    assert compare(first, second).paired.difference == 0
    assert first.accuracy == 0
