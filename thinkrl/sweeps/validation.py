"""On which prompts points are compared: validation prompts, which are not those of the test."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from thinkrl.benchmarks.result import measures
from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import suggestion
from thinkrl.data.source import question_text
from thinkrl.reproduction.comparison import VALIDATION
from thinkrl.stages.evaluate import Evaluate
from thinkrl.sweeps.choice import Choice

if TYPE_CHECKING:
    from thinkrl.stages.experiment import Experiment
    from thinkrl.stages.stage import Stage

STAGE = VALIDATION
"""The name of the evaluation that a sweep adds where a recipe has none on validation prompts."""
AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Wanted:
    """What the command line says about the choice. stage: empty for the one that fits. validation: AUTO, NONE, or a
    choice of conf/data."""

    metric: str = ""
    stage: str = ""
    minimize: bool = False
    validation: str = AUTO


def added_stage(experiment: "Experiment", wanted: Wanted) -> tuple[str, ...]:
    """Overrides that give a recipe without validation prompts a last stage that asks some.

    It is the last evaluation once more, with other prompts: further ones of the same generator, which leaves out those
    of the test, or those that `wanted.validation` names. Empty where the recipe validates, where nothing is evaluated,
    where `wanted` says none or names a stage, and where the prompts are not made by a generator.
    """
    tests = _tests(experiment.stages)
    named = wanted.validation not in (AUTO, NONE)
    if wanted.stage or wanted.validation == NONE or not tests or (_validations(experiment.stages) and not named):
        return ()
    if wanted.metric and wanted.metric not in _measured(experiment.stages[tests[-1]]):
        return ()
    test = f"stages.{tests[-1]}"
    if named:
        if experiment.benchmark is None:
            raise ConfigError("--validation DATA changes the prompts of the recipe's `benchmark`, and it has none")
        return (f"+stage@stages.{STAGE}=evaluate", f"+data@stages.{STAGE}.benchmark.prompts={wanted.validation}")
    if not _draws_others(experiment.stages[tests[-1]]):
        return ()
    return (
        f"stages.{STAGE}=${{{test}}}",
        f"stages.{STAGE}.benchmark.prompts.disjoint_from=${{{test}.benchmark.prompts}}",
    )


def choose(experiment: "Experiment", wanted: Wanted) -> tuple[Choice, list[str]]:
    """What decides, and what the user should know of it. Raises ConfigError for names that are not there."""
    stages = experiment.stages
    validations, tests = _validations(stages), _tests(stages)
    stage = wanted.stage or next(iter([*validations[-1:], *tests[-1:]]), "")
    if wanted.stage and wanted.stage not in stages:
        raise ConfigError(f"--stage: there is no stage '{wanted.stage}': {suggestion(wanted.stage, stages)}")
    if stage and wanted.metric in ("", *_measured(stages[stage])) and isinstance(stages[stage], Evaluate):
        test = tests[-1] if tests else ""
        choice = Choice(wanted.metric or "accuracy", stage, test, True, stage in validations, wanted.minimize)
        return choice, _notes(experiment, choice)
    trains = [name for name, one in stages.items() if "model" in one.makes]
    logs = wanted.stage or next(iter(trains[-1:]), "")
    if not logs:
        raise ConfigError("nothing to choose by: the recipe neither evaluates nor trains a model")
    choice = Choice(wanted.metric or "reward/mean", logs, evaluated=False, minimize=wanted.minimize)
    return choice, [f"No validation prompts are asked: the best point is that of the {choice.words}"]


def last_training_stage(experiment: "Experiment") -> str:
    """The last stage that makes a model; empty where none does."""
    return next((name for name, one in reversed(list(experiment.stages.items())) if "model" in one.makes), "")


def _notes(experiment: "Experiment", choice: Choice) -> list[str]:
    if not choice.on_validation:
        reason = "this recipe has no validation prompts" if choice.stage == choice.test_stage else "--stage says so"
        return [
            f"The best point is chosen on test prompts ({reason}), so its {choice.metric} in stage {choice.stage} looks"
            " better than it is: prompts that nothing was chosen on must confirm it"
        ]
    asked = _questions(experiment.stages[choice.stage])
    tested = _questions(experiment.stages[choice.test_stage]) if choice.test_stage else set()
    common = len(asked & tested)
    if common:
        raise ConfigError(
            f"{common} of {len(asked)} validation prompts of stage {choice.stage} are test prompts of stage"
            f" {choice.test_stage}: choose others with --validation, or --validation none to choose on the test"
        )
    trained = {question_text(p) for p in experiment.data.prompts()} if experiment.data is not None else set()
    seen = len(asked & trained)
    if seen:
        return [f"{seen} of {len(asked)} validation prompts are training prompts too (`data`)"]
    return []


def _questions(stage: "Stage") -> set[str]:
    assert isinstance(stage, Evaluate)
    return {question_text(prompt) for prompt in stage.benchmark.selected()}


def _validations(stages: "Mapping[str, Stage]") -> list[str]:
    return [name for name, one in stages.items() if isinstance(one, Evaluate) and name.startswith(VALIDATION)]


def _tests(stages: "Mapping[str, Stage]") -> list[str]:
    return [name for name, one in stages.items() if isinstance(one, Evaluate) and not name.startswith(VALIDATION)]


def _measured(stage: Any) -> tuple[str, ...]:
    if not isinstance(stage, Evaluate):
        return ()
    return measures(stage.benchmark.early.labels if stage.benchmark.early else ())


def _draws_others(stage: Any) -> bool:
    """Whether the prompts come from a generator that can leave some out, and leaves out none yet."""
    prompts = stage.benchmark.prompts
    names = {field.name for field in fields(prompts)}
    return "disjoint_from" in names and prompts.disjoint_from is None
