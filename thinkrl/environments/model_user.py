"""A simulated user that is a model: it is asked what it feels at a reply, and then what it says (arXiv 2507.03112)."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from thinkrl.config.component import UserError
from thinkrl.data.templates import PromptTemplate
from thinkrl.judges.asking import Asking
from thinkrl.judges.backend import Backend
from thinkrl.judges.judgement import Call, Case, Judgement, Reply
from thinkrl.judges.readings import NumberInText
from thinkrl.judges.scorers import BOUNDARY, boundary, call_key, read
from thinkrl.rollouts.talks import Feeling, Talk, Words
from thinkrl.sampling.sampler import SamplingSpec

if TYPE_CHECKING:
    from thinkrl.judges.backend import Surroundings

PLACES = ("scenario", "conversation", "reply", "score", "level", "analysis", BOUNDARY)
"""Places that the prompts may have."""
_DECORATION = "*_`#"
_NO_CALLS = "the user of this conversation has no call left (max_user_calls)"
T = TypeVar("T", Feeling, Words)


@dataclass(frozen=True, kw_only=True)
class ModelUser:
    """A model that plays the user, two calls a turn: by how much its emotion changes, and what it says next.

    A reply is read strictly: the change is a whole number alone behind `Change:`, the words are what follows the last
    `Message:`. What cannot be read is asked again, with another seed; what then cannot be read, or got no answer, is a
    fault, and the conversation has no score. Answers are kept in the stage's folder, so that a run that goes on after a
    stop has the user that it had, beside a transcript of every call.
    """

    backend: Backend
    """Where the model runs: behind a URL, or in this process."""
    feel: PromptTemplate
    """Asks for the change: {scenario}, {conversation}, {reply}, {score}, {level}, {boundary}."""
    say: PromptTemplate
    """Asks for the next words; {analysis} is what was answered before."""
    begin: PromptTemplate | None = None
    """Asks for the first words, by the {scenario}; null where scenarios bring their own."""
    change: NumberInText = field(
        default_factory=lambda: NumberInText(low=-100.0, high=100.0, marker="Change:", whole_numbers=True)
    )
    """How the change is read."""
    words_marker: str = "Message:"
    """What stands before the words, at the beginning of a line."""
    sampling: SamplingSpec = field(default_factory=lambda: SamplingSpec(temperature=0.5, max_new_tokens=1024))
    """How the model draws its replies."""
    attempts: int = 3
    """Times that a question is asked until the reply can be read; more than one makes sense above temperature 0."""
    cache: bool = True
    """Whether answers are kept."""
    cache_file: str = ""
    """A file of answers that other runs read too; empty keeps them in the stage's folder."""
    transcript: bool = True
    """Whether every call and reply is written to `user_transcript.jsonl` in the stage's folder."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if not self.words_marker.strip():
            raise ValueError(f"words_marker must not be empty, got {self.words_marker!r}")
        if self.sampling.budget is not None:
            raise ValueError("sampling.budget must be null: what a user says is not cut short")

    def check(self) -> None:
        """Raises a UserError when a prompt has a place that nothing fills, or the model cannot be had."""
        for prompt in (self.feel, self.say):
            prompt.check(PLACES, ("conversation",))
        if self.begin is not None:
            self.begin.check(("scenario", BOUNDARY), ("scenario",))
        self.backend.check(self.sampling)

    def open(self, surroundings: "Surroundings") -> "OpenModelUser":
        """Loads the model or connects to it."""
        return OpenModelUser(self, surroundings)


class OpenModelUser:
    """A user at work; see `OpenUser` for the contract."""

    def __init__(self, config: ModelUser, surroundings: "Surroundings") -> None:
        self._config = config
        self._begin = None if config.begin is None else config.begin.read()
        self._feel, self._say = config.feel.read(), config.say.read()
        self._asking = Asking(
            config.backend,
            config.sampling,
            surroundings,
            "user",
            cache=config.cache,
            cache_file=config.cache_file,
            transcript=config.transcript,
        )

    def begin(self, talks: Sequence[Talk]) -> Mapping[str, Words]:
        """First words of scenarios that bring none."""
        if self._begin is None:
            raise UserError("a scenario has no first words of its user: give them, or the user a prompt `begin`")
        return self._asked(self._begin, "begin", talks, self._words)

    def feel(self, talks: Sequence[Talk]) -> Mapping[str, Feeling]:
        """The change that each reply makes."""
        return self._asked(self._feel, "feel", talks, self._feeling)

    def say(self, talks: Sequence[Talk]) -> Mapping[str, Words]:
        """The next words to each."""
        return self._asked(self._say, "say", talks, self._words)

    def _asked(
        self, prompt: PromptTemplate, name: str, talks: Sequence[Talk], reading: Callable[[Reply], T]
    ) -> dict[str, T]:
        """What is read of the replies, by talk, all of them asked at once; those that cannot be read are asked again.

        reading: makes a record of a reply, with a fault where it cannot.
        """
        found: dict[str, T] = {}
        waiting = list(talks)
        for attempt in range(self._config.attempts):
            asked = [talk for talk in waiting if talk.calls_left > attempt]
            for talk in waiting:
                found.setdefault(talk.talk_id, reading(Reply(fault=_NO_CALLS)))
            replies = self._asking.ask([self._call(prompt, name, talk, attempt) for talk in asked])
            for talk, reply in zip(asked, replies, strict=True):
                found[talk.talk_id] = replace(reading(reply), calls=attempt + 1)
            # Where there was no answer at all, the client has asked again already.
            answered = [talk for talk, reply in zip(asked, replies, strict=True) if not reply.fault]
            waiting = [talk for talk in answered if found[talk.talk_id].fault]
            if not waiting:
                break
        return found

    def _call(self, prompt: PromptTemplate, name: str, talk: Talk, attempt: int) -> Call:
        spoken = sum(turn.role == "assistant" for turn in talk.turns)
        call_id = f"{talk.talk_id}#{spoken}/{name}" + (f"#{attempt + 1}" if attempt else "")
        fields = {
            "scenario": scenario_text(talk),
            "conversation": conversation_text(talk),
            "reply": talk.reply or "(says nothing)",
            "score": f"{talk.score:g}",
            "level": talk.level,
            "analysis": talk.analysis,
        }
        fields[BOUNDARY] = boundary(Case(call_id, fields), talk.key)
        return Call(call_id, prompt.messages(fields), key=call_key(talk.key, f"{name}/{spoken}/{attempt}"))

    def _feeling(self, reply: Reply) -> Feeling:
        found: Judgement = read(self._config.change, reply)
        if found.score is None:
            return Feeling(fault=f"the user's emotion is not known: {found.note}")
        return Feeling(change=found.score, analysis=reply.text.strip())

    def _words(self, reply: Reply) -> Words:
        if reply.fault:
            return Words(fault=f"the user did not answer: {reply.fault}")
        if reply.cut:
            return Words(fault="the user's words were cut off at the token limit")
        marker = re.escape(self._config.words_marker.strip())
        parts = re.split(rf"(?im)^[ \t{re.escape(_DECORATION)}]*{marker}", reply.text)
        text = parts[-1].strip().strip(_DECORATION).strip() if len(parts) > 1 else ""
        if not text:
            return Words(fault=f"no words behind {self._config.words_marker!r} in the user's reply")
        return Words(text=text)


def scenario_text(talk: Talk) -> str:
    """All that the user is, a line each: the texts of the scenario, and its reference as what it hides."""
    lines = [f"{name}: {value}" for name, value in talk.prompt.metadata.items() if isinstance(value, str) and value]
    if isinstance(talk.prompt.reference, str):
        lines.append(f"hidden goal, never said: {talk.prompt.reference}")
    return "\n".join(lines)


def conversation_text(talk: Talk) -> str:
    """What was said, a line each."""
    names = {"user": "You", "assistant": "Other"}
    return "\n".join(f"{names.get(turn.role, turn.role)}: {turn.content or '(says nothing)'}" for turn in talk.turns)
