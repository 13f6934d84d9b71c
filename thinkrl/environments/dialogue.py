"""A conversation between the policy and a simulated user, whose emotion keeps the score."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from thinkrl.config.component import NewTokens
from thinkrl.data.chat import THINK, ChatRenderer
from thinkrl.environments.conversation import Conversation, visible_ids, visible_start
from thinkrl.environments.environment import Environment
from thinkrl.environments.simulated_user import OpenUser, SimulatedUser
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.environments.turns import Ids, Turns, asked_once, plain_text
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import Response, Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.rollouts.talks import EmotionScale, Feeling, Talk, Words
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.judges.backend import Surroundings
    from thinkrl.models.policy import Policy

Samples = Literal["dialogue", "turn", "last_turn"]
SILENT = "..."
"""First words of a user that failed to open the conversation, which is then not scored."""


@dataclass(frozen=True)
class Dialogue:
    """Turns of the policy, each answered by a user whose emotion moves by what it says; RLVER (arXiv 2507.03112).

    The user reads a reply without its thinking, changes its score, and answers; its words are given tokens, which carry
    no loss, and nothing in them can end a turn. The conversation ends when the score leaves its range, when the user
    says goodbye, after `max_turns`, or where no token is left: `SamplingSpec.max_new_tokens` is the limit of a whole
    response, what the user says included, and the history before a turn that is a response of its own. A user that
    fails ends it too, and the response then has no score: `Rollouts.episodes` says how each went.
    """

    user: SimulatedUser
    """Who the policy talks with."""
    feeling: EmotionScale = field(default_factory=EmotionScale)
    """How the score moves, and where it ends a conversation."""
    samples: Samples = "dialogue"
    """What a response is. dialogue: all turns in one, in which the policy goes on from the very tokens it sampled, its
    thinking among them. turn: each turn on its own, after a history without earlier thinking. last_turn: as turn, but
    only the last of each conversation is kept, to measure with."""
    first: SingleTurn = field(default_factory=SingleTurn)
    """Renders prompts and samples first turns; its prefix begins the later ones too."""
    max_turns: int = 9
    """Most turns of the policy."""
    goodbyes: tuple[str, ...] = ("bye",)
    """The user's words end the conversation where they contain one of these, in letters of any case."""
    labels: tuple[str, ...] = ()
    """Labels such as `Assistant:` that are taken off the beginning of a reply."""
    max_turn_tokens: NewTokens = 1024
    """Most tokens of one turn, where a response may have more; the user hears what was said until then."""
    max_user_tokens: int = 512
    """Most tokens of what the user says at once; the rest is cut off."""
    max_user_calls: int = 64
    """Most calls of models that the user of one conversation may make; what would take more has failed."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_turn_tokens", "max_user_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_user_calls < 0:
            raise ValueError(f"max_user_calls must be 0 or more, got {self.max_user_calls}")
        if not all(word.strip() for word in self.goodbyes):
            raise ValueError(f"goodbyes must be words, got {list(self.goodbyes)}")

    def check(self) -> None:
        """Looks for what the user needs."""
        self.user.check()

    def open(self, surroundings: "Surroundings") -> Environment:
        """The environment with its user loaded or connected."""
        return OpenDialogue(self, self.user.open(surroundings))

    def rollout(
        self,
        policy: "Policy",
        sampler: Sampler,
        prompts: Sequence[Prompt],
        group_size: int,
        spec: SamplingSpec,
        seed: int,
        stage: str,
        step: int,
    ) -> Rollouts:
        """What the opened environment makes, with a user that is opened for this batch alone and keeps no file."""
        from thinkrl.judges.backend import Surroundings

        with ExitStack() as closing:
            opened = self.open(Surroundings(seed=seed, closing=closing))
            return opened.rollout(policy, sampler, prompts, group_size, spec, seed, stage, step)


class OpenDialogue:
    """Conversations with an open user. Each has its own record, and what the user says to it is found by its id."""

    def __init__(self, config: Dialogue, user: OpenUser) -> None:
        self._config = config
        self._user = user

    def rollout(
        self,
        policy: "Policy",
        sampler: Sampler,
        prompts: Sequence[Prompt],
        group_size: int,
        spec: SamplingSpec,
        seed: int,
        stage: str,
        step: int,
    ) -> Rollouts:
        """Groups are those of `first`; a response is named `<group>/<index>`, or `<group>/<index>/<turn>`."""
        config = self._config
        single = replace(spec, max_new_tokens=min(config.max_turn_tokens, spec.max_new_tokens))
        turns = Turns(policy, sampler, single, spec.max_new_tokens)
        opened, faults = self._opened(prompts, sampler, seed, stage, step)
        first = config.first.rollout(policy, sampler, opened, group_size, single, seed, stage, step)
        conversations = [
            Conversation(
                trajectory,
                first.prompt(row),
                config.feeling.start,
                stream_key("user", seed, stage, trajectory.response.response_id),
                config.max_user_calls,
            )
            for row, trajectory in enumerate(turns.begin(first, seed, stage))
        ]
        for one in conversations:
            if fault := faults.get(one.prompt.prompt_id):
                one.fail(fault)
        writer = _Writer(config, policy)
        for turn in range(1, config.max_turns + 1):
            running = [one for one in conversations if not one.ended]
            if not running:
                break
            self._hear(running, sampler, writer, last=turn == config.max_turns)
            going = []
            for one in (one for one in running if not one.ended):
                given = writer.given(one)
                if turns.room(one.trajectory, given) > 0:
                    going.append((one.trajectory, given))
                else:
                    one.cut()
            turns.go_on(going, turn)
        responses = [response for one in conversations for response in one.responses(config.samples)]
        return Rollouts.from_responses(first.groups, responses)

    def _opened(
        self, prompts: Sequence[Prompt], sampler: Sampler, seed: int, stage: str, step: int
    ) -> tuple[list[Prompt], dict[str, str]]:
        """The prompts, each with first words of its user, and why there are none, by prompt id."""
        config = self._config
        level = config.feeling.level(config.feeling.start)
        silent = {
            prompt.prompt_id: Talk(
                prompt.prompt_id, prompt, (), config.feeling.start, level,
                key=stream_key("user opens", seed, stage, step, prompt.prompt_id), calls_left=config.max_user_calls,
            )
            for prompt in prompts if not prompt.messages or prompt.messages[-1].role != "user"
        }  # fmt: skip
        if not silent:
            return list(prompts), {}
        words = asked_once(sampler, partial(self._user.begin, list(silent.values())), "what users begin with", (Words,))
        said = {name: words[name].text or SILENT for name in silent}
        opened = [
            replace(prompt, messages=(*prompt.messages, Message("user", said[prompt.prompt_id])))
            if prompt.prompt_id in silent
            else prompt
            for prompt in prompts
        ]
        return opened, {name: words[name].fault for name in silent if words[name].fault}

    def _hear(self, running: Sequence[Conversation], sampler: Sampler, writer: "_Writer", *, last: bool) -> None:
        """Every user hears the reply to it, feels, and answers; conversations that end here are marked."""
        scale = self._config.feeling
        for one in running:
            writer.hear(one)
        felt = asked_once(
            sampler, partial(self._user.feel, [one.talk(scale) for one in running]), "what users feel", (Feeling,)
        )
        for one in running:
            one.feel(felt[one.talk_id], scale)
            if last and not one.ended:
                one.ended = "turns"
        left = [one for one in running if not one.ended]
        if not left:
            return
        said = asked_once(
            sampler, partial(self._user.say, [one.talk(scale) for one in left]), "what users say", (Words,)
        )
        for one in left:
            one.answer(said[one.talk_id], self._config.goodbyes)


class _Writer:
    """Ids and texts of conversations: what a user hears of a turn, and what the policy goes on after."""

    def __init__(self, config: Dialogue, policy: "Policy") -> None:
        self._config = config
        self._tokenizer = policy.tokenizer
        self._stop_ids = policy.stop_ids
        self._renderer = ChatRenderer(policy.tokenizer)
        self._prefix = self._renderer.given_ids(config.first.response_prefix)
        opening = self._renderer.opening + config.first.response_prefix.removeprefix(self._renderer.opening)
        self._thinks = THINK in opening.rpartition("</think>")[2]

    def hear(self, one: Conversation) -> None:
        """Notes what the user reads of the last turn, and the ids of that."""
        response, begin = one.trajectory.response, one.trajectory.begin
        ends = [0, *response.char_ends.tolist()]
        text = response.text[ends[begin] :]
        start = visible_start(text, self._thinks, self._config.labels)
        one.hear(
            plain_text(self._tokenizer, text[start:].strip()),
            np.concatenate([visible_ids(response, begin, ends[begin] + start, self._encode), self._closing(response)]),
        )

    def given(self, one: Conversation) -> Ids:
        """The ids that the policy goes on after: the user's words and the next turn's header, or the whole history."""
        text = plain_text(self._tokenizer, one.turns[-1].content)
        ids = self._encode(text)
        if len(ids) > self._config.max_user_tokens:
            text = str(self._tokenizer.decode(ids[: self._config.max_user_tokens].tolist()))
        said = self._renderer.next_turn_ids([Message("user", text)])
        if self._config.samples == "dialogue":
            return np.concatenate([self._closing(one.trajectory.response), said, self._prefix])
        one.history += [one.visible_ids, said]
        one.next_sample()
        return np.concatenate([*one.history, self._prefix])

    def _closing(self, response: Response) -> Ids:
        """The token that ends a turn, where a limit cut it off before."""
        stopped = response.token_count > 0 and int(response.token_ids[-1]) in self._stop_ids
        return np.asarray([] if stopped else [self._renderer.end_id], dtype=np.int32)

    def _encode(self, text: str) -> Ids:
        return np.asarray(self._tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
