"""A prompt: what is asked, and what a verifier needs to judge the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """Messages up to the policy's turn, with the reference that verifiers read.

    `prompt_id` is unique and stable within `source`: it keys random streams, groups and resumes.
    `reference` and `metadata` hold JSON values only.
    """

    prompt_id: str
    messages: tuple[Message, ...]
    reference: Any = None
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
