"""How a sweep's points are found, and where their runs go: Hydra's sweepers and launchers, by the names used here."""

import importlib.util
from dataclasses import dataclass
from enum import StrEnum

from thinkrl.config.component import ConfigError


class Sweeper(StrEnum):
    """How points are found among the values."""

    GRID = "grid"
    RANDOM = "random"
    OPTUNA = "optuna"


class Launcher(StrEnum):
    """Where runs go."""

    LOCAL = "local"
    JOBLIB = "joblib"
    SUBMITIT_LOCAL = "submitit_local"
    SUBMITIT_SLURM = "submitit_slurm"
    RAY = "ray"


PACKAGES = {
    Sweeper.OPTUNA: ("hydra_plugins.hydra_optuna_sweeper", "hydra-optuna-sweeper"),
    Launcher.JOBLIB: ("hydra_plugins.hydra_joblib_launcher", "hydra-joblib-launcher"),
    Launcher.SUBMITIT_LOCAL: ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher"),
    Launcher.SUBMITIT_SLURM: ("hydra_plugins.hydra_submitit_launcher", "hydra-submitit-launcher"),
    Launcher.RAY: ("hydra_plugins.hydra_ray_launcher", "hydra-ray-launcher"),
}
"""The module of each plugin, and the package to install."""
_WEEK_MINUTES = 7 * 24 * 60


@dataclass(frozen=True)
class Means:
    """trials, jobs: how many points in all, and how many runs at a time. seed: of what is drawn or proposed."""

    sweeper: Sweeper = Sweeper.GRID
    launcher: Launcher = Launcher.LOCAL
    jobs: int = 1
    trials: int = 20
    seed: int = 0
    minimize: bool = False

    @property
    def here(self) -> bool:
        """Whether the runs share the processors of this machine."""
        return self.launcher in (Launcher.LOCAL, Launcher.JOBLIB, Launcher.SUBMITIT_LOCAL)

    @property
    def ends_with_command(self) -> bool:
        """Whether a run ends when the command that started it is gone; those of a scheduler go on."""
        return self.launcher in (Launcher.LOCAL, Launcher.JOBLIB)

    @property
    def batch(self) -> int | None:
        """Points that are launched together; None for all. submitit starts all of them on this machine at once."""
        return self.jobs if self.launcher is Launcher.SUBMITIT_LOCAL else None

    def check(self) -> None:
        """Raises ConfigError naming the package of a plugin that is not installed, or jobs that cannot be had."""
        for name in (self.sweeper, self.launcher):
            module, package = PACKAGES.get(name, ("", ""))
            if module and not is_installed(module):
                raise ConfigError(f"{name} needs a plugin of Hydra that is not installed: pip install {package}")
        if self.launcher is Launcher.LOCAL and self.jobs > 1:
            raise ConfigError(
                f"--launcher local runs one at a time; --launcher joblib runs {self.jobs} at a time"
                f" (pip install {PACKAGES[Launcher.JOBLIB][1]})"
            )

    def settings(self, folder: str) -> list[str]:
        """Overrides of Hydra's own configuration. folder: the sweep's, in Hydra's grammar."""
        common = [
            "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.job.chdir=false",
            f"hydra.sweep.dir={folder}", "hydra.sweep.subdir='.'",
        ]  # fmt: skip
        return [*common, *self._launcher(), *self._sweeper()]

    def _launcher(self) -> list[str]:
        own = {
            Launcher.LOCAL: [],
            Launcher.JOBLIB: [f"hydra.launcher.n_jobs={self.jobs}", "hydra.launcher.batch_size=1"],
            Launcher.SUBMITIT_LOCAL: [f"hydra.launcher.timeout_min={_WEEK_MINUTES}"],
            Launcher.SUBMITIT_SLURM: [f"hydra.launcher.array_parallelism={self.jobs}"],
            Launcher.RAY: [f"+hydra.launcher.ray.init.num_cpus={self.jobs}"],
        }[self.launcher]
        return [] if self.launcher is Launcher.LOCAL else [f"hydra/launcher={self.launcher}", *own]

    def _sweeper(self) -> list[str]:
        if self.sweeper is Sweeper.OPTUNA:
            direction = "minimize" if self.minimize else "maximize"
            return [
                "hydra/sweeper=optuna",
                f"hydra.sweeper.n_trials={self.trials}",
                f"hydra.sweeper.n_jobs={self.jobs}",
                f"hydra.sweeper.direction={direction}",
                f"hydra.sweeper.sampler.seed={self.seed}",
                "hydra.sweeper.study_name=thinkrl",
                "hydra.sweeper.max_failure_rate=1.0",  # failed points stop nothing
            ]
        return [f"hydra.sweeper.max_batch_size={self.batch}"] if self.batch else []


def is_installed(module: str) -> bool:
    """Whether a plugin is there."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
