"""Every recipe: its laptop form runs at smoke scale, its paper form builds, and its claim names what exists."""

from pathlib import Path

import pytest
from cli_process import finish, start

from thinkrl.benchmarks.result import measures
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.config.paths import RecipeFile, list_recipes
from thinkrl.stages.evaluate import Evaluate
from thinkrl.stages.experiment import Experiment
from thinkrl.tracking.metrics import read_rows

RECIPES = list_recipes()
PAPERS = [recipe for recipe in RECIPES if recipe.path.stem == "paper"]
LAPTOPS = [recipe for recipe in RECIPES if recipe.path.stem == "laptop" and recipe.id != "quickstart"]


def built(recipe: RecipeFile, *overrides: str) -> Experiment:
    composed = compose(recipe.path, overrides)
    return build(Experiment, composed.tree, composed)


@pytest.mark.parametrize("recipe", LAPTOPS, ids=lambda recipe: recipe.id)
def test_the_laptop_form_runs_at_smoke_scale(recipe: RecipeFile, tmp_path: Path) -> None:
    args = ["run", recipe.id, "scale=smoke", "tracker=none", "reuse=false", "--dir", str(tmp_path / "run")]
    code = finish(start(args, tmp_path / "log"))
    assert code == 0, (tmp_path / "log").read_text()
    stages = {row["stage"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")}
    assert stages == set(built(recipe).stages)


@pytest.mark.parametrize("recipe", PAPERS, ids=lambda recipe: recipe.id)
def test_the_paper_form_builds_and_says_where_it_differs(recipe: RecipeFile) -> None:
    experiment = built(recipe)
    assert experiment.paper is not None
    assert experiment.paper.arxiv
    assert experiment.deviations


@pytest.mark.parametrize("recipe", LAPTOPS, ids=lambda recipe: recipe.id)
def test_every_arm_of_a_claim_builds_and_every_check_reads_a_stage_that_is_there(recipe: RecipeFile) -> None:
    experiment = built(recipe)
    claim = experiment.claim
    assert claim is not None
    assert claim.checks
    assert all(check.paper is not None for check in claim.checks.values())
    arms = {name: built(recipe, *changes) for name, changes in claim.arms.items()}
    for check in claim.checks.values():
        for arm, stage in ((check.arm, check.stage), (check.against, check.other_stage)):
            stages = arms[arm].stages
            assert stage is None or stage in stages
            if check.statistic == "evaluated":
                evaluations = [one for one in stages.values() if isinstance(one, Evaluate)]
                read = stages[stage] if stage else evaluations[-1]
                assert isinstance(read, Evaluate)
                assert check.metric in measures(read.benchmark.early.labels if read.benchmark.early else ())
