"""Prompts from a data set on the Hugging Face Hub."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thinkrl.config.component import PromptCount
from thinkrl.data.rows import USUAL, RowReader, RowSchema
from thinkrl.data.source import DataError, check_template
from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Prompt

_FETCHES: ContextVar[bool] = ContextVar("fetches", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Inside the block, reading a data set that is not on this machine raises DataError instead of fetching it."""
    token = _FETCHES.set(False)
    try:
        yield
    finally:
        _FETCHES.reset(token)


def in_hub_cache(kind: Literal["model", "dataset"], name: str) -> bool:
    """Whether something of that hub id was fetched before, as far as the caches' folders tell."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    fetched = any((hub / f"{kind}s--{name.replace('/', '--')}" / "snapshots").glob("*"))
    prepared = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")) / name.replace("/", "___")
    return fetched or (kind == "dataset" and prepared.is_dir())


@dataclass(frozen=True)
class HubPrompts:
    """Prompts of one split of a Hub data set, in its order. Ids are `<dataset>-<split>-<row>`."""

    dataset: str
    """Id on the Hub, for example openai/gsm8k; also a loader of `datasets` such as json, with `files`."""
    config: str | None = None
    """Configuration of the data set; null for its only one."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit or tag; null takes the newest, which can change under you."""
    files: tuple[str, ...] = ()
    """Files for the json and parquet loaders."""
    schema: RowSchema = USUAL
    """Which columns are what."""
    size: PromptCount = 1_000_000
    """At most this many prompts, from the start of the split."""
    system: str = ""
    """System turn, where the data has none; empty for none."""
    template: str = "{question}"
    """User turn for questions and prompts given as text."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        check_template(self.template)

    def prompts(self) -> Sequence[Prompt]:
        """Downloads or opens the split. Raises DataError when it cannot be reached or read."""
        source = f"{self.dataset.replace('/', '-')}-{self.split}"
        reader = RowReader(self.schema, source, self.system, self.template)
        return [row.prompt for row in reader.read(self.rows(), self.size)]

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Pairs of (where, row) as the split holds them. Raises DataError when it cannot be reached."""
        if not _FETCHES.get() and not self.files and not in_hub_cache("dataset", self.dataset):
            raise DataError(f"{self.dataset} is not on this machine yet")
        # Imported here: it takes seconds, and composing a configuration must not.
        from datasets import load_dataset

        try:
            table = load_dataset(
                self.dataset,
                self.config,
                split=self.split,
                revision=self.revision,
                data_files=list(self.files) or None,
            )
        except Exception as error:
            raise DataError(
                f"cannot load {self.dataset} (config {self.config}, split {self.split}, revision {self.revision}):"
                f" {type(error).__name__}: {error}. Check the names; without a network, load it once on a machine that"
                " has one and copy HF_HOME here, or point a FilePrompts source at a local jsonl or parquet file"
            ) from error
        for number in range(len(table)):
            yield f"{self.dataset} {self.split} row {number}", table[number]


@dataclass(frozen=True)
class HubTraces:
    """Traces of one split of a Hub data set: prompts with the responses that its rows hold."""

    source: HubPrompts
    """The split, and which of its columns are prompt and response."""

    def traces(self) -> Sequence[Trace]:
        """Downloads or opens the split. Raises DataError for a row without a response."""
        split = self.source
        reader = RowReader(
            split.schema, f"{split.dataset.replace('/', '-')}-{split.split}", split.system, split.template
        )
        found = []
        for number, row in enumerate(reader.read(split.rows(), split.size)):
            if row.response is None:
                raise DataError(f"{split.dataset} {split.split} row {number} has no response to learn from")
            found.append(Trace(row.prompt, row.response, row.given))
        return found
