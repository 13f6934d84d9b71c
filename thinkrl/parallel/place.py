"""Where this process stands among those that work on one run: what a launcher says in the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from thinkrl.config.component import ConfigError

FIRST_PORT, PORTS = 20_000, 20_000
"""Ports that Slurm's jobs are spread over, by job number."""


@dataclass(frozen=True)
class Place:
    """rank: number of this process, from 0, of `size`. local_rank: its number on this machine, which is its device's.
    address, port: where the first rank answers."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int

    def environment(self) -> dict[str, str]:
        """The place in the words that every launcher uses."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


ALONE = Place(rank=0, size=1, local_rank=0, address="localhost", port=0)


def find_place(environment: Mapping[str, str]) -> Place | None:
    """The place that thinkrl's own launcher, torchrun, deepspeed or srun gave this process; None without any of them.

    Raises ConfigError when half of it is missing.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _place(environment, "RANK", "WORLD_SIZE", "LOCAL_RANK")
    # A batch script has SLURM_PROCID too; only srun starts several processes, and says how many.
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        job = int(environment.get("SLURM_JOB_ID", "0"))
        defaults = {
            "MASTER_ADDR": first_host(environment.get("SLURM_STEP_NODELIST", "localhost")),
            "MASTER_PORT": str(FIRST_PORT + job % PORTS),
        }
        return _place({**defaults, **environment}, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    return None


def _place(environment: Mapping[str, str], rank: str, size: str, local_rank: str) -> Place:
    names = (rank, size, local_rank, "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ConfigError(f"{rank} is set but {', '.join(missing)} is not: start every process with the same launcher")
    try:
        own, all_of_them, here, port = (int(environment[name]) for name in (rank, size, local_rank, "MASTER_PORT"))
    except ValueError as error:
        raise ConfigError(f"{rank}, {size}, {local_rank} and MASTER_PORT must be whole numbers: {error}") from error
    return Place(own, all_of_them, here, environment["MASTER_ADDR"], port)


def first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes: `gpu[03-05,9],login1` gives `gpu03`."""
    found = re.match(r"([^\[,]+)(?:\[([0-9]+))?", nodes)
    if found is None:
        raise ConfigError(f"SLURM_STEP_NODELIST must name a node, got {nodes!r}")
    return found[1] + (found[2] or "")
