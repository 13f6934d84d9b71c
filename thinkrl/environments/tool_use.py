"""A policy that calls tools: it writes a call, reads what the tool says, and goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from thinkrl.environments.decoding import Decoder
from thinkrl.environments.environment import Environment
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.environments.tools import PythonTool, Tool
from thinkrl.environments.turns import Ids, Trajectory, Turns, asked_once, plain_text
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.rollouts.tool_calls import ToolCall, ToolCallError, ToolSyntax
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy


@dataclass(frozen=True)
class ToolUse:
    """Turns of the policy, each but the last followed by what a tool says to its call.

    A turn ends with a call. The tool's words are appended as given tokens, which carry no loss, and the policy goes
    on from the very tokens that were sampled. A response ends with a call of `answer_tool`, with a turn that calls
    nothing, after `max_turns`, or at a limit on tokens: `SamplingSpec.max_new_tokens` is that of one turn.
    A call that cannot be read is answered with what is wrong with it.
    """

    tools: Mapping[str, Tool] = field(default_factory=lambda: {"python": PythonTool()})
    """What can be called, by name."""
    answer_tool: str | None = "answer"
    """The call that ends a response; null where a turn without a call does."""
    syntax: ToolSyntax = field(default_factory=ToolSyntax)
    """How calls and what tools say are written."""
    max_turns: int = 4
    """Most turns of the policy; a call at the end of the last is not answered."""
    max_response_tokens: int = 4096
    """Most tokens of a response, those of tools included."""
    max_tool_tokens: int = 512
    """Most tokens of what a tool says; the rest is cut off."""
    first: Environment = field(default_factory=SingleTurn)
    """Samples the first turn."""

    def __post_init__(self) -> None:
        for name in ("max_turns", "max_response_tokens", "max_tool_tokens"):
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
        ending = replace(spec, stop=(*spec.stop, self.syntax.call_end))
        if spec.max_new_tokens > self.max_response_tokens:
            raise ValueError(
                f"max_response_tokens must be at least sampling.max_new_tokens {spec.max_new_tokens},"
                f" got {self.max_response_tokens}"
            )
        turns = Turns(policy, sampler, ending, self.max_response_tokens)
        first = self.first.rollout(policy, sampler, prompts, group_size, ending, seed, stage, step)
        trajectories = turns.begin(first, seed, stage)
        for turn in range(1, self.max_turns + 1):
            calling = self._calling(trajectories, turns.decoder, last=turn == self.max_turns)
            if not calling:
                break
            calls = [call for _, call in calling]
            said = asked_once(sampler, partial(self._answers, calls), "what tools say")
            running = []
            for (trajectory, _), text in zip(calling, said, strict=True):
                given = self._given(text, policy)
                if turns.room(trajectory, given) > 0:
                    running.append((trajectory, given))
                else:
                    trajectory.cut()
            turns.go_on(running, turn)
        return Rollouts.from_responses(first.groups, [trajectory.response for trajectory in trajectories])

    def _calling(
        self, trajectories: Sequence[Trajectory], decoder: Decoder, *, last: bool
    ) -> list[tuple[Trajectory, ToolCall | str]]:
        """Those that wait for a tool, with their call or what is wrong with it; all others end here."""
        found: list[tuple[Trajectory, ToolCall | str]] = []
        for trajectory in (one for one in trajectories if one.open):
            response = trajectory.response
            text = decoder.decode(response.token_ids[trajectory.begin :].tolist())
            trajectory.open = response.finish_reason is FinishReason.STOP and self.syntax.calls(text)
            if not trajectory.open:
                continue
            try:
                call = self.syntax.read_call(text)
            except ToolCallError as error:
                found.append((trajectory, f"error: {error}"))
                continue
            if call.name == self.answer_tool:
                trajectory.open = False
            else:
                found.append((trajectory, self._fault(call) or call))
        if last:
            for trajectory, _ in found:
                trajectory.cut()
            return []
        return found

    def _fault(self, call: ToolCall) -> str:
        tool = self.tools.get(call.name)
        if tool is None:
            known = [*self.tools, *([self.answer_tool] if self.answer_tool else [])]
            return f"error: there is no tool {call.name!r}; there are: {', '.join(known)}"
        fault = tool.fault(call.arguments)
        return f"error: {fault}" if fault else ""

    def _answers(self, calls: Sequence[ToolCall | str]) -> list[str]:
        """What each call is answered, in order."""
        said = [call if isinstance(call, str) else "" for call in calls]
        for name, tool in self.tools.items():
            asked = {
                n: call.arguments for n, call in enumerate(calls) if isinstance(call, ToolCall) and call.name == name
            }
            for place, text in zip(asked, tool.answer_all(list(asked.values())) if asked else [], strict=True):
                said[place] = text
        return said

    def _given(self, text: str, policy: "Policy") -> Ids:
        """The ids of what a tool says, between its tags; nothing in it can be a tag or end a turn."""
        tokenizer = policy.tokenizer
        text = plain_text(tokenizer, text, [tag.strip() for tag in vars(self.syntax).values()])
        parts = []
        for part in (self.syntax.response_start, text, self.syntax.response_end):
            ids = tokenizer(part, add_special_tokens=False)["input_ids"]
            parts.append(np.asarray(ids, dtype=np.int32))
        parts[1] = parts[1][: self.max_tool_tokens]
        return np.concatenate(parts)
