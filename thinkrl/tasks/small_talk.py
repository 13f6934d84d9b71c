"""Small talk: users with a hidden need, whose emotion moves by what a reply addresses; the laptop world of dialogue."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from thinkrl.config.component import PromptCount
from thinkrl.data.source import DataError, PromptSource, different_questions, question_messages
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator
from thinkrl.rollouts.talks import Feeling, Talk, Words

TOPICS = (
    "exam", "job", "dog", "cat", "bike", "trip", "team", "song", "book", "garden", "sister", "uncle", "boss", "school",
    "car", "house", "film", "race", "cake", "match", "class", "phone", "letter", "dance",
)  # fmt: skip


@dataclass(frozen=True)
class Need:
    """What a user wants of a reply. clues: words that betray it. words: of which a reply that addresses it has one.
    phrases: such replies."""

    clues: tuple[str, ...]
    words: tuple[str, ...]
    phrases: tuple[str, ...]


NEEDS: Mapping[str, Need] = {
    "comfort": Need(
        ("i cry", "it hurts"),
        ("sorry", "hug"),
        ("so sorry", "a hug for you"),
    ),
    "praise": Need(
        ("i did it", "no one saw"),
        ("proud", "well done"),
        ("proud of you", "well done"),
    ),
    "advice": Need(
        ("what now", "i am stuck"),
        ("try", "plan"),
        ("try again", "make a plan"),
    ),
    "listen": Need(
        ("hear me", "so much to say"),
        ("tell me", "go on"),
        ("tell me", "go on"),
    ),
}
FILLERS = ("hm", "it is late")
"""What a user says that betrays nothing."""
_MOODS = {"A": "nice. ", "B": "ok. "}
_THANKS, _LEAVES = "thank you, bye", "leave me, bye"
_DRAWS_PER_PROMPT = 50


def needs_addressed(reply: str) -> set[str]:
    """The needs of which a reply has a word."""
    return {
        name for name, need in NEEDS.items() if any(re.search(rf"\b{word}\b", reply.casefold()) for word in need.words)
    }


@dataclass(frozen=True)
class ScriptedUser:
    """A user by rule; the same in every run that says the same to it.

    A reply that addresses the hidden need, and no other, is accepted with chance `acceptance`, drawn by (seed, prompt,
    all that was said), and then gains `gain`, else nothing changes. One that addresses another need costs `wrong_need`;
    one that addresses none, or several at once, or says again what was just said, `idle`: nothing is to be had by
    saying everything, or the same. What the user says shows its need with chance `expression`, and its mood by the
    level of its score; at the ends of the scale it says bye.
    """

    acceptance: float = 0.524
    """Chance that a fitting reply is accepted; that of RLVER's simulator (arXiv 2507.03112), 0.331 for its hard one."""
    expression: float = 0.786
    """Chance that the user's words show its need; likewise, 0.636 for the hard one."""
    gain: float = 25.0
    """Change by a reply that is accepted."""
    wrong_need: float = -10.0
    """Change by a reply that addresses another need."""
    idle: float = -5.0
    """Change by a reply that addresses no need, several, or repeats the last one."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        for name in ("acceptance", "expression"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, surroundings: object) -> "ScriptedUser":
        """Itself: there is nothing to load."""
        return self

    def begin(self, talks: Sequence[Talk]) -> dict[str, Words]:
        """First words, which show the need by the same chance as any."""
        return {talk.talk_id: Words(f"{_scenario(talk)[1]}: {self._shown(talk)}") for talk in talks}

    def feel(self, talks: Sequence[Talk]) -> dict[str, Feeling]:
        """The change by the last reply of each."""
        return {talk.talk_id: self._feeling(talk) for talk in talks}

    def say(self, talks: Sequence[Talk]) -> dict[str, Words]:
        """The next words to each."""
        return {talk.talk_id: Words(self._answer(talk)) for talk in talks}

    def _feeling(self, talk: Talk) -> Feeling:
        need, reply = _scenario(talk)[0], talk.reply
        replies = [turn.content for turn in talk.turns if turn.role == "assistant"]
        addressed = needs_addressed(reply)
        if len(replies) > 1 and replies[-1] == replies[-2]:
            return Feeling(self.idle, "said before")
        if len(addressed) != 1:
            return Feeling(self.idle, "several needs" if addressed else "no need")
        if need not in addressed:
            return Feeling(self.wrong_need, "another need")
        if self._draw("accepts", talk) >= self.acceptance:
            return Feeling(0.0, "not accepted")
        return Feeling(self.gain, "accepted")

    def _answer(self, talk: Talk) -> str:
        if talk.level in ("S", "F"):
            return _THANKS if talk.level == "S" else _LEAVES
        return _MOODS.get(talk.level, "") + self._shown(talk)

    def _shown(self, talk: Talk) -> str:
        """A clue to the need, or a filler."""
        shows = self._draw("shows", talk) < self.expression
        choices = NEEDS[_scenario(talk)[0]].clues if shows else FILLERS
        return choices[int(self._draw("words", talk) * len(choices))]

    def _draw(self, what: str, talk: Talk) -> float:
        said = [turn.content for turn in talk.turns]
        return float(generator("small talk", self.seed, what, talk.prompt.prompt_id, *said).random())


def _scenario(talk: Talk) -> tuple[str, str]:
    """Need and topic. Raises DataError for prompts of another kind."""
    need, topic = talk.prompt.reference, talk.prompt.metadata.get("topic")
    if need not in NEEDS or not isinstance(topic, str):
        raise DataError(f"prompt {talk.prompt.prompt_id} is no small talk: it has no need for a reference, or no topic")
    return str(need), topic


@dataclass(frozen=True)
class SmallTalk:
    """Scenarios: a topic, a hidden need as the reference, and the user's first words, such as `exam: i cry`.

    Scenario i is a function of (seed, i). The policy never sees the need.
    """

    size: PromptCount = 500
    """How many, no two with the same words and need."""
    seed: int = 0
    """Seed of the scenarios."""
    user: ScriptedUser = field(default_factory=ScriptedUser)
    """Whose first words they are."""
    system: str = ""
    """System turn; empty for none."""
    disjoint_from: PromptSource | None = None
    """Leaves out the scenarios that this source yields."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")

    def prompts(self) -> Sequence[Prompt]:
        """`size` prompts with ids `talk-<seed>-<index>`. Raises DataError when too few scenarios differ."""
        kept = list(islice(different_questions(self._drawn(), self.disjoint_from), self.size))
        if len(kept) < self.size:
            raise DataError(f"{len(kept)} different scenarios were found, but size is {self.size}")
        return kept

    def _drawn(self) -> Iterator[Prompt]:
        for index in range(self.size * _DRAWS_PER_PROMPT):
            stream = generator("small talk scenario", self.seed, index)
            need = list(NEEDS)[int(stream.integers(len(NEEDS)))]
            topic = TOPICS[int(stream.integers(len(TOPICS)))]
            scenario = Prompt(f"talk-{self.seed}-{index}", (), need, "small_talk", {"topic": topic})
            (words,) = self.user.begin([Talk("", scenario, (), 0.0, "")]).values()
            yield Prompt(
                prompt_id=scenario.prompt_id,
                messages=question_messages(words.text, self.system),
                reference=need,
                source="small_talk",
                metadata={"topic": topic, "question": f"{words.text} ({need})"},
            )
