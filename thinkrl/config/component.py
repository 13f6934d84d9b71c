"""What every configurable component shares: sizes that a scale may shrink, and errors that carry a path.

A component is a frozen dataclass whose fields are its configuration. The string literal under a
field is that field's meaning, which `thinkrl config --explain` prints. Field types are checked
when the configuration is built, so a component may rely on them.
"""

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Sized:
    """Marks a field whose value a scale may cap, by the kind of thing it counts.

    `scale=smoke` holds one cap per kind; a capped field becomes min(value, cap).
    """

    kind: str


Steps = Annotated[int, Sized("steps")]
"""Optimizer steps of a stage."""
PromptCount = Annotated[int, Sized("prompts")]
"""How many prompts a source yields or a stage visits."""
BatchPrompts = Annotated[int, Sized("batch_prompts")]
"""Prompts in one step."""
GroupSize = Annotated[int, Sized("group_size")]
"""Responses sampled per prompt."""
NewTokens = Annotated[int, Sized("new_tokens")]
"""Upper limit of sampled tokens in a response."""
CompanionSteps = Annotated[int, Sized("companion_steps")]
"""Steps in which companions learn and the policy does not; fewer than the stage's steps."""
Epochs = Annotated[int, Sized("epochs")]
"""Passes over a stage's data."""


class UserError(Exception):
    """Something the user can put right: the command line prints the message without a traceback, exit code 1."""


class ConfigError(UserError):
    """A configuration that cannot run.

    The message says what is wrong, where (full key path and the file or override that set it) and
    what to do. The command line prints it without a traceback and exits with code 2.
    """
