"""How a judge's reply is read as a number; a reply that does not say one clearly is ungradable, never a guess."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from thinkrl.grading.text import plain
from thinkrl.judges.judgement import Judgement, Reply, ungradable

_NUMBER = re.compile(
    r"(?P<value>[-+]?[0-9]+(?:\.[0-9]+)?)"
    r"(?:\s*(?:/|out of)\s*(?P<whole>[0-9]+(?:\.[0-9]+)?))?\s*\.?"
)
_MARKDOWN = str.maketrans("", "", "*`")
_SHOWN = 60


class Reading(Protocol):
    """A frozen dataclass that makes a number of a reply."""

    @property
    def options(self) -> tuple[str, ...]:
        """Texts whose log-probabilities it reads; empty where it reads what the judge wrote."""
        ...

    def fields(self) -> Mapping[str, str]:
        """What it adds to the places of the prompt, such as a list of criteria."""
        ...

    def read(self, reply: Reply) -> Judgement:
        """The number in a reply that has no fault."""
        ...


@dataclass(frozen=True)
class NumberInText:
    """The number that stands alone behind a marker, as in `Score: 7`, `**Score:** 7/10` or `Score: 7 out of 10.`

    Ungradable: no marker; anything else on the number's line (`3 wrong steps`); a number outside the range; a whole
    other than `high` (`0/1` on a scale to 10); markers that disagree, as where a judge quotes a text that scores
    itself.
    """

    low: float = 0.0
    """Least score."""
    high: float = 10.0
    """Greatest score."""
    marker: str = "Score:"
    """What stands before the number, in letters of any case; empty where the whole reply is the number."""
    several: Literal["agree", "last"] = "agree"
    """Whether all markers must say the same, or the last one decides."""
    whole_numbers: bool = False
    """Whether a number with decimals is no score."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")

    @property
    def options(self) -> tuple[str, ...]:
        """None: it reads text."""
        return ()

    def fields(self) -> Mapping[str, str]:
        """The ends of the scale, as `low` and `high`."""
        return {"low": f"{self.low:g}", "high": f"{self.high:g}"}

    def read(self, reply: Reply) -> Judgement:
        """The score, between `low` and `high`."""
        text = plain(reply.text).translate(_MARKDOWN)
        marker = self.marker.translate(_MARKDOWN).strip()
        if not marker:
            return self._number(text)
        ends = [match.end() for match in re.finditer(rf"(?<!\w){re.escape(marker)}", text, re.IGNORECASE)]
        if not ends:
            return ungradable(f"no {self.marker!r} in the judge's reply")
        found = [self._number(text[end:]) for end in (ends if self.several == "agree" else ends[-1:])]
        unread = next((one for one in found if not one.gradable), None)
        if unread is not None:
            return unread
        if len({one.score for one in found}) > 1:
            return ungradable(
                f"the judge's reply has scores that differ: {', '.join(f'{one.score:g}' for one in found)}"
            )
        return found[0]

    def _number(self, text: str) -> Judgement:
        text = text.lstrip()
        line = text.partition("\n")[0].strip() if self.marker else text.strip()
        bare = line
        while len(bare) > 2 and bare[0] + bare[-1] in ("[]", "()"):
            bare = bare[1:-1].strip()
        match = _NUMBER.fullmatch(bare)
        if match is None:
            return ungradable(f"no number alone, but {_shown(line)}")
        value = float(match["value"])
        if match["whole"] is not None and float(match["whole"]) != self.high:
            return ungradable(f"a score of {match['whole']}, where the scale ends at {self.high:g}: {_shown(line)}")
        if not self.low <= value <= self.high:
            return ungradable(f"{match['value']} is not between {self.low:g} and {self.high:g}")
        if self.whole_numbers and "." in match["value"]:
            return ungradable(f"{match['value']} is no whole number")
        return Judgement(value)


@dataclass(frozen=True)
class VerdictInText:
    """Which of two is better, by marks: 1 for the first, 0 for the second, 0.5 for a tie.

    Exactly one kind of mark may stand in the reply (as RM-R1, arXiv 2505.02387, evaluates): a judge that quotes a
    mark of the text it judges, beside its own, has given no verdict.
    """

    first: str = "[[A]]"
    """Mark for the first."""
    second: str = "[[B]]"
    """Mark for the second."""
    tie: str = ""
    """Mark for a tie; empty where there is none."""
    several: Literal["only", "last"] = "only"
    """Whether marks of two kinds are no verdict, or the last mark decides."""
    tail: int = 0
    """Only this many characters at the end are read; 0 reads all."""

    def __post_init__(self) -> None:
        marks = [mark for mark in (self.first, self.second, self.tie) if mark]
        if not self.first or not self.second or len(set(marks)) < len(marks):
            raise ValueError(f"first and second must be different marks, got {self.first!r} and {self.second!r}")
        if self.tail < 0:
            raise ValueError(f"tail must be 0 (all) or more characters, got {self.tail}")

    @property
    def options(self) -> tuple[str, ...]:
        """None: it reads text."""
        return ()

    def fields(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def read(self, reply: Reply) -> Judgement:
        """1, 0 or 0.5."""
        text = reply.text[-self.tail :] if self.tail else reply.text
        worth = {self.first: 1.0, self.second: 0.0} | ({self.tie: 0.5} if self.tie else {})
        places = {mark: text.rfind(mark) for mark in worth if mark in text}
        if not places:
            return ungradable(f"no verdict in {_shown(text[-_SHOWN:])}")
        if len(places) > 1 and self.several == "only":
            return ungradable(f"verdicts that differ: {' and '.join(places)}")
        return Judgement(worth[max(places, key=places.__getitem__)])


@dataclass(frozen=True)
class OptionProbability:
    """sum_o w_o p_o / sum_o p_o over the options o, with p_o the probability that the judge's reply begins with o.

    With {"Yes": 1, "No": 0} it is the chance of yes; with {"1": 1, ..., "5": 5} the expected score.
    """

    worth: Mapping[str, float]
    """What each option is worth."""
    least_mass: float = 0.01
    """Ungradable where the options together are less likely than this: the judge meant to say something else."""

    def __post_init__(self) -> None:
        if len(self.worth) < 2 or not all(option.strip() for option in self.worth):
            raise ValueError(f"worth must have two options or more, got {list(self.worth)}")
        if not 0 <= self.least_mass <= 1:
            raise ValueError(f"least_mass must be between 0 and 1, got {self.least_mass}")

    @property
    def options(self) -> tuple[str, ...]:
        """The options."""
        return tuple(self.worth)

    def fields(self) -> Mapping[str, str]:
        """The options, as `options`."""
        return {"options": ", ".join(self.worth)}

    def read(self, reply: Reply) -> Judgement:
        """The expected worth; `mass` is the probability of all options together."""
        chances = {option: math.exp(reply.options[option]) for option in self.worth if option in reply.options}
        mass = sum(chances.values())
        if not mass or mass < self.least_mass:
            return ungradable(f"the options have a probability of {mass:.3g} together, less than {self.least_mass:g}")
        return Judgement(sum(self.worth[o] * chance for o, chance in chances.items()) / mass, parts={"mass": mass})


@dataclass(frozen=True)
class Criterion:
    """One thing that a rubric asks."""

    meaning: str
    """What is asked, for the judge."""
    weight: float = 1.0
    """Its share of the score, against the other criteria's."""
    low: float = 0.0
    """Least points."""
    high: float = 10.0
    """Most points."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if not self.weight >= 0:
            raise ValueError(f"weight must be 0 or more, got {self.weight}")


@dataclass(frozen=True)
class Rubric:
    """sum_c w_c (x_c - low_c) / (high_c - low_c) / sum_c w_c over criteria c, whose points x_c stand in a line each.

    A line is `name: points`. A criterion without clear points leaves the whole without a score.
    """

    criteria: Mapping[str, Criterion]
    """What is asked, by name."""

    def __post_init__(self) -> None:
        if not sum(one.weight for one in self.criteria.values()) > 0:
            raise ValueError(f"criteria must have one with a weight above 0, got {list(self.criteria)}")

    @property
    def options(self) -> tuple[str, ...]:
        """None: it reads text."""
        return ()

    def fields(self) -> Mapping[str, str]:
        """The criteria with their scales and meanings, a line each, as `criteria`."""
        lines = [f"{name} ({c.low:g} to {c.high:g}): {c.meaning}" for name, c in self.criteria.items()]
        return {"criteria": "\n".join(lines)}

    def read(self, reply: Reply) -> Judgement:
        """A score between 0 and 1, and the points of each criterion."""
        points: dict[str, float] = {}
        total = 0.0
        for name, criterion in self.criteria.items():
            found = NumberInText(criterion.low, criterion.high, marker=f"{name}:").read(reply)
            if found.score is None:
                return ungradable(f"{name}: {found.note}")
            points[name] = found.score
            total += criterion.weight * (found.score - criterion.low) / (criterion.high - criterion.low)
        return Judgement(total / sum(one.weight for one in self.criteria.values()), parts=points)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
