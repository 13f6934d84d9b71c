"""Replies to learn from: a helper that talks with users of small talk, and understands them now and then."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from thinkrl.data.source import PromptSource
from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.streams import generator
from thinkrl.rollouts.talks import EmotionScale, Talk
from thinkrl.tasks.small_talk import NEEDS, ScriptedUser


@dataclass(frozen=True)
class TalkTraces:
    """One turn of each conversation, at a place drawn at random; what was said before it is the prompt.

    The helper takes the need that the user showed last with chance `skill`, and any need else, says what it takes it to
    be as its thinking, and replies to that.
    """

    source: PromptSource
    """Scenarios of small talk."""
    user: ScriptedUser = field(default_factory=ScriptedUser)
    """Who it talks with."""
    feeling: EmotionScale = field(default_factory=EmotionScale)
    """How the user's score moves."""
    talks: int = 1
    """Conversations with the user of each scenario."""
    skill: float = 0.6
    """Chance that a shown need is understood."""
    max_turns: int = 4
    """Turns among which the place is drawn."""
    think: bool = True
    """Whether replies have thinking."""
    keep_thinking: bool = False
    """Whether earlier replies are shown with theirs."""
    seed: int = 0
    """Seed of the helper."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.skill <= 1.0:
            raise ValueError(f"skill must be from 0 to 1, got {self.skill}")
        for name in ("talks", "max_turns"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def traces(self) -> Sequence[Trace]:
        """`talks` traces a scenario. Raises DataError for prompts that are no small talk."""
        return [self._trace(prompt, talk) for prompt in self.source.prompts() for talk in range(self.talks)]

    def _trace(self, prompt: Prompt, number: int) -> Trace:
        stream = generator("talk trace", self.seed, prompt.prompt_id, number)
        wanted = int(stream.integers(self.max_turns))
        shown, heard = list(prompt.messages), [turn for turn in prompt.messages if turn.role == "user"]
        score = self.feeling.start
        for _ in range(wanted):
            said, reply = self._turn(heard, stream)
            talk = Talk(prompt.prompt_id, prompt, (*heard, Message("assistant", reply)), score, "")
            score = self.feeling.after(score, self.user.feel([talk])[talk.talk_id].change)
            level = self.feeling.level(score)
            if self.feeling.over(score) or level in ("S", self.feeling.lowest):
                break  # the user leaves: the turn before it is the last to be learned
            words = self.user.say([replace(talk, score=score, level=level)])[talk.talk_id].text
            shown += [Message("assistant", said if self.keep_thinking else reply), Message("user", words)]
            heard += [Message("assistant", reply), Message("user", words)]
        turns = sum(turn.role == "assistant" for turn in shown)
        asked = replace(prompt, prompt_id=f"{prompt.prompt_id}/{number}/{turns}", messages=tuple(shown))
        return Trace(asked, self._turn(heard, stream)[0])

    def _turn(self, heard: Sequence[Message], stream: np.random.Generator) -> tuple[str, str]:
        """The helper's turn, and what the user reads of it."""
        names = list(NEEDS)
        guess = names[int(stream.integers(len(names)))]
        if stream.random() < self.skill:
            guess = shown_need(heard) or guess
        phrases = NEEDS[guess].phrases
        reply = phrases[int(stream.integers(len(phrases)))]
        return f"<think>{guess}</think>{reply}" if self.think else reply, reply


def shown_need(turns: Sequence[Message]) -> str:
    """The need of the last clue that a user gave; empty without one."""
    for turn in reversed(turns):
        for name, need in NEEDS.items():
            if turn.role == "user" and any(clue in turn.content for clue in need.clues):
                return name
    return ""
