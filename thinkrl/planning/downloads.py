"""The models, data sets and files that a recipe reads, and whether they are on this machine already."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thinkrl.data.hub import in_hub_cache

Kind = Literal["model", "data set", "file"]


@dataclass(frozen=True)
class Need:
    """Something a recipe reads. here: whether it is on this machine."""

    kind: Kind
    name: str
    here: bool

    def __str__(self) -> str:
        state = "on this machine" if self.here else "missing" if self.kind == "file" else "to be downloaded"
        return f"{self.kind} {self.name}: {state}"


def needs(tree: Mapping[str, Any]) -> list[Need]:
    """What the model and the stages of a composed recipe read, models first, each once. Nothing is opened."""
    found = [*_needs(tree.get("model")), *_needs(tree.get("stages"))]
    order: tuple[Kind, ...] = ("model", "data set", "file")
    return sorted(dict.fromkeys(found), key=lambda need: order.index(need.kind))


def _needs(node: Any) -> Iterator[Need]:
    if isinstance(node, Mapping):
        name = str(node.get("_target_", "")).rpartition(".")[2]
        if name == "PretrainedModel" and node.get("source"):
            source = str(node["source"])
            yield Need("model", source, Path(source).is_dir() or _packaged(source) or in_hub_cache("model", source))
        elif name == "HubPrompts" and node.get("dataset"):
            dataset = str(node["dataset"])
            yield Need("data set", dataset, in_hub_cache("dataset", dataset))
        elif name == "FilePrompts" and node.get("path"):
            yield Need("file", str(node["path"]), Path(str(node["path"])).is_file())
        for value in node.values():
            yield from _needs(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _needs(value)


def _packaged(source: str) -> bool:
    from thinkrl.models.packaged import PACKAGED_MODELS

    return source in PACKAGED_MODELS
