"""Runs that a sweep of Weights & Biases proposes: its agent asks for one after another, and each is a run here."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wandb
import wandb.errors
import yaml

from thinkrl.config.component import ConfigError, UserError
from thinkrl.sweeps.job import COMMAND, Command, split_seed
from thinkrl.sweeps.sweep import Sweep

Agent = Callable[..., Any]
"""`wandb.agent`, or what stands in for it."""


def drive(
    sweep: Sweep, sweep_id: str, count: int | None, command: Command = COMMAND, agent: Agent | None = None
) -> None:
    """Takes at most `count` runs (None: as many as there are) from the W&B sweep `sweep_id` (`ENTITY/PROJECT/ID` or
    `ID`), and makes each in the sweep's folder, under W&B's id. Several agents may share a folder.

    A run that fails says so in its state and in W&B, and the agent goes on with the next. Raises ConfigError where the
    runs do not report to W&B, UserError where W&B's agent gives up.
    """
    tracker = sweep.tracker
    if not tracker.endswith("WandbTracker"):
        raise ConfigError(f"--wandb needs runs that report to W&B: set tracker=wandb (it is {tracker or 'null'})")
    sweep.begin(())
    job = sweep.job(command)

    def one() -> None:
        point, seed = split_seed(proposed(os.environ))
        job.run(point, sweep.seed if seed is None else seed, os.environ["WANDB_RUN_ID"])

    try:
        (agent or wandb.agent)(sweep_id, function=one, count=count)
    except (wandb.errors.Error, ValueError, RuntimeError) as error:
        raise UserError(f"W&B's agent gave up: {str(error).splitlines()[0]}") from error


def proposed(environment: Mapping[str, str]) -> list[str]:
    """The overrides that W&B's agent proposes to this process: it leaves them in a file."""
    from hydra.core.override_parser.types import Override

    place = Path(environment["WANDB_SWEEP_PARAM_PATH"])
    stored = yaml.safe_load(place.read_text(encoding="utf-8"))
    values = {key: entry["value"] for key, entry in stored.items() if isinstance(entry, dict) and "value" in entry}
    return [f"{key}={Override._get_value_element_as_str(value)}" for key, value in values.items()]
