"""The contract of a simulated user: it opens a conversation, feels something at each reply, and answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from thinkrl.rollouts.talks import Feeling, Talk, Words

if TYPE_CHECKING:
    from thinkrl.judges.backend import Surroundings  # torch, which configurations do without


class OpenUser(Protocol):
    """A user that is ready to talk, with many at once. It remembers no conversation: all that it goes by stands in the
    talk that it is given, and every answer is given by the talk's id."""

    def begin(self, talks: Sequence[Talk]) -> Mapping[str, Words]:
        """The first words of each, where the scenario has none; `turns` are empty."""
        ...

    def feel(self, talks: Sequence[Talk]) -> Mapping[str, Feeling]:
        """What the last reply of each does to the user, whose score is the one before it."""
        ...

    def say(self, talks: Sequence[Talk]) -> Mapping[str, Words]:
        """The next words to each, whose score is the one after the last reply."""
        ...


class SimulatedUser(Protocol):
    """A frozen dataclass: who the policy talks with."""

    def check(self) -> None:
        """Raises a UserError, before anything loads, when what it needs is not there."""
        ...

    def open(self, surroundings: "Surroundings") -> OpenUser:
        """Loads or connects."""
        ...
