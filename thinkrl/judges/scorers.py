"""Which questions a case is worth, and what their answers say together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, Protocol

from thinkrl.data.templates import PromptTemplate
from thinkrl.judges.judgement import Call, Case, Judgement, Reply, ungradable
from thinkrl.judges.readings import Reading
from thinkrl.rollouts.streams import generator, stream_key

BOUNDARY = "boundary"
"""A place that every prompt may have: letters that the judged text cannot know, to mark where it begins and ends."""
RESPONSE, OPPONENT = "response", "opponent"
"""Fields of a case that are judged."""
_KEY_BITS = 63


class Scorer(Protocol):
    """A frozen dataclass that asks about a case and makes a judgement of the replies."""

    def places(self, fields: Sequence[str]) -> set[str]:
        """Places that a prompt may have for cases with `fields`."""
        ...

    def needed(self) -> set[str]:
        """Places that a prompt must have."""
        ...

    def calls(self, case: Case, prompt: PromptTemplate, seed: int) -> list[Call]:
        """What to ask about `case`."""
        ...

    def judgement(self, case: Case, replies: Sequence[Reply], seed: int) -> Judgement:
        """What the replies to `calls`, in order, say."""
        ...


@dataclass(frozen=True)
class Pointwise:
    """One response on its own: the mean over `samples` replies; ungradable where no reply can be read."""

    reading: Reading
    """How a reply is read."""
    samples: int = 1
    """Replies a case; more than one makes sense where the judge draws its replies (temperature above 0)."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")

    def places(self, fields: Sequence[str]) -> set[str]:
        """The case's fields, and what the reading adds."""
        return {*fields, *self.reading.fields(), BOUNDARY}

    def needed(self) -> set[str]:
        """The response."""
        return {RESPONSE}

    def calls(self, case: Case, prompt: PromptTemplate, seed: int) -> list[Call]:
        """The same question `samples` times, each with a key of its own."""
        fields = {**case.fields, **self.reading.fields(), BOUNDARY: boundary(case, seed)}
        messages = prompt.messages(fields)
        names = [case.case_id, *(f"{case.case_id}#{number}" for number in range(1, self.samples))]
        return [Call(name, messages, self.reading.options, call_key(seed, name)) for name in names]

    def judgement(self, case: Case, replies: Sequence[Reply], seed: int) -> Judgement:
        """The mean of the scores that could be read."""
        found = [read(self.reading, reply) for reply in replies]
        scores = [one.score for one in found if one.score is not None]
        if not scores:
            return found[0]
        if len(found) == 1:
            return found[0]
        return Judgement(sum(scores) / len(scores), parts={"replies": float(len(scores))})


@dataclass(frozen=True)
class Pairwise:
    """The chance that `response` is better than `opponent`: 1, 0, or what lies between.

    The prompt shows them as `{first}` and `{second}`. Judges favour a place; so with `order: both` they are shown
    either way, and the score is the mean of both verdicts. A case with a verdict in one order alone is ungradable.
    """

    reading: Reading
    """How a reply is read: as the chance that the first is better, between 0 and 1."""
    order: Literal["given", "random", "both"] = "both"
    """Which stands first: the response, either by a coin of the case's own (the same in every run of a seed), or
    each once."""

    def places(self, fields: Sequence[str]) -> set[str]:
        """`first`, `second`, the case's other fields, and what the reading adds."""
        return {"first", "second", *fields, *self.reading.fields(), BOUNDARY} - {RESPONSE, OPPONENT}

    def needed(self) -> set[str]:
        """Both responses."""
        return {"first", "second"}

    def calls(self, case: Case, prompt: PromptTemplate, seed: int) -> list[Call]:
        """One question, or one for each order."""
        shown = {name: text for name, text in case.fields.items() if name not in (RESPONSE, OPPONENT)}
        shown |= {**self.reading.fields(), BOUNDARY: boundary(case, seed)}
        calls = []
        for swapped in self._orders(case, seed):
            first, second = (OPPONENT, RESPONSE) if swapped else (RESPONSE, OPPONENT)
            fields = {**shown, "first": case.fields[first], "second": case.fields[second]}
            name = f"{case.case_id}#{'swapped' if swapped else 'given'}"
            calls.append(Call(name, prompt.messages(fields), self.reading.options, call_key(seed, name)))
        return calls

    def judgement(self, case: Case, replies: Sequence[Reply], seed: int) -> Judgement:
        """The mean over the orders; `parts` has the score of each, and whether both agree."""
        scores: dict[str, float] = {}
        for swapped, reply in zip(self._orders(case, seed), replies, strict=True):
            found = read(self.reading, reply)
            if found.score is None:
                return found
            if not 0 <= found.score <= 1:
                return ungradable(f"a verdict between two must be from 0 to 1, got {found.score:g}")
            scores["swapped" if swapped else "given"] = 1 - found.score if swapped else found.score
        parts = dict(scores)
        if len(scores) == 2:
            parts["agree"] = float((scores["given"] - 0.5) * (scores["swapped"] - 0.5) > 0)
        return Judgement(sum(scores.values()) / len(scores), parts=parts)

    def _orders(self, case: Case, seed: int) -> tuple[bool, ...]:
        """Whether the opponent stands first, for each call."""
        if self.order == "both":
            return (False, True)
        return (self.order == "random" and bool(generator("judge order", seed, case.case_id).integers(2)),)


def read(reading: Reading, reply: Reply) -> Judgement:
    """What a reply says; without an answer, or with one that was cut off, it says nothing."""
    if reply.fault:
        return ungradable(reply.fault)
    if reply.cut and not reading.options:
        return ungradable("the judge's reply was cut off at its token limit")
    return reading.read(reply)


def call_key(seed: int, name: str) -> int:
    """The seed of one call's draws."""
    return stream_key("judge", seed, name) & ((1 << _KEY_BITS) - 1)


def boundary(case: Case, seed: int) -> str:
    """Twelve hexadecimal digits that depend on every text of the case, so that none of them can contain it."""
    digest = blake2b(str(seed).encode(), digest_size=6)
    for name, text in sorted(case.fields.items()):
        digest.update(f"{name}{len(text)}:{text}".encode("utf-8", errors="surrogatepass"))
    return digest.hexdigest()


def pair(case_id: str, response: str, opponent: str, fields: Mapping[str, str]) -> Case:
    """A case of two responses."""
    return Case(case_id, {**fields, RESPONSE: response, OPPONENT: opponent})
