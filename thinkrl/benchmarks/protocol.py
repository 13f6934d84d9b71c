"""What a number was measured under: everything but the model and the seed, hashed and in words."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from hashlib import sha256
from typing import Any

from thinkrl.data.source import json_value
from thinkrl.rollouts.prompt import Prompt

MACHINE_FIELDS = frozenset({"workers"})
"""Fields of components that say how fast something runs, not what comes out: no part of a protocol."""


@dataclass(frozen=True)
class EvaluationProtocol:
    """Two results can be compared when these fields are equal."""

    benchmark: str
    """Name of the benchmark."""
    version: int
    """Version of the benchmark's definition."""
    data: str
    """Fingerprint of the prompts themselves: messages and references, in order."""
    prompts: int
    """How many there are."""
    template: str
    """Fingerprint of the chat template."""
    samples: int
    """Samples a prompt."""
    sampling: dict[str, Any]
    """The sampling specification."""
    environment: dict[str, Any]
    """How prompts become responses."""
    extractor: dict[str, Any]
    """How the answer is found."""
    grader: dict[str, Any]
    """How it is judged."""
    engine: str
    """Kind of sampler."""
    early: dict[str, Any] | None = None
    """How thinking is cut and answered early, where it is."""

    @property
    def hash(self) -> str:
        """16 hex digits over all fields that say something."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.early is None:
            del values["early"]  # what is measured without it is what was measured before it could be
        return digest(values)

    @property
    def words(self) -> str:
        """The protocol in a sentence."""
        sampling = self.sampling
        drawn = f"temperature {sampling['temperature']:g}" if sampling["temperature"] else "most likely tokens"
        cuts = [
            f"{name} {sampling[name]:g}"
            for name, off in (("top_p", 1), ("top_k", 0), ("min_p", 0))
            if sampling[name] != off
        ]
        return (
            f"{self.benchmark} version {self.version}: {self.prompts} prompts, {self.samples} samples each,"
            f" {', '.join([drawn, *cuts])}, at most {sampling['max_new_tokens']} new tokens,"
            f" graded by {self.grader['_target_'].rpartition('.')[2]}, engine {self.engine}"
        )

    def differences(self, other: "EvaluationProtocol") -> list[str]:
        """Names of the fields that differ, down to the keys of nested ones."""
        found: list[str] = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, dict) and isinstance(theirs, dict):
                found += [f"{field.name}.{key}" for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
            elif mine != theirs:
                found.append(field.name)
        return found


def data_fingerprint(prompts: Sequence[Prompt]) -> str:
    """16 hex digits over what is asked and what is right, in order; ids and metadata do not count."""
    return digest([[[(turn.role, turn.content) for turn in p.messages], json_value(p.reference)] for p in prompts])


def describe(component: Any) -> Any:
    """A component as JSON values: its class as `_target_`, then every field but MACHINE_FIELDS, nested ones too."""
    if is_dataclass(component) and not isinstance(component, type):
        kind = type(component)
        names = [field.name for field in fields(component) if field.name not in MACHINE_FIELDS]
        values = {name: describe(getattr(component, name)) for name in names}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **values}
    if isinstance(component, Enum):
        return component.value
    if isinstance(component, dict):
        return {str(key): describe(value) for key, value in component.items()}
    if isinstance(component, list | tuple):
        return [describe(value) for value in component]
    if isinstance(component, float) and component.is_integer():
        return int(component)  # temperature 1 and 1.0 are one protocol
    return json_value(component)


def digest(value: Any) -> str:
    """16 hex digits of JSON values, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]
