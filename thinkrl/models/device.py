"""Where a model computes."""

from typing import Literal

import torch

from thinkrl.config.component import ConfigError

Device = Literal["auto", "cpu", "cuda"]
"""`auto` is the GPU when there is one, else the processor. `cuda` is the current GPU of the process: with several
GPUs, whoever starts the processes gives each its own (CUDA_VISIBLE_DEVICES, or torch.cuda.set_device)."""


def resolve_device(device: Device) -> torch.device:
    """The device that `device` names on this machine. Raises ConfigError for cuda where there is none."""
    if device == "cpu":
        return torch.device("cpu")
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        build = "this build of torch has no CUDA" if torch.version.cuda is None else "torch sees no GPU"
        raise ConfigError(f"device must be a GPU that is there, got cuda, but {build}: set model.device=cpu or auto")
    return torch.device("cuda", torch.cuda.current_device()) if found else torch.device("cpu")
