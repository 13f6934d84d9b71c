"""Verdicts: what a checker concluded, apart from any number made of it."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """The four things a checker can conclude."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNGRADABLE = "ungradable"
    """The reference (not the response) cannot be judged against; counted apart, never 0."""
    TIMEOUT = "timeout"
    """Checking was stopped by the wall clock."""


@dataclass(frozen=True)
class Grade:
    """A verdict with the reason in words (empty when there is nothing to add)."""

    verdict: Verdict
    note: str = ""
