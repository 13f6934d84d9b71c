"""A policy that calls tools: it writes a call, reads what the tool says, and goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from thinkrl.config.component import NewTokens
from thinkrl.environments.calling import Asked, read_turn, replies, spoken_ids
from thinkrl.environments.environment import Environment
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.environments.tools import PythonTool, Tool, ToolReply
from thinkrl.environments.turns import Trajectory, Turns, asked_once
from thinkrl.rollouts.calls import CallOutcome, CallRecord
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.rollouts.tool_calls import ToolSyntax
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy


@dataclass(frozen=True)
class ToolUse:
    """Turns of the policy, each but the last followed by what a tool says to its call.

    A turn ends with a call. The tool's words are appended as given tokens, which carry no loss, and the policy goes
    on from the very tokens that were sampled. A response ends with a call of `answer_tool`, with a turn that calls
    nothing, after `max_turns`, or at a limit on tokens. `SamplingSpec.max_new_tokens` is the limit of a whole response,
    what tools say included, as in every environment. A call that cannot be read is answered with what is wrong with it.
    What became of each call stands in the rollouts (`CallRecord`).
    """

    tools: Mapping[str, Tool] = field(default_factory=lambda: {"python": PythonTool()})
    """What can be called, by name."""
    answer_tool: str | None = "answer"
    """The call that ends a response; null where a turn without a call does."""
    syntax: ToolSyntax = field(default_factory=ToolSyntax)
    """How calls and what tools say are written."""
    max_turns: int = 4
    """Most turns of the policy; a call at the end of the last is not answered."""
    max_turn_tokens: NewTokens = 1024
    """Most tokens of one turn, where a response may have more; a turn that reaches it ends the response."""
    max_tool_tokens: int = 512
    """Most tokens of what a tool says; the rest is cut off."""
    first: Environment = field(default_factory=SingleTurn)
    """Samples the first turn."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_turn_tokens", "max_tool_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.answer_tool in self.tools:
            raise ValueError(f"answer_tool must not be one of tools, got {self.answer_tool!r}")

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
        """Groups and names are those of `first`. Each turn of each response has a random stream of its own."""
        turn_spec = replace(
            spec,
            max_new_tokens=min(self.max_turn_tokens, spec.max_new_tokens),
            stop=(*spec.stop, self.syntax.call_end),
        )
        turns = Turns(policy, sampler, turn_spec, spec.max_new_tokens)
        first = self.first.rollout(policy, sampler, prompts, group_size, turn_spec, seed, stage, step)
        trajectories = turns.begin(first, seed, stage)
        for trajectory in trajectories:
            trajectory.response = replace(trajectory.response, calls=())
        for turn in range(1, self.max_turns + 1):
            calling = self._calling(trajectories, turns, turn)
            if not calling:
                break
            running = []
            for (trajectory, asked), reply in zip(calling, self._replies(calling, sampler), strict=True):
                parts = spoken_ids(reply.text, self.syntax, policy.tokenizer, self.max_tool_tokens)
                given = np.concatenate(parts)
                if turns.room(trajectory, given) > 0:
                    _note(trajectory, replace(asked, reply=reply).record(turn))
                    running.append((trajectory, given))
                else:
                    _note(trajectory, asked.record(turn, CallOutcome.UNANSWERED))
                    trajectory.cut()
            turns.go_on(running, turn)
        return Rollouts.from_responses(first.groups, [trajectory.response for trajectory in trajectories])

    def _calling(self, trajectories: Sequence[Trajectory], turns: Turns, turn: int) -> list[tuple[Trajectory, Asked]]:
        """Those that wait for an answer to their call, in order; all others end here."""
        found: list[tuple[Trajectory, Asked]] = []
        for trajectory in (one for one in trajectories if one.open):
            response = trajectory.response
            text = turns.decoder.decode(response.token_ids[trajectory.begin :].tolist())
            trajectory.open = response.finish_reason is FinishReason.STOP and self.syntax.calls(text)
            if not trajectory.open:
                continue
            asked = read_turn(text, self.tools, self.answer_tool, self.syntax)
            if asked.reply is not None and asked.reply.outcome is CallOutcome.FINAL:
                trajectory.open = False
                _note(trajectory, asked.record(turn))
            elif turn == self.max_turns:
                _note(trajectory, asked.record(turn, CallOutcome.UNANSWERED if asked.reply is None else None))
                trajectory.cut()
            else:
                found.append((trajectory, asked))
        return found

    def _replies(self, calling: Sequence[tuple[Trajectory, Asked]], sampler: Sampler) -> list[ToolReply]:
        """What each reads, in order."""
        asked = [one for _, one in calling]
        return asked_once(sampler, lambda: replies(asked, self.tools), "what tools say", (ToolReply, CallOutcome))


def _note(trajectory: Trajectory, record: CallRecord) -> None:
    trajectory.response = replace(trajectory.response, calls=(*(trajectory.response.calls or ()), record))
