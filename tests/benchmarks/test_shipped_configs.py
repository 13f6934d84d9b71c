from pathlib import Path
from typing import Any

import pytest

from thinkrl.benchmarks.benchmark import Benchmark
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.config.paths import conf_dir
from thinkrl.data.reasoning_gym import ReasoningGymPrompts
from thinkrl.data.source import PromptSource, question_text
from thinkrl.data.traces import TraceSource
from thinkrl.environments.environment import Environment
from thinkrl.rollouts.spans import read_response

TRACES = {"chain_sum_traces", "lookup_traces"}


def shipped(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def built(folder: Path, group: str, name: str, kind: Any, *overrides: str) -> Any:
    recipe = folder / "recipe.yaml"
    # Training data may leave out what the benchmark of the same name asks.
    asked = f"  - /benchmark: {name}\n" if group == "data" and name in shipped("benchmark") else ""
    recipe.write_text(f"# A recipe for a test.\ndefaults:\n  - /base\n{asked}  - /{group}: {name}\n  - _self_\n")
    composed = compose(recipe, overrides)
    return build(kind, composed.tree[group], composed, group)


@pytest.mark.parametrize("name", shipped("benchmark"))
def test_benchmarks_build(tmp_path: Path, name: str) -> None:
    assert built(tmp_path, "benchmark", name, Benchmark).name == name


@pytest.mark.parametrize("name", shipped("environment"))
def test_environments_build(tmp_path: Path, name: str) -> None:
    built(tmp_path, "environment", name, Environment)


@pytest.mark.parametrize("name", shipped("data"))
def test_data_build(tmp_path: Path, name: str) -> None:
    kind: Any = TraceSource if name in TRACES else PromptSource
    built(tmp_path, "data", name, kind, *(["data.path=x.jsonl"] if name == "file" else []))


@pytest.mark.parametrize("group", ["data", "environment", "benchmark"])
def test_the_first_line_says_what_a_file_is(group: str) -> None:
    for path in (conf_dir() / group).glob("*.yaml"):
        assert path.read_text().startswith("# "), path


def test_training_sums_leave_out_what_the_benchmark_asks(tmp_path: Path) -> None:
    held_out = {question_text(prompt) for prompt in built(tmp_path, "benchmark", "chain_sum", Benchmark).selected()}
    train = built(tmp_path, "data", "chain_sum", PromptSource)
    assert isinstance(train, ReasoningGymPrompts)
    asked = {question_text(prompt) for prompt in train.prompts()}
    traces = built(tmp_path, "data", "chain_sum_traces", TraceSource).traces()
    learned = {question_text(trace.prompt) for trace in traces}
    assert (len(held_out), len(asked), len(learned)) == (100, 1000, 360)
    assert not held_out & (asked | learned)
    assert all(read_response(trace.response).well_formed for trace in traces)


def test_smoke_scale_holds_out_the_same_questions_on_both_sides(tmp_path: Path) -> None:
    small = built(tmp_path, "data", "chain_sum", PromptSource, "scale=smoke")
    benchmark = built(tmp_path, "benchmark", "chain_sum", Benchmark, "scale=smoke")
    assert small.disjoint_from == benchmark.prompts
    assert len(small.prompts()) == small.size < 100
