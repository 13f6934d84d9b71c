"""Scenarios of simulated users from a file: who the user is, and what it hides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinkrl.config.component import PromptCount
from thinkrl.data.files import check_file, read_rows
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message, Prompt


@dataclass(frozen=True)
class ScenarioPrompts:
    """One scenario a row: its texts describe the user, and one of them is what the user wants and never says.

    The policy sees the system turn and the first words alone; the user reads all texts. Without a column of first
    words the prompt ends before the user's turn, and the user is asked to begin.
    """

    path: str
    """A .jsonl, .json or .parquet file."""
    hidden: str = "hidden_goal"
    """Column of what the user hides: the prompt's reference."""
    opening: str = ""
    """Column of the user's first words; empty where the user begins by itself."""
    system: str = ""
    """System turn of the policy; empty for none."""
    size: PromptCount = 1_000_000
    """At most this many scenarios, from the start of the file."""

    def __post_init__(self) -> None:
        check_file(self.path, self.size)
        if not self.hidden:
            raise ValueError("hidden must name a column, got ''")

    def prompts(self) -> Sequence[Prompt]:
        """Prompts with ids `<file name>-<row>`. Raises DataError for a row without one of the named columns."""
        path, found = Path(self.path), []
        for number, (where, row) in enumerate(read_rows(path)):
            if number == self.size:
                break
            for column in (self.hidden, *([self.opening] if self.opening else [])):
                if not isinstance(row.get(column), str) or not row[column].strip():
                    raise DataError(f"{where} has no text in column {column!r}")
            texts = {str(name): text for name, text in row.items() if isinstance(text, str)}
            reference = texts.pop(self.hidden)
            first = [Message("user", texts.pop(self.opening))] if self.opening else []
            system = [Message("system", self.system)] if self.system else []
            found.append(Prompt(f"{path.stem}-{number}", (*system, *first), reference, path.stem, texts))
        if not found:
            raise DataError(f"{path} holds no scenario")
        return found
