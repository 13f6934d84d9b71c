"""Comparisons: a question with better and worse responses, as benchmarks of reward models and preference data hold
them, and the prompts by which a policy is asked to tell them apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from thinkrl.config.component import PromptCount
from thinkrl.data.files import check_file, read_rows
from thinkrl.data.hub import HubPrompts
from thinkrl.data.rows import read_turns
from thinkrl.data.source import DataError, json_value
from thinkrl.data.templates import PromptTemplate
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.streams import generator

PLACES = ("question", "conversation", "first", "second")
"""Places that the template of a judging prompt may have."""


@dataclass(frozen=True)
class Comparison:
    """A conversation up to the response, and responses to it: each of `chosen` is better than each of `rejected`."""

    comparison_id: str
    messages: tuple[Message, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last user turn."""
        return next((turn.content for turn in reversed(self.messages) if turn.role == "user"), "")


class ComparisonSource(Protocol):
    """A frozen dataclass that yields the same comparisons, in the same order, each time it is asked."""

    def comparisons(self) -> Sequence[Comparison]:
        """All comparisons. Raises DataError when there are none or they cannot be read."""
        ...


@dataclass(frozen=True)
class ComparisonColumns:
    """Which columns of a row are what; RewardBench's (arXiv 2403.13787), where nothing is said.

    Responses are a text, a list of texts (RM-Bench, arXiv 2410.16184: `chosen` and `rejected` in three styles each),
    or a conversation of turns whose last is the response; the turns before it are the prompt, where there is no column
    for that.
    """

    prompt: str = "prompt"
    """Column with the prompt, a text or turns."""
    chosen: str = "chosen"
    """Column with the better response, or responses."""
    rejected: str = "rejected"
    """Column with the worse response, or responses."""
    subset: str = ""
    """Column with the name of the subset, such as `subset` (RewardBench) or `domain` (RM-Bench); empty for none."""
    identity: str = ""
    """Column with a unique id; empty: the row's number."""

    def read(self, rows: Iterator[tuple[str, Mapping[str, Any]]], source: str, size: int) -> list[Comparison]:
        """The first `size` rows. Raises DataError naming the row that cannot be read."""
        found = []
        for number, (where, row) in enumerate(islice(rows, size)):
            try:
                found.append(self._comparison(row, f"{source}-{number}"))
            except (ValueError, TypeError) as error:
                raise DataError(f"{where}: {error}") from error
        if not found:
            raise DataError(f"{source} holds no rows")
        return found

    def _comparison(self, row: Mapping[str, Any], number: str) -> Comparison:
        before, chosen = _responses(_value(row, self.chosen), self.chosen)
        other, rejected = _responses(_value(row, self.rejected), self.rejected)
        if row.get(self.prompt) is not None:
            messages = read_turns(row[self.prompt])
        elif before and before == other:
            messages = before
        elif before and other:
            raise ValueError(f"{self.chosen} and {self.rejected} must answer the same prompt")
        else:
            raise ValueError(f"no value in column {self.prompt!r}; the columns are {sorted(row)}")
        subset = str(_value(row, self.subset)) if self.subset else ""
        name = str(_value(row, self.identity)) if self.identity else number
        return Comparison(name, messages, chosen, rejected, subset)


def _value(row: Mapping[str, Any], column: str) -> Any:
    if row.get(column) is None:
        raise ValueError(f"no value in column {column!r}; the columns are {sorted(row)}")
    return row[column]


def _responses(value: Any, column: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The turns before the response, if any, and the response or responses."""
    if isinstance(value, str):
        return (), (value,)
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return (), tuple(value)
    if isinstance(value, list | tuple) and value and all(isinstance(one, Mapping) for one in value):
        turns = read_turns(value)
        if turns[-1].role != "assistant":
            raise ValueError(f"the last turn of {column} must be the assistant's, got {turns[-1].role}")
        return turns[:-1], (turns[-1].content,)
    raise ValueError(f"{column} must be a text, texts or turns, got {str(json_value(value))[:60]!r}")


@dataclass(frozen=True)
class FileComparisons:
    """Comparisons of a local file, in its order."""

    path: str
    """A .jsonl, .json (a list of objects) or .parquet file."""
    columns: ComparisonColumns = ComparisonColumns()
    """Which columns are what."""
    size: PromptCount = 1_000_000
    """At most this many, from the start of the file."""

    def __post_init__(self) -> None:
        check_file(self.path, self.size)

    def comparisons(self) -> Sequence[Comparison]:
        """Reads the file. Raises DataError naming file and line, or row, that cannot be read."""
        return self.columns.read(read_rows(Path(self.path)), Path(self.path).stem, self.size)


@dataclass(frozen=True)
class HubComparisons:
    """Comparisons of one split of a Hub data set, in its order."""

    dataset: str
    """Id on the Hub, for example allenai/reward-bench."""
    config: str | None = None
    """Configuration of the data set; null for its only one."""
    split: str = "train"
    """Split to read."""
    revision: str | None = None
    """Commit or tag; null takes the newest, which can change under you."""
    columns: ComparisonColumns = ComparisonColumns()
    """Which columns are what."""
    size: PromptCount = 1_000_000
    """At most this many, from the start of the split."""

    def comparisons(self) -> Sequence[Comparison]:
        """Downloads or opens the split. Raises DataError when it cannot be reached or read."""
        split = HubPrompts(self.dataset, self.config, self.split, self.revision)
        return self.columns.read(split.rows(), f"{self.dataset.replace('/', '-')}-{self.split}", self.size)


@dataclass(frozen=True)
class JudgingPrompts:
    """Asks which of two responses is better, once for each better and each worse one; the reference is `A` or `B`.

    Metadata: comparison_id, subset, chosen and rejected (numbers of the two), shown (both texts in order).
    """

    source: ComparisonSource
    """What is compared."""
    template: PromptTemplate
    """The prompt: {question} or {conversation}, {first} and {second}."""
    order: Literal["chosen_first", "alternate", "random", "both"] = "alternate"
    """Where the better response stands: first; first and second in turn, so that both are equally often right
    (RM-R1); by a coin of the comparison's own; or each once, as two prompts."""
    seed: int = 0
    """Seed of the coins."""

    def prompts(self) -> Sequence[Prompt]:
        """One prompt, or two, a pair of responses. Raises DataError for a template that does not fit."""
        template = self.template.read()
        template.check(PLACES, ("first", "second"))
        found: list[Prompt] = []
        for one in self.source.comparisons():
            for chosen in range(len(one.chosen)):
                for rejected in range(len(one.rejected)):
                    several = len(one.chosen) * len(one.rejected) > 1
                    name = one.comparison_id + (f"/{chosen}{rejected}" if several else "")
                    for gold in self._golds(name, len(found)):
                        full = f"{name}/{gold}" if self.order == "both" else name
                        found.append(self._prompt(full, one, chosen, rejected, gold, template))
        return found

    def _golds(self, name: str, number: int) -> str:
        """The right verdict, or both where either order is asked."""
        if self.order == "both":
            return "AB"
        if self.order == "random":
            return "AB"[int(generator("judging order", self.seed, name).integers(2))]
        return "AB"[number % 2 if self.order == "alternate" else 0]

    def _prompt(
        self, name: str, one: Comparison, chosen: int, rejected: int, gold: str, template: PromptTemplate
    ) -> Prompt:
        better, worse = one.chosen[chosen], one.rejected[rejected]
        first, second = (better, worse) if gold == "A" else (worse, better)
        turns = "\n".join(f"{turn.role}: {turn.content}" for turn in one.messages)
        fields = {"question": one.question, "conversation": turns, "first": first, "second": second}
        metadata = {
            **one.metadata,
            "comparison_id": one.comparison_id,
            "subset": one.subset,
            "chosen": chosen,
            "rejected": rejected,
            "shown": [first, second],
            "asked": one.question,
        }
        return Prompt(name, template.messages(fields), gold, "comparisons", metadata)
