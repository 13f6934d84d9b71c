"""A user behind a URL: what is read of its answers, what is a fault, what is asked again, and what is kept."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "judges"))
from chat_double import Answering, Double, serving

from thinkrl.config.component import UserError
from thinkrl.data.templates import PromptTemplate
from thinkrl.environments.dialogue import Dialogue
from thinkrl.environments.environment import OpenedEnvironment, check_environment
from thinkrl.environments.model_user import ModelUser, OpenModelUser, conversation_text, scenario_text
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.judges.backend import Surroundings
from thinkrl.judges.chat_server import ChatServer
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.talks import Talk
from thinkrl.sampling.sampler import SamplingSpec

SCENARIO = Prompt("p", (Message("user", "hi"),), "to be praised", "", {"persona": "a baker", "age": 7, "mood": ""})


def talk(name: str = "t", calls_left: int = 9, reply: str = "well done") -> Talk:
    turns = (Message("user", "hi"), Message("assistant", reply))
    return Talk(name, SCENARIO, turns, 30.0, "C", "so it was", key=len(name), calls_left=calls_left)


def user_at(server: Double, folder: Path | None = None, **fields: Any) -> OpenModelUser:
    user = ModelUser(
        **{
            "backend": ChatServer(url=server.url, model="m", attempts=2, first_pause=0.01, call_seconds=5),
            "feel": PromptTemplate("FEEL {score} {level}\n{conversation}\nlast: {reply} {boundary}"),
            "say": PromptTemplate("SAY {score} {level}\n{conversation}\nthought: {analysis}"),
            "begin": PromptTemplate("BEGIN {scenario}"),
            "sampling": SamplingSpec(temperature=0.5, max_new_tokens=64),
            **fields,
        }
    )
    user.check()
    return user.open(Surroundings(folder=folder))


def test_two_calls_a_turn(tmp_path: Path) -> None:
    def answer(handler: Answering, body: dict[str, Any], before: int) -> None:
        asked = body["messages"][-1]["content"]
        felt = asked.startswith("FEEL")
        handler.say("Meaning: praise\n**Change:** +6" if felt else "Plan: 1\nDraft: x\nMessage: oh *thanks*")

    with serving(answer) as server:
        user = user_at(server, tmp_path)
        felt = user.feel([talk()])["t"]
        assert (felt.change, felt.fault, felt.calls) == (6.0, "", 1)
        assert felt.analysis == "Meaning: praise\n**Change:** +6"
        said = user.say([talk()])["t"]
        assert (said.text, said.fault, said.calls) == ("oh *thanks", "", 1)
        begun = user.begin([talk()])["t"]
        assert begun.text == "oh *thanks"
    asked = [body["messages"][-1]["content"] for body in server.bodies]
    assert asked[0].startswith("FEEL 30 C\nYou: hi\nOther: well done\nlast: well done ")
    assert asked[1] == "SAY 30 C\nYou: hi\nOther: well done\nthought: so it was"
    assert asked[2] == "BEGIN persona: a baker\nhidden goal, never said: to be praised"
    assert all(body["temperature"] == 0.5 and "seed" in body for body in server.bodies)
    told = [json.loads(line) for line in (tmp_path / "user_transcript.jsonl").read_text().splitlines()]
    assert [row["call"] for row in told] == ["t#1/feel", "t#1/say", "t#1/begin"]


def test_texts() -> None:
    assert scenario_text(talk()) == "persona: a baker\nhidden goal, never said: to be praised"
    assert conversation_text(talk(reply="")) == "You: hi\nOther: (says nothing)"


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("Change: 5", 5.0),
        ("Change: -12", -12.0),
        ("analysis\nChange: 0.", 0.0),
        ("**Change**: +3", 3.0),
        ("Change: 3 wrong steps", None),
        ("Change: **3 wrong steps**", None),
        ("Change: 0/1", None),
        ("10", None),
        ("Change: 10 or 12", None),
        ("Change: 2.5", None),
        ("Change: 101", None),
        ("Change: much better", None),
        ("Change: 5\nChange: -5", None),
        ("it changed by five", None),
        ("", None),
    ],
)
def test_what_is_a_change(text: str, change: float | None) -> None:
    with serving(lambda handler, body, before: handler.say(text)) as server:
        felt = user_at(server, attempts=1).feel([talk()])["t"]
    assert (felt.change == change) if change is not None else bool(felt.fault)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Message: hi", "hi"),
        ("plan\nMessage:\nhi\nthere", "hi\nthere"),
        ("Message: draft\nMessage: final", "final"),
        ("## Message: hi", "hi"),
        ("message: hi", "hi"),
        ("My Message: hi", None),
        ("Message:  ", None),
        ("hi", None),
        ("", None),
    ],
)
def test_what_are_words(text: str, words: str | None) -> None:
    with serving(lambda handler, body, before: handler.say(text)) as server:
        said = user_at(server, attempts=1).say([talk()])["t"]
    assert (said.text == words) if words is not None else bool(said.fault)


def test_nonsense_is_asked_again_with_another_seed_and_then_a_fault() -> None:
    def improving(handler: Answering, body: dict[str, Any], before: int) -> None:
        handler.say("Change: 4" if before == 2 else "Change: who knows")

    with serving(improving) as server:
        felt = user_at(server).feel([talk()])["t"]
        assert (felt.change, felt.calls) == (4.0, 3)
        assert len({body["seed"] for body in server.bodies}) == 3
    with serving(lambda handler, body, before: handler.say("Change: who knows")) as server:
        felt = user_at(server).feel([talk()])["t"]
        assert felt.fault.startswith("the user's emotion is not known: no number alone, but 'who knows'")
        assert (felt.calls, len(server.bodies)) == (3, 3)


def test_no_answer_is_a_fault_and_is_left_to_the_client_to_ask_again() -> None:
    with serving(lambda handler, body, before: handler.send(b"no", 500)) as server:
        user = user_at(server)
        felt, said = user.feel([talk()])["t"], user.say([talk()])["t"]
    assert "status 500" in felt.fault
    assert said.fault.startswith("the user did not answer: ")
    assert (felt.calls, said.calls, len(server.bodies)) == (1, 1, 4)
    with serving(lambda handler, body, before: handler.say("Change: 4", finish="length")) as server:
        assert "cut off" in user_at(server).feel([talk()])["t"].fault
    with serving(lambda handler, body, before: handler.send(b"no key", 401)) as server, pytest.raises(UserError):
        user_at(server).feel([talk()])


def test_calls_are_budgeted_for_each_conversation() -> None:
    with serving(lambda handler, body, before: handler.say("?")) as server:
        felt = user_at(server).feel([talk("none", 0), talk("one", 1), talk("many", 5)])
    assert {name: one.calls for name, one in felt.items()} == {"none": 0, "one": 1, "many": 3}
    assert "max_user_calls" in felt["none"].fault
    assert felt["one"].fault.startswith("the user's emotion is not known: no 'Change:'")
    assert len(server.bodies) == 4


def test_a_user_that_goes_on_after_a_stop_says_what_it_said(tmp_path: Path) -> None:
    def moody(handler: Answering, body: dict[str, Any], before: int) -> None:
        handler.say(f"Change: {before}")

    with serving(moody) as server:
        talks = [talk("a"), talk("bb")]
        first = user_at(server, tmp_path).feel(talks)
        count = len(server.bodies)
        again = user_at(server, tmp_path).feel(list(reversed(talks)))
        assert again == first
        assert len(server.bodies) == count
        assert user_at(server).feel(talks) != first


def test_prompts_and_settings_are_checked() -> None:
    backend = ChatServer(url="http://127.0.0.1:9/v1", model="m", key_from="NO_SUCH_KEY_HERE")
    whole = PromptTemplate("{conversation}")
    with pytest.raises(UserError, match="NO_SUCH_KEY_HERE"):
        check_environment(Dialogue(ModelUser(backend=backend, feel=whole, say=whole)))
    with pytest.raises(UserError, match="did you mean conversation"):
        ModelUser(backend=backend, feel=PromptTemplate("{conversatoin}"), say=whole).check()
    with pytest.raises(UserError, match=r"must have the place \{conversation\}"):
        ModelUser(backend=backend, feel=whole, say=PromptTemplate("{reply}")).check()
    with pytest.raises(ValueError, match="attempts must be at least 1"):
        ModelUser(backend=backend, feel=whole, say=whole, attempts=0)
    with pytest.raises(ValueError, match="words_marker must not be empty"):
        ModelUser(backend=backend, feel=whole, say=whole, words_marker=" ")
    assert isinstance(Dialogue(ModelUser(backend=backend, feel=whole, say=whole)), OpenedEnvironment)
    assert not isinstance(SingleTurn(), OpenedEnvironment)


class Speaking:
    """A sampler whose conversations say their own number, which they find in the user's first words."""

    version = 1

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def sample(self, requests: Sequence[Any], spec: SamplingSpec) -> list[list[Any]]:
        import numpy as np

        from thinkrl.rollouts.store import FinishReason
        from thinkrl.sampling.sampler import Sample

        found = []
        for request in requests:
            text = self._policy.tokenizer.decode(request.prompt_ids)
            own = set(re.findall(r"no(\d)", text))
            assert len(own) == 1, text
            ids = self._policy.tokenizer(f"i am no{own.pop()}<|im_end|>", add_special_tokens=False)["input_ids"]
            row = np.asarray(ids, dtype=np.int32)
            zeros = np.zeros(len(row), dtype=np.float32)
            found.append([Sample(row, zeros, zeros, FinishReason.STOP, 1) for _ in request.stream_keys])
        return found


def test_conversations_with_a_slow_server_get_their_own_answers(policy: Any) -> None:
    """Conversation n is answered late, says goodbye after n turns, and fails at once where n is 4."""
    import time

    def answer(handler: Answering, body: dict[str, Any], before: int) -> None:
        asked = body["messages"][-1]["content"]
        (own,) = {int(number) for number in re.findall(r"no(\d)", asked)}
        turns = asked.count("Other: ")
        time.sleep(0.02 * (5 - own))
        if own == 4:
            handler.send(b"no", 400)
        elif asked.startswith("FEEL"):
            handler.say(f"Change: {own + 1}")
        else:
            handler.say(f"Message: {'goodbye' if turns > own else 'go on'}, no{own}")

    prompts = [Prompt(f"p{n}", (Message("user", f"no{n}"),), "goal") for n in range(5)]
    with serving(answer) as server:
        env = Dialogue(
            ModelUser(
                backend=ChatServer(url=server.url, model="m", attempts=1),
                feel=PromptTemplate("FEEL\n{conversation}"),
                say=PromptTemplate("SAY\n{conversation}"),
            ),
            max_turns=6,
        )
        sampler: Any = Speaking(policy)
        spec = SamplingSpec(max_new_tokens=900)
        rollouts = env.rollout(policy, sampler, prompts, 2, spec, seed=0, stage="s", step=1)
    for row, episode in enumerate(rollouts.episodes):
        own = row // 2
        assert episode is not None
        assert set(re.findall(r"no(\d)", rollouts.texts[row])) == {str(own)}
        if own == 4:
            assert "status 400" in episode.fault
            assert (episode.scores, episode.ended) == ((30.0,), "fault")
        else:
            assert episode.scores == tuple(30.0 + turn * (own + 1) for turn in range(own + 2))
            assert (episode.ended, episode.calls) == ("goodbye", 2 * (own + 1))
