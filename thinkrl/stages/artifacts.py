"""What a stage hands on: named artifacts, and the ways a later stage asks for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thinkrl.config.component import ConfigError

Kind = Literal["model", "traces", "pairs", "result", "reward_model", "step_values"]

BASE = "base"
"""Names the recipe's base model where a stage's name could stand."""
PREVIOUS = "previous"
"""Names the last stage before that made a model; the base model when there is none."""


@dataclass(frozen=True)
class Artifact:
    """One thing a stage produced. `path` lies in the run directory; `fingerprint` names the work that made it."""

    kind: Kind
    path: Path
    fingerprint: str


@dataclass(frozen=True)
class FromStage:
    """Takes what an earlier stage wrote, traces or pairs, by the stage's name."""

    stage: str
    """Name of the stage, as written in the recipe."""


def find_artifact(produced: Mapping[str, Mapping[str, Artifact]], stage: str, kind: Kind) -> Artifact:
    """The `kind` artifact of `stage`; ConfigError when that stage comes later or makes no such thing."""
    if stage not in produced:
        raise ConfigError(f"no earlier stage is named '{stage}'; earlier stages: {', '.join(produced) or 'none'}")
    for artifact in produced[stage].values():
        if artifact.kind == kind:
            return artifact
    made = ", ".join(artifact.kind for artifact in produced[stage].values()) or "nothing"
    raise ConfigError(f"stage '{stage}' makes no {kind} (it makes: {made})")


def model_stage(produced: Mapping[str, Mapping[str, Artifact]], model_from: str) -> str | None:
    """The stage whose model `model_from` names; None for the base model."""
    if model_from == BASE:
        return None
    if model_from != PREVIOUS:
        return model_from
    made = [name for name, artifacts in produced.items() if "model" in artifacts]
    return made[-1] if made else None


def model_artifact(produced: Mapping[str, Mapping[str, Artifact]], model_from: str) -> Artifact | None:
    """The model that `model_from` names, a stage's policy or its reward model; None for the base model."""
    stage = model_stage(produced, model_from)
    if stage is None:
        return None
    return produced.get(stage, {}).get("reward_model") or find_artifact(produced, stage, "model")
