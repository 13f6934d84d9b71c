"""Hydra's configuration loader, for points that Hydra hands on and does not compose."""

from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict


class PointLoader(ConfigLoaderImpl):
    """Composes Hydra's own settings, and keeps the other overrides as they are, under the key `overrides`."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Hydra's settings, and the point's overrides (of the whole sweep: what is swept) beside them."""
        own = [line for line in overrides if _is_hydras(line)]
        point = [line for line in overrides if not _is_hydras(line)]
        config: Any = super().load_configuration(None, own, run_mode, from_shell, validate_sweep_overrides)
        with open_dict(config):
            config.hydra.overrides.task = point
            config.overrides = point
        return config  # type: ignore[no-any-return]


def _is_hydras(override: str) -> bool:
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))
