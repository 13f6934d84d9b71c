"""Prompts as data: texts with named places, in the configuration or in a file of their own."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkrl.config.nearest import suggestion
from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message

_PLACE = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
_KEYS = ("system", "user")


@dataclass(frozen=True)
class PromptTemplate:
    """Turns with places such as `{question}`, each filled once: braces inside what fills a place stay as they are.

    `{{question}}` writes `{question}`; braces around anything but a name are text. A place that nothing fills is an
    error, and so is a template that leaves out what its reader needs.
    """

    user: str = ""
    """The user turn."""
    system: str = ""
    """The system turn; empty for none."""
    file: str = ""
    """A YAML file with `user` and perhaps `system`, in place of both; read whenever a run starts."""

    def __post_init__(self) -> None:
        if bool(self.user) == bool(self.file):
            raise ValueError(f"user must be given, or else a file, got user {self.user!r} and file {self.file!r}")
        if self.file and self.system:
            raise ValueError(f"system must stand in the file {self.file!r}, got {self.system!r} beside it")

    def read(self) -> "PromptTemplate":
        """The template with the texts of its file. Raises DataError for a file that holds no such texts."""
        if not self.file:
            return self
        path = Path(self.file)
        if not path.is_file():
            raise DataError(f"there is no prompt file {path}")
        texts = _texts(path)
        return PromptTemplate(user=texts["user"], system=texts.get("system", ""))

    def check(self, known: Collection[str], needed: Collection[str] = ()) -> None:
        """Raises DataError for a place that is not one of `known`, or when one of `needed` is not there."""
        texts = self.read()
        found = texts.places
        where = self.file or "the prompt"
        for name in sorted(found - set(known)):
            raise DataError(
                f"{where} has the place {{{name}}}, which nothing fills; {suggestion(name, known)}"
                f" (to write it as text: {{{{{name}}}}})"
            )
        for name in sorted(set(needed) - found):
            raise DataError(f"{where} must have the place {{{name}}}; it has {', '.join(sorted(found)) or 'none'}")

    @property
    def places(self) -> set[str]:
        """Names of the places."""
        return {found for text in (self.system, self.user) for _, found in _PLACE.findall(text) if found}

    def messages(self, fields: Mapping[str, str]) -> tuple[Message, ...]:
        """The turns, every place filled from `fields`. Raises DataError for a place that is not there."""
        turns = (Message("system", self.system),) if self.system else ()
        return tuple(Message(turn.role, _filled(turn.content, fields)) for turn in (*turns, Message("user", self.user)))


def _filled(text: str, fields: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1]:
            return f"{{{match[1]}}}"
        if match[2] not in fields:
            raise DataError(
                f"the prompt has the place {{{match[2]}}}, which nothing fills; {suggestion(match[2], fields)}"
            )
        return fields[match[2]]

    return _PLACE.sub(value, text)


def _texts(path: Path) -> Mapping[str, str]:
    import yaml  # here: composing a configuration must not wait for it

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is no readable YAML: {error}") from error
    if not isinstance(content, dict) or "user" not in content:
        raise DataError(f"{path} must hold a mapping with the text `user`, and perhaps `system`")
    for key, text in content.items():
        if key not in _KEYS:
            raise DataError(f"{path} has the key {key!r}; {suggestion(str(key), _KEYS)}")
        if not isinstance(text, str):
            raise DataError(f"{path}: {key} must be a text, got {type(text).__name__}")
    return content
