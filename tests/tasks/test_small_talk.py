"""Small talk: what moves its users, what cannot be gamed, and the helper that a cold start learns from."""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from thinkrl.data.source import DataError
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.streams import generator
from thinkrl.rollouts.talks import EmotionScale, Talk
from thinkrl.tasks.small_talk import FILLERS, NEEDS, TOPICS, ScriptedUser, SmallTalk, needs_addressed
from thinkrl.tasks.talk_traces import TalkTraces, shown_need

WILLING = ScriptedUser(acceptance=1.0, expression=1.0)
PROMPT = Prompt("p", (Message("user", "exam: i cry"),), "comfort", "small_talk", {"topic": "exam"})


def change(*replies: str, user: ScriptedUser = WILLING, prompt: Prompt = PROMPT) -> float:
    turns = list(prompt.messages)
    for reply in replies:
        turns += [Message("assistant", reply), Message("user", "hm")]
    return user.feel([Talk("t", prompt, tuple(turns[:-1]), 30.0, "C")])["t"].change


def test_words_of_the_world_do_not_meet() -> None:
    for (name, need), (other, others) in itertools.permutations(NEEDS.items(), 2):
        assert not set(need.words) & set(others.words), (name, other)
        assert not any(a in b for a in need.clues for b in (*others.clues, *FILLERS)), (name, other)
    for name, need in NEEDS.items():
        for phrase in need.phrases:
            assert needs_addressed(phrase) == {name}
    assert all(not needs_addressed(text) for text in (*TOPICS, *FILLERS))


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (["sorry about the exam"], 25.0),
        (["Sorry!"], 25.0),
        (["a hug for you, after that exam"], 25.0),
        (["try again"], -10.0),
        (["the exam"], -5.0),
        ([""], -5.0),
        (["sorry, well done, try, tell me"], -5.0),  # saying everything earns nothing
        (["sorry", "sorry"], -5.0),  # nor does saying it again
        (["sorry", "a hug"], 25.0),
        (["sorry", "a hug", "sorry"], 25.0),
        (["sorrys about the exams"], -5.0),
    ],
)
def test_what_moves_a_user(replies: list[str], expected: float) -> None:
    assert change(*replies) == expected


def test_users_react_alike_to_the_same_words_and_accept_as_often_as_they_are_said_to() -> None:
    user = ScriptedUser()
    changes = [change("sorry", user=user, prompt=replace(PROMPT, prompt_id=f"p{n}")) for n in range(400)]
    assert set(changes) == {25.0, 0.0}
    assert changes.count(25.0) / 400 == pytest.approx(0.524, abs=0.07)
    assert changes == [change("sorry", user=user, prompt=replace(PROMPT, prompt_id=f"p{n}")) for n in range(400)]
    other = [change("sorry", user=ScriptedUser(seed=1), prompt=replace(PROMPT, prompt_id=f"p{n}")) for n in range(400)]
    assert changes != other


def said(user: ScriptedUser, score: float, number: int = 0) -> str:
    scale = EmotionScale()
    prompt = replace(PROMPT, prompt_id=f"p{number}")
    talk = Talk("t", prompt, (*prompt.messages, Message("assistant", "x")), score, scale.level(score))
    return user.say([talk])["t"].text


def test_what_users_say_shows_mood_and_need() -> None:
    assert said(WILLING, 100.0) == "thank you, bye"
    assert said(WILLING, 9.0) == "leave me, bye"
    for score, mood in ((99.0, "nice. "), (70.0, "nice. "), (69.0, "ok. "), (40.0, "ok. "), (39.0, ""), (10.0, "")):
        words = said(WILLING, score)
        assert words.startswith(mood)
        assert words.removeprefix(mood) in NEEDS["comfort"].clues
    shown = [said(ScriptedUser(), 30.0, number) in NEEDS["comfort"].clues for number in range(400)]
    assert sum(shown) / 400 == pytest.approx(0.786, abs=0.07)
    hidden = ScriptedUser(expression=0.0)
    assert {said(hidden, 30.0, number) for number in range(100)} == set(FILLERS)


def test_scenarios_differ_and_are_held_out() -> None:
    held_out = SmallTalk(size=80, seed=0)
    prompts = SmallTalk(size=280, seed=1, disjoint_from=held_out).prompts()
    questions = [str(prompt.metadata["question"]) for prompt in (*prompts, *held_out.prompts())]
    assert len(set(questions)) == 360
    assert {prompt.reference for prompt in prompts} == set(NEEDS)
    for prompt in prompts:
        topic, words = prompt.messages[-1].content.split(": ")
        assert topic == prompt.metadata["topic"]
        assert words in (*NEEDS[str(prompt.reference)].clues, *FILLERS)
    assert SmallTalk(size=280, seed=1, disjoint_from=held_out).prompts() == prompts
    assert SmallTalk(size=2, system="be kind").prompts()[0].messages[0] == Message("system", "be kind")
    with pytest.raises(DataError, match="different scenarios were found, but size is 5000"):
        SmallTalk(size=5000).prompts()


def test_other_prompts_are_refused() -> None:
    for prompt in (replace(PROMPT, reference="money"), replace(PROMPT, metadata={})):
        with pytest.raises(DataError, match="prompt p is no small talk"):
            change("sorry", prompt=prompt)
    for fields in ({"acceptance": 1.1}, {"expression": -0.1}):
        with pytest.raises(ValueError, match="must be from 0 to 1"):
            ScriptedUser(**fields)  # type: ignore[arg-type]


def test_a_helper_understands_as_often_as_it_is_said_to() -> None:
    source = SmallTalk(size=150, user=WILLING)
    for skill in (0.0, 0.5, 1.0):
        traces = TalkTraces(source, user=WILLING, skill=skill, talks=4).traces()
        right = []
        for trace in traces:
            match = re.fullmatch(r"<think>(\w+)</think>(.+)", trace.response)
            assert match is not None
            assert needs_addressed(match[2]) == {match[1]}
            assert shown_need(trace.prompt.messages) == trace.prompt.reference
            right.append(match[1] == trace.prompt.reference)
        assert sum(right) / len(right) == pytest.approx(skill + (1 - skill) / 4, abs=0.07)
        assert len({trace.prompt.prompt_id for trace in traces}) == 600


def test_traces_begin_anywhere_and_show_what_users_read() -> None:
    source = SmallTalk(size=200)
    traces = TalkTraces(source, max_turns=4).traces()
    lengths = {sum(turn.role == "assistant" for turn in trace.prompt.messages) for trace in traces}
    assert lengths == {0, 1, 2, 3}
    for trace in traces:
        roles = [turn.role for turn in trace.prompt.messages]
        assert roles == ["user", *["assistant", "user"] * (len(roles) // 2)]
        assert not any("think" in turn.content or "bye" in turn.content for turn in trace.prompt.messages)
    kept = TalkTraces(source, max_turns=4, keep_thinking=True).traces()
    for trace, other in zip(traces, kept, strict=True):
        assert trace.response == other.response
        bare = [re.sub("<think>.*</think>", "", turn.content) for turn in other.prompt.messages]
        assert bare == [turn.content for turn in trace.prompt.messages]
    plain = TalkTraces(source, max_turns=4, think=False).traces()
    assert [trace.response for trace in plain] == [re.sub("<think>.*</think>", "", one.response) for one in traces]
    with pytest.raises(ValueError, match="talks must be at least 1"):
        TalkTraces(source, talks=0)


def test_there_is_room_above_and_below_what_the_helper_reaches() -> None:
    """Final scores of helpers that understand nothing, some and all of what is shown, and of one that knows the need
    and does not repeat itself."""

    def mean_final(reply: Callable[[Sequence[Message], Prompt, np.random.Generator], str]) -> float:
        scale, user, finals = EmotionScale(), ScriptedUser(), []
        for prompt in SmallTalk(size=120).prompts():
            heard, score, stream = list(prompt.messages), scale.start, generator("test", prompt.prompt_id)
            for _ in range(4):
                heard.append(Message("assistant", reply(heard, prompt, stream)))
                talk = Talk("t", prompt, tuple(heard), score, "")
                score = scale.after(score, user.feel([talk])["t"].change)
                words = user.say([replace(talk, score=score, level=scale.level(score))])["t"].text
                if scale.over(score) or "bye" in words:
                    break
                heard.append(Message("user", words))
            finals.append(max(score, 0.0))
        return sum(finals) / len(finals)

    def knowing(heard: Sequence[Message], prompt: Prompt, stream: np.random.Generator) -> str:
        phrases = NEEDS[str(prompt.reference)].phrases
        return phrases[len(heard) // 2 % 2]

    helpers = [TalkTraces(SmallTalk(size=1), skill=skill, think=False) for skill in (0.0, 0.6, 1.0)]
    least, start, understanding = (
        mean_final(lambda heard, prompt, stream, h=helper: h._turn(heard, stream)[1]) for helper in helpers
    )
    best = mean_final(knowing)
    assert least + 5 < start < understanding - 10
    print(least, start, understanding, best)
    assert best > understanding + 15
