"""Hydra's multirun, with its sweepers and launchers, over points that thinkrl composes itself.

Hydra composes its own settings (`hydra.*`) alone. The overrides of a point are handed to the task function as they are:
how a recipe is composed, and what is wrong with it, is for `thinkrl run` to say, once and in one way.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from thinkrl.config.component import ConfigError
from thinkrl.config.paths import conf_dir
from thinkrl.sweeps.job import Job
from thinkrl.sweeps.loader import PointLoader
from thinkrl.sweeps.means import Means, Sweeper
from thinkrl.sweeps.random_points import RandomSweeper


def multirun(job: Job, arguments: Sequence[str], means: Means, settings: Sequence[str], loader: PointLoader) -> None:
    """Runs every point that the sweeper makes of `arguments`. settings: of the user for Hydra, the last word."""
    version.setbase("1.3")
    overrides = [*means.settings(quoted(str(job.folder))), *settings, *arguments]
    try:
        hydra = Hydra(task_name="thinkrl", config_loader=loader)
        if means.sweeper is Sweeper.RANDOM:
            _sweep(RandomSweeper(means.trials, means.seed, means.batch or means.trials), hydra, job, overrides)
        else:
            hydra.multirun(None, job, overrides, with_log_configuration=False)
    except ValueError as error:
        if means.sweeper is not Sweeper.OPTUNA or "No trials are completed" not in str(error):
            raise  # Optuna looks for the best of nothing; the states say why each point failed
    except HydraException as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ConfigError("\n  ".join(["Hydra cannot run this sweep:", *lines])) from error


def _sweep(sweeper: HydraSweeper, hydra: Hydra, job: Job, overrides: list[str]) -> None:
    """What `Hydra.multirun` does, with a sweeper that is no plugin."""
    config = hydra.compose_config(config_name=None, overrides=overrides, run_mode=RunMode.MULTIRUN)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    sweeper.setup(hydra_context=context, task_function=job, config=config)
    arguments = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(arguments, list)
    sweeper.sweep([str(argument) for argument in arguments])


def point_loader(recipe: Path) -> PointLoader:
    """Hydra's configuration loader, which knows the groups of `recipe` and leaves the overrides of a point alone."""
    search = create_config_search_path(str(recipe.parent))
    search.prepend("thinkrl", f"file://{conf_dir()}")
    return PointLoader(search)


def quoted(text: str) -> str:
    """`text` as a value in Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()
