"""One conversation under way: what was said, how its user feels, and the responses that come of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from thinkrl.data.chat import THINK
from thinkrl.environments.turns import Ids, Trajectory, empty_response
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Response
from thinkrl.rollouts.talks import EmotionScale, Feeling, Talk, Words

_THINK_END = "</think>"
GOODBYE, SCORE, TURNS, TOKENS, FAULT = "goodbye", "score", "turns", "tokens", "fault"
"""Why a conversation ended."""


@dataclass(eq=False)
class Conversation:
    """All that belongs to one conversation, and nothing of another.

    turns: what was said so far, the scenario's first words included. scores: of the user, one more than turns that it
    reacted to. history: ids after the prompt, where each turn is a response of its own; visible_ids: those of the last
    turn in it. finished: earlier turns that are responses. ended: why, empty while it goes on.
    """

    trajectory: Trajectory
    prompt: Prompt
    start: float
    key: int
    calls_left: int
    scores: list[float] = field(init=False)
    turns: list[Message] = field(init=False)
    talk_id: str = field(init=False)
    group_id: str = field(init=False)
    history: list[Ids] = field(default_factory=list)
    visible_ids: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    finished: list[Response] = field(default_factory=list)
    analysis: str = ""
    calls: int = 0
    ended: str = ""
    fault: str = ""

    def __post_init__(self) -> None:
        self.scores = [self.start]
        self.turns = [turn for turn in self.prompt.messages if turn.role in ("user", "assistant")]
        self.talk_id = self.trajectory.response.response_id
        self.group_id = self.trajectory.response.group_id

    def talk(self, scale: EmotionScale) -> Talk:
        """What its user knows."""
        return Talk(
            talk_id=self.talk_id,
            prompt=self.prompt,
            turns=tuple(self.turns),
            score=self.scores[-1],
            level=scale.level(self.scores[-1]),
            analysis=self.analysis,
            key=self.key,
            calls_left=self.calls_left - self.calls,
        )

    def hear(self, reply: str, visible_ids: Ids) -> None:
        """Adds what the user reads of the policy's turn."""
        self.turns.append(Message("assistant", reply))
        self.visible_ids = visible_ids

    def feel(self, feeling: Feeling, scale: EmotionScale) -> None:
        """Moves the score, and ends where the user leaves over it."""
        self.calls += feeling.calls
        if feeling.fault:
            self.fail(feeling.fault)
            return
        self.analysis = feeling.analysis
        self.scores.append(scale.after(self.scores[-1], feeling.change))
        if scale.over(self.scores[-1]):
            self.ended = SCORE

    def answer(self, words: Words, goodbyes: Sequence[str]) -> None:
        """Adds what the user says, and ends where it says goodbye."""
        self.calls += words.calls
        if words.fault:
            self.fail(words.fault)
            return
        self.turns.append(Message("user", words.text))
        if any(word.casefold() in words.text.casefold() for word in goodbyes):
            self.ended = GOODBYE

    def fail(self, fault: str) -> None:
        """Ends without a score."""
        self.ended, self.fault = FAULT, fault

    def next_sample(self) -> None:
        """Lays the last turn aside: the next is a response of its own."""
        self.finished.append(self.trajectory.response)
        self.trajectory.response = empty_response(self.talk_id, self.group_id)
        self.trajectory.first = 0

    def cut(self) -> None:
        """Ends at a limit on tokens; the score stands as it is."""
        self.ended = TOKENS
        if self.trajectory.response.token_count:
            self.trajectory.cut()
        else:
            self.finished[-1] = replace(self.finished[-1], finish_reason=FinishReason.LENGTH)

    def responses(self, samples: Literal["dialogue", "turn", "last_turn"]) -> list[Response]:
        """The responses that it gives, each with how the whole conversation went."""
        last = self.trajectory.response
        turns = [*self.finished, last] if last.token_count else self.finished
        if samples != "turn":
            return [replace(turns[-1], response_id=self.talk_id, episode=self._episode(None))]
        return [
            replace(turn, response_id=f"{self.talk_id}/{number}", episode=self._episode(number))
            for number, turn in enumerate(turns)
        ]

    def _episode(self, turn: int | None) -> Episode:
        return Episode(self.talk_id, tuple(self.scores), turn, self.ended, self.fault, self.calls)


def visible_start(text: str, thinks: bool, labels: Sequence[str] = ()) -> int:
    """The character of a turn at which begins what its user reads: after the thinking, white space, and a label.

    A turn whose thinking does not end says nothing. thinks: whether the prompt opened the thinking already.
    """
    end = text.rfind(_THINK_END)
    if text.rfind(THINK) > end or (thinks and end < 0):
        return len(text)
    start = _past_space(text, end + len(_THINK_END) if end >= 0 else 0)
    label = next((label for label in labels if text.startswith(label, start)), "")
    return _past_space(text, start + len(label))


def visible_ids(response: Response, begin: int, start: int, encode: Callable[[str], Ids]) -> Ids:
    """The ids of a turn, which begins at token `begin`, from character `start` of the response on.

    They are those that were sampled; only a token that straddles the place is encoded anew, from there on.
    """
    starts = np.concatenate([[0], response.char_ends[:-1]])
    places = np.flatnonzero((starts >= start) & (np.arange(len(starts)) >= begin))
    first = int(places[0]) if len(places) else response.token_count
    straddling = response.text[start : int(starts[first]) if len(places) else len(response.text)]
    return np.concatenate([encode(straddling), response.token_ids[first:]]).astype(np.int32)


def _past_space(text: str, start: int) -> int:
    return start + len(text[start:]) - len(text[start:].lstrip())
