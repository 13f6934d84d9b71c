import pytest
from hydra.types import RunMode

from thinkrl.config.component import ConfigError
from thinkrl.config.paths import recipes_dir
from thinkrl.sweeps.arguments import Asked, first_point, grid, read_arguments
from thinkrl.sweeps.means import PACKAGES, Launcher, Means, Sweeper
from thinkrl.sweeps.multirun import point_loader
from thinkrl.sweeps.random_points import draw
from thinkrl.sweeps.sweep import sweep_name

LOADER = point_loader(recipes_dir() / "quickstart" / "laptop.yaml")


def asked(*overrides: str) -> Asked:
    return read_arguments(overrides, LOADER)


def test_overrides_are_told_apart() -> None:
    found = asked("a=1", "b=1,2", "~c", "hydra.launcher.x=3", "seed=range(3)", "d=[1,2]", "+e=choice(x,y)")
    assert found == Asked(
        fixed=("a=1", "~c", "d=[1,2]"),
        swept=("b=1,2", "+e=choice(x,y)"),
        seeds=(0, 1, 2),
        hydra=("hydra.launcher.x=3",),
    )
    assert asked("seed=4") == Asked(seeds=(4,), seed=4)


def test_the_grid_is_hydras_and_seeds_change_fastest() -> None:
    found = grid(asked("seed=5,6", "a=1,2", "b=range(0,4,2)"), LOADER)
    assert found == [[f"a={a}", f"b={b}", f"seed={s}"] for a in (1, 2) for b in (0, 2) for s in (5, 6)]
    assert grid(asked("a=1"), LOADER) == [[]], "nothing is swept: the recipe itself"


def test_values_keep_their_spelling_and_groups_are_known() -> None:
    assert grid(asked("a='x,y',z", "b=1e-6,3e-6"), LOADER)[0] == ["a='x,y'", "b=1e-06"]
    models = {point[0] for point in grid(asked("model=glob(tiny*)"), LOADER)}
    assert "model=tiny" in models


def test_a_grid_has_no_intervals() -> None:
    with pytest.raises(ConfigError, match="--sweeper random or optuna"):
        grid(asked("a=interval(0,1)"), LOADER)
    assert first_point(asked("a=interval(0.25,1)", "b=x,y"), LOADER) == ("a=0.25", "b=x")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=[1", "cannot be read"),
        ("seed=interval(0,1)", "write the seeds out"),
        ("seed=0,0", "different whole numbers"),
        ("seed=0.5,1", "different whole numbers"),
        ("seed=x", "different whole numbers"),
    ],
)
def test_what_cannot_be_read_is_told(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked(override)


def test_more_seeds_belong_to_the_same_folder_and_other_values_do_not() -> None:
    assert sweep_name(["a=1,2", "seed=0,1"]) == sweep_name(["a=1,2"]) == "sweep_a=1,2"
    assert sweep_name(["a=1,2,3"]) != sweep_name(["a=1,2"])


def test_random_points_are_different_repeatable_and_inside() -> None:
    space = ["a=x,y,z", "b=range(0,10)", "c=interval(2,3)", "d=int(interval(1,4))"]
    points = draw(space, 40, 0, LOADER)
    assert points == draw(space, 40, 0, LOADER)
    assert points[:10] == draw(space, 10, 0, LOADER), "more trials add points and change none"
    assert points != draw(space, 40, 1, LOADER)
    assert len({tuple(point) for point in points}) == 40
    values = [dict(text.split("=") for text in point) for point in points]
    assert {v["a"] for v in values} == {"x", "y", "z"}
    assert {int(v["b"]) for v in values} <= set(range(10))
    assert all(2 <= float(v["c"]) <= 3 for v in values)
    assert {int(v["d"]) for v in values} == {1, 2, 3, 4}


def test_a_small_space_is_drawn_whole() -> None:
    points = draw(["a=1,2", "b=3,4"], 50, 0, LOADER)
    assert sorted(points) == [["a=1", "b=3"], ["a=1", "b=4"], ["a=2", "b=3"], ["a=2", "b=4"]]


def test_intervals_in_the_logarithm_have_half_of_the_draws_below_the_geometric_mean() -> None:
    drawn = [float(point[0].partition("=")[2]) for point in draw(["a=tag(log,interval(1e-6,1e-2))"], 400, 0, LOADER)]
    assert all(1e-6 <= value <= 1e-2 for value in drawn)
    below = sum(value < 1e-4 for value in drawn)
    assert abs(below - 200) < 4 * 10, "four standard deviations of a binomial with n = 400, p = 1/2"


@pytest.mark.parametrize("override", ["a=tag(log,interval(0,1))", "a=interval(1,1)"])
def test_intervals_that_cannot_be_drawn_from_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="interval"):
        draw([override], 1, 0, LOADER)


@pytest.mark.parametrize("name", [Sweeper.OPTUNA, Launcher.JOBLIB, Launcher.SUBMITIT_SLURM, Launcher.RAY])
def test_a_plugin_that_is_missing_is_named_with_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinkrl.sweeps.means.is_installed", lambda module: False)
    means = Means(sweeper=Sweeper(name)) if name == "optuna" else Means(launcher=Launcher(name))
    with pytest.raises(ConfigError, match=f"pip install {PACKAGES[name][1]}"):
        means.check()


def test_jobs_need_a_launcher_that_runs_several() -> None:
    with pytest.raises(ConfigError, match="--launcher joblib runs 3 at a time"):
        Means(jobs=3).check()
    Means().check()


@pytest.mark.parametrize("launcher", Launcher)
def test_settings_are_keys_that_the_launcher_has(launcher: Launcher) -> None:
    if launcher in PACKAGES:
        pytest.importorskip(PACKAGES[launcher][0])
    means = Means(launcher=launcher, jobs=3)
    config = LOADER.load_configuration(None, means.settings("'a folder'"), RunMode.MULTIRUN)
    assert config.hydra.sweep.dir == "a folder"
    own = config.hydra.launcher
    limit = {
        Launcher.LOCAL: lambda: 3,
        Launcher.JOBLIB: lambda: own.n_jobs,
        Launcher.SUBMITIT_LOCAL: lambda: config.hydra.sweeper.max_batch_size,
        Launcher.SUBMITIT_SLURM: lambda: own.array_parallelism,
        Launcher.RAY: lambda: own.ray.init.num_cpus,
    }
    assert limit[launcher]() == 3
