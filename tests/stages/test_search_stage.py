"""The search stage: trees as files, traces and step values, the value model trained from them, resume in mid-search."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thinkrl.algorithms.score_loss import ScoreLoss
from thinkrl.companions.reward_model import RewardModel
from thinkrl.config.composed import Composed
from thinkrl.data.judged import JudgedResponse, JudgedText
from thinkrl.data.source import DataError
from thinkrl.data.step_values import read_step_values, write_step_values
from thinkrl.data.traces import read_traces
from thinkrl.grading.number import NumberGrader
from thinkrl.learning.value_model import ValueLearner
from thinkrl.models.tiny import TinyModel
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason
from thinkrl.rollouts.streams import generator
from thinkrl.sampling.sampler import Sample, SampleRequest, SamplingSpec
from thinkrl.search.answers import TraceSelection
from thinkrl.search.growth import Growth
from thinkrl.search.sampled_solutions import SampledSolutions
from thinkrl.search.tree_search import ValueGuidedSearch
from thinkrl.stages.artifacts import FromStage
from thinkrl.stages.experiment import Experiment
from thinkrl.stages.reward_model import TrainRewardModel
from thinkrl.stages.runner import Run, run_experiment
from thinkrl.stages.search import Search
from thinkrl.stages.stage import Stage

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))
from run_contents import files, metric_rows  # type: ignore[import-not-found]

TINY = TinyModel(hidden=32, intermediate=64, layers=2, heads=2, kv_heads=2, tokenizer="character", device="cpu")
_ADDS = 0.7
"""How often the writer adds rightly."""


@dataclass(frozen=True)
class Sums:
    """Sums of three digits."""

    reference: str = ""

    def prompts(self) -> list[Prompt]:
        made = []
        for place in range(6):
            digits = [place + 1, 2 * place % 5, 3]
            gold = self.reference or str(sum(digits))
            made.append(Prompt(f"sum/{place}", (Message("user", "+".join(map(str, digits))),), gold))
        return made


@dataclass(frozen=True)
class WriterSource:
    """Opens a sampler that adds up, a line a step, wrongly now and then."""

    answers: bool = True

    def check(self) -> None:
        pass

    def open(self, policy: Any) -> "Writer":
        return Writer(policy, self.answers)


@dataclass
class Writer:
    policy: Any
    answers: bool
    version: int = 0
    calls: list[int] = field(default_factory=list)

    def sample(self, requests: Sequence[SampleRequest], spec: SamplingSpec) -> list[list[Sample]]:
        self.calls.append(len(requests))
        return [[self.one(request, key, spec) for key in request.stream_keys] for request in requests]

    def one(self, request: SampleRequest, key: int, spec: SamplingSpec) -> Sample:
        tokenizer, text = self.policy.tokenizer, ""
        given = tokenizer.decode(request.prompt_ids.tolist(), clean_up_tokenization_spaces=False)
        question, _, solution = given.partition("<|im_end|>\n<|im_start|>assistant\n")
        digits = [int(digit) for digit in question.rpartition("\n")[2].split("+")]
        stream = generator("writer", key)
        while not text or not (spec.stop and text.endswith(spec.stop)):
            lines = (solution + text).splitlines()
            if len(lines) == 2:
                text += f"<answer>{lines[-1].rpartition('=')[2]}</answer>" if self.answers else "so"
                break
            left = int(lines[-1].rpartition("=")[2]) if lines else digits[0]
            result = left + digits[len(lines) + 1] + (0 if stream.random() < _ADDS else int(stream.integers(1, 4)))
            text += f"{left}+{digits[len(lines) + 1]}={result}\n"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += [] if text.endswith("\n") else [tokenizer.eos_token_id]
        blank = np.zeros(len(ids), np.float32)
        return Sample(np.asarray(ids, dtype=np.int32), blank, blank, FinishReason.STOP, 0)

    def sync(self, version: int) -> str:
        return ""

    def close(self) -> None:
        pass


def search(**changes: Any) -> Search:
    sizes: dict[str, Any] = {"prompt_count": 6, "prompts_per_step": 3, "checkpoint_rounds": 2, "model_from": "base"}
    given: dict[str, Any] = {
        "prompts": Sums(), "sampler": WriterSource(), "grader": NumberGrader(),
        "search": ValueGuidedSearch(rounds=5, branches=2, end_value=1.0),
        "value": RewardModel(model_from="value", dtype="float32", device="cpu"),
    }  # fmt: skip
    return Search(**(sizes | given | changes))


def samples(**changes: Any) -> Search:
    plain = {"value": None, "answer": "vote", "selection": TraceSelection(None), "search": SampledSolutions(samples=6)}
    return search(**(plain | changes))


def value(**changes: Any) -> TrainRewardModel:
    given: dict[str, Any] = {
        "responses": FromStage("samples"), "model_from": "base", "loss": ScoreLoss("squared"), "held_out": 0.2,
        "learner": ValueLearner(learning_rate=3e-3), "epochs": 100, "max_steps": 8, "batch_size": 32,
    }  # fmt: skip
    return TrainRewardModel(**(given | changes))


def pipeline() -> dict[str, Stage]:
    again = value(responses=FromStage("search"), continues="value", max_steps=2)
    return {"samples": samples(), "value": value(), "search": search(), "again": again}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    torch.set_num_threads(1)

    def started(directory: str, stages: dict[str, Stage]) -> Run:
        tree = {"model": {"source": "tiny"}, "seed": 0, "stages": {name: {"n": 1} for name in stages}}
        experiment = Experiment(name="search", model=TINY, stages=stages, reuse=False)
        return run_experiment(experiment, Composed(tree, {}, "search", tmp_path / "s.yaml"), tmp_path / directory)

    return started


def trees(run: Run, stage: str) -> dict[str, str]:
    folder = run.produced[stage]["traces"].path.parent / "search"
    return {path.name: path.read_text() for path in sorted(folder.glob("*.json"))}


def test_values_from_samples_guide_a_search_whose_finds_are_handed_on(run: Any, monkeypatch: Any) -> None:
    made = run("whole", pipeline())
    rows = {name: [row for row in metric_rows(made.directory) if row["stage"] == name] for name in pipeline()}
    assert {name: len(found) for name, found in rows.items()} == {"samples": 2, "value": 8, "search": 2, "again": 2}
    assert rows["value"][-1]["loss"] < rows["value"][0]["loss"]
    last = rows["search"][-1]
    assert (last["asked_prompts"], last["rounds"], last["no_answer"], last["ungradable"]) == (3.0, 5.0, 0.0, 0.0)
    assert last["found"] > 0
    held = {name: json.loads(text) for name, text in trees(made, "search").items()}
    assert [name[:6] for name in held] == [f"{place:06d}" for place in range(6)]
    assert len({tree["prompt_id"] for tree in held.values()}) == 6
    right = sum(tree["verdict"] == "correct" for tree in held.values())
    assert right / 6 == pytest.approx(sum(row["solved"] for row in rows["search"]) / 2)
    sampled = sum(tree["tokens"] for tree in held.values())
    assert sampled == sum(row["sampled_tokens"] for row in rows["search"])

    traces = read_traces(made.produced["search"]["traces"].path)
    assert len(traces) == sum(row["yield/traces"] for row in rows["search"]) > 0
    for trace in traces:
        assert trace.response.endswith(f"<answer>{trace.prompt.reference}</answer>")
    worth = read_step_values(made.produced["search"]["step_values"].path)
    assert len(worth) == sum(row["yield/values"] for row in rows["search"]) > len(traces)
    assert all(0.0 <= one.worth <= 1.0 for one in worth)
    full = {one.response: one.worth for one in worth if "<answer>" in one.response}
    assert all(full[trace.response] == pytest.approx(1.0) for trace in traces)


def test_killed_in_the_middle_of_a_search(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, plain = run("whole", pipeline()), Growth.grow
    # Two batches with five rounds each, and a look that finds all done; a checkpoint after two and after four rounds.
    for call, left in ((3, 4 + 6), (6, 2 + 6), (11, 2)):
        counted: list[str] = []

        def failing(self: Growth, *arguments: Any, call: int = call, counted: list[str] = counted) -> bool:
            counted.append(self.stage)
            if counted.count("search") == call:
                raise RuntimeError("killed")
            return plain(self, *arguments)

        monkeypatch.setattr(Growth, "grow", failing)
        with pytest.raises(RuntimeError, match="killed"):
            run(f"parted{call}", pipeline())
        parted = run(f"parted{call}", pipeline())
        assert counted.count("search") == call + left
        assert json.dumps(metric_rows(parted.directory)) == json.dumps(metric_rows(whole.directory))
        assert files(parted.directory) == files(whole.directory)
        for stage in ("samples", "search"):
            assert trees(parted, stage) == trees(whole, stage)


def test_a_search_without_any_answer_is_counted_and_never_wrong(run: Any, tmp_path: Path) -> None:
    made = run("silent", {"samples": samples(sampler=WriterSource(answers=False))})
    for row in metric_rows(made.directory):
        assert (row["no_answer"], row["solved"], row["ends/unanswered"]) == (3.0, 0.0, 1.0)
        assert np.isnan(float(row["accuracy"])) if row["accuracy"] is not None else True
    assert all(json.loads(text)["verdict"] is None for text in trees(made, "samples").values())
    assert all('"verdict": "wrong"' not in text for text in trees(made, "samples").values())
    assert read_traces(made.produced["samples"]["traces"].path) == []
    assert read_step_values(made.produced["samples"]["step_values"].path) == []


def test_a_reference_that_cannot_be_read_is_ungradable_and_teaches_nothing(run: Any) -> None:
    made = run("unread", {"samples": samples(prompts=Sums(reference="many"))})
    for row in metric_rows(made.directory):
        assert (row["ungradable"], row["no_answer"], row["yield/values"], row["yield/traces"]) == (3.0, 0.0, 0.0, 0.0)
        assert row["solved"] is None or np.isnan(float(row["solved"]))
        assert row["found"] == 0.0


def test_learning_from_a_search_that_found_nothing_says_so(run: Any) -> None:
    stages: dict[str, Stage] = {"samples": samples(sampler=WriterSource(answers=False)), "value": value()}
    with pytest.raises(Exception, match="0 prompts have responses to learn from"):
        run("nothing", stages)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": None}, "value must be given for ValueGuidedSearch, which values guide, got null"),
        ({"value": None, "search": SampledSolutions()}, "answer must be 'vote' where there is no value model"),
        (
            {"value": None, "search": SampledSolutions(), "answer": "vote"},
            "selection.minimum_value must be null where there is no value model, got 0.2",
        ),
        (
            {"value": RewardModel(model_from="value", reads=JudgedText("answer"))},
            "value.reads.part must be 'response', got 'answer'",
        ),
        ({"finish_tries": -1}, "finish_tries must be 0 or more, got -1"),
        ({"checkpoint_rounds": 0}, "checkpoint_rounds must be at least 1, got 0"),
        ({"prompts_per_step": 0}, "prompts_per_step must be at least 1, got 0"),
    ],
)
def test_searches_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**changes)


def test_a_value_model_that_no_stage_trained_is_refused() -> None:
    assert search().needs() == (("value", "reward_model"),)
    assert samples().needs() == ()
    assert value(continues="old").needs() == (("samples", "traces"), ("old", "reward_model"))
    with pytest.raises(ValueError, match="must read a reward_model, got stage 'value', which makes none"):
        Experiment(name="x", model=TINY, stages={"value": samples(), "search": search()})


def test_step_values_read_back(tmp_path: Path) -> None:
    given = [JudgedResponse(Sums().prompts()[0], "1+0=1\n", 1 / 3), JudgedResponse(Sums().prompts()[1], "", 0.0)]
    path = write_step_values(tmp_path / "values.jsonl", given)
    assert read_step_values(path) == given
    path.write_text(json.dumps({"response": "x", "worth": 1}) + "\n")
    with pytest.raises(DataError, match=r"values\.jsonl.*expected the keys"):
        read_step_values(path)
