"""From a command line to a sweep of a real recipe: validation prompts, checks before anything runs, W&B's proposals."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_fakes import FakeRuns
from wandb.errors import CommError, UsageError

from thinkrl.config.component import ConfigError, UserError
from thinkrl.config.compose import compose
from thinkrl.data.source import question_text
from thinkrl.sweeps.means import Means
from thinkrl.sweeps.stopping import MedianStop
from thinkrl.sweeps.sweep import Sweep, plan_sweep
from thinkrl.sweeps.validation import Wanted
from thinkrl.sweeps.wandb_agent import drive, proposed

SMOKE = ("scale=smoke", "tracker=none")


def planned(tmp_path: Path, *overrides: str, wanted: Wanted | None = None, **fields: Any) -> Sweep:
    given = {"means": Means(), "stop": None, **fields}
    return plan_sweep("quickstart", [*SMOKE, *overrides], (), wanted or Wanted(), directory=tmp_path / "sweep", **given)


def questions(stage: dict[str, Any]) -> list[str]:
    from thinkrl.benchmarks.benchmark import Benchmark
    from thinkrl.config.build import build

    return [question_text(prompt) for prompt in build(Benchmark, stage["benchmark"]).selected()]


def test_a_recipe_without_validation_prompts_gets_further_ones_of_the_same_generator(tmp_path: Path) -> None:
    sweep = planned(tmp_path, "stages.grpo.group_size=2,4", "seed=0,1")
    assert (sweep.choice.stage, sweep.choice.test_stage, sweep.choice.on_validation) == (
        "validation",
        "after_grpo",
        True,
    )
    assert sweep.notes == ()
    tree = compose("quickstart", sweep.fixed).tree
    assert list(tree["stages"])[-1] == "validation", "after all that trains"
    test, validation = (questions(tree["stages"][name]) for name in ("after_grpo", "validation"))
    assert len(validation) == len(test) > 0
    assert not set(test) & set(validation)
    trained = compose("quickstart", sweep.fixed).tree["stages"]["validation"]["benchmark"]
    same = {key: value for key, value in trained.items() if key != "prompts"}
    assert same == {key: value for key, value in tree["stages"]["after_grpo"]["benchmark"].items() if key != "prompts"}


def test_at_full_size_validation_prompts_are_held_out_from_training_too(tmp_path: Path) -> None:
    sweep = plan_sweep("quickstart", ["tracker=none"], (), Wanted(), Means(), None, tmp_path / "sweep")
    assert sweep.notes == (), "no validation prompt is a training prompt"


def test_without_validation_prompts_the_command_says_what_it_chooses_on(tmp_path: Path) -> None:
    sweep = planned(tmp_path, wanted=Wanted(validation="none"))
    assert (sweep.choice.stage, sweep.choice.on_validation, sweep.added) == ("after_grpo", False, ())
    assert "chosen on test prompts" in sweep.notes[0]
    assert "accuracy in stage after_grpo" in sweep.notes[0]


def test_a_logged_column_of_the_last_stage_that_trains(tmp_path: Path) -> None:
    sweep = planned(tmp_path, wanted=Wanted(metric="reward/mean"), stop=MedianStop())
    assert (sweep.choice.stage, sweep.choice.evaluated, sweep.added) == ("grpo", False, ())
    assert sweep.stop == MedianStop(stage="grpo")
    assert "reward/mean of stage grpo" in sweep.notes[0]


def test_named_validation_prompts_must_not_be_the_tests(tmp_path: Path) -> None:
    sweep = planned(tmp_path, wanted=Wanted(validation="chain_sum"))
    assert sweep.choice.stage == "validation"
    with pytest.raises(ConfigError, match="8 of 8 validation prompts of stage validation are test prompts"):
        planned(tmp_path, wanted=Wanted(validation="chain_sum_held_out"))
    with pytest.raises(ConfigError, match="did you mean chain_sum"):
        planned(tmp_path, wanted=Wanted(validation="chain_sun"))
    with pytest.raises(ConfigError, match="did you mean after_grpo"):
        planned(tmp_path, wanted=Wanted(stage="after_gpro"))


def test_every_configuration_is_kept_before_the_first_run(tmp_path: Path) -> None:
    sweep = planned(tmp_path, "stages.grpo.learner.learning_rate=1e-6,3e-6", "seed=0,1")
    sweep.begin(sweep.runs)
    rates = set()
    for state in sweep.folder.states():
        config = yaml.safe_load(sweep.folder.config(state.name).read_text())
        assert (state.status, config["seed"]) == ("waiting", state.seed)
        rates.add(config["stages"]["grpo"]["learner"]["learning_rate"])
    assert rates == {1e-6, 3e-6}
    assert len(sweep.folder.states()) == 4


def test_a_mistake_in_any_point_ends_the_command_before_anything_runs(tmp_path: Path) -> None:
    sweep = planned(tmp_path, "algorithm=grpo,rlo")
    with pytest.raises(ConfigError, match="rloo"):
        sweep.run(("false",))
    assert not (tmp_path / "sweep" / "sweep.json").exists()
    with pytest.raises(ConfigError, match="did you mean steps"):
        planned(tmp_path, "stages.grpo.stpes=1,2")


def test_runs_are_one_group_in_wandb_unless_they_are_grouped_already(tmp_path: Path) -> None:
    sweep = plan_sweep("quickstart", ["scale=smoke"], (), Wanted(), Means(), None, tmp_path / "tries")
    assert compose("quickstart", sweep.fixed).tree["tracker"]["group"] == "quickstart/tries"
    own = plan_sweep("quickstart", ["scale=smoke", "tracker.group=mine"], (), Wanted(), Means(), None, tmp_path / "t")
    assert compose("quickstart", own.fixed).tree["tracker"]["group"] == "mine"


def test_a_job_can_be_sent_to_another_process(tmp_path: Path) -> None:
    job = planned(tmp_path, "stages.grpo.group_size=2,4", stop=MedianStop()).job()
    assert pickle.loads(pickle.dumps(job)) == job
    assert job.folder.is_absolute()
    assert Path(job.recipe).is_absolute()


def test_wandbs_agent_proposes_runs_under_its_own_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake agent leaves its proposals where wandb's own (wandb.agents.pyagent) leaves them."""
    fake = FakeRuns(tmp_path, {"1": {"right": {"3": 1}}, "2": {"fails": "no memory"}})
    proposals = [("aa", {"rate": 1, "seed": 3}), ("bb", {"rate": 2, "seed": 3}), ("cc", {"rate": 1, "seed": 3})]
    asked: list[Any] = []

    def agent(sweep_id: str, function: Any, count: int | None) -> None:
        asked.append((sweep_id, count))
        for run_id, values in proposals:
            place = tmp_path / f"config-{run_id}.yaml"
            place.write_text(yaml.safe_dump({"wandb_version": 1, **{k: {"value": v} for k, v in values.items()}}))
            monkeypatch.setenv("WANDB_RUN_ID", run_id)
            monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(place))
            function()

    sweep = plan_sweep("quickstart", ["scale=smoke"], (), Wanted(), Means(), None, tmp_path / "sweep")
    drive(sweep, "team/project/s1", 3, fake.command, agent)
    assert asked == [("team/project/s1", 3)]
    states = {state.tag: state for state in sweep.folder.states()}
    assert {tag: state.status for tag, state in states.items()} == {"aa": "finished", "bb": "failed", "cc": "finished"}
    assert (states["aa"].point, states["aa"].seed) == (("rate=1",), 3)
    assert fake.starts == ["seed3_rate=1_aa", "seed3_rate=2_bb", "seed3_rate=1_cc"]
    with pytest.raises(ConfigError, match="tracker=wandb"):
        drive(planned(tmp_path), "s1", None, fake.command, agent)


@pytest.mark.parametrize("kind", [ValueError, CommError, UsageError])
def test_an_agent_that_gives_up_is_told(kind: type[Exception], tmp_path: Path) -> None:
    def agent(sweep_id: str, function: Any, count: int | None) -> None:
        raise kind("Could not find sweep s1\nmore")

    sweep = plan_sweep("quickstart", ["scale=smoke"], (), Wanted(), Means(), None, tmp_path / "sweep")
    with pytest.raises(UserError, match=r"W&B's agent gave up: Could not find sweep s1$"):
        drive(sweep, "s1", None, ("false",), agent)


def test_proposals_become_overrides(tmp_path: Path) -> None:
    values = {"a.b": 1e-6, "on": True, "none": None, "text": "x y,z", "list": [1, "b"], "group": "rloo"}
    place = tmp_path / "config.yaml"
    place.write_text(yaml.safe_dump({"wandb_version": 1, **{k: {"value": v, "desc": None} for k, v in values.items()}}))
    overrides = proposed({**os.environ, "WANDB_SWEEP_PARAM_PATH": str(place)})
    from hydra.core.override_parser.overrides_parser import OverridesParser

    read = {one.key_or_group: one.value() for one in OverridesParser.create().parse_overrides(overrides)}
    assert read == values
