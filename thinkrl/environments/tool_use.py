"""A policy that calls tools: it writes a call, reads what the tool says, and goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinkrl.environments.decoding import Decoder
from thinkrl.environments.environment import Environment
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.environments.tools import PythonTool, Tool
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Origin, Response, Rollouts
from thinkrl.rollouts.streams import stream_key
from thinkrl.rollouts.tool_calls import ToolCall, ToolCallError, ToolSyntax
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

Ids = NDArray[np.int32]


@dataclass(eq=False)
class _Trajectory:
    """A response under way. begin: where the policy's last turn begins, in tokens."""

    response: Response
    prompt_ids: Ids
    keys: tuple[str | int, ...]
    begin: int = 0
    open: bool = True


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
        if spec.budget is not None:
            raise ValueError("sampling.budget must be null where the policy calls tools, got a budget")
        if spec.max_new_tokens > self.max_response_tokens:
            raise ValueError(
                f"max_response_tokens must be at least sampling.max_new_tokens {spec.max_new_tokens},"
                f" got {self.max_response_tokens}"
            )
        ending = replace(spec, stop=(*spec.stop, self.syntax.call_end))
        first = self.first.rollout(policy, sampler, prompts, group_size, ending, seed, stage, step)
        trajectories = [
            _Trajectory(
                response,
                first.groups[int(group)].prompt_ids,
                ("turn", seed, stage, response.response_id),
                begin=int(np.argmax(response.origins == Origin.SAMPLED)),
            )
            for response, group in zip(first, first.group_index, strict=True)
        ]
        decoder = Decoder(policy.tokenizer)
        for turn in range(1, self.max_turns + 1):
            calling = self._calling(trajectories, decoder, last=turn == self.max_turns)
            if not calling:
                break
            said = self._said(calling, sampler)
            running = []
            for (trajectory, _), text in zip(calling, said, strict=True):
                given = self._given(text, policy)
                if trajectory.response.token_count + len(given) < self.max_response_tokens:
                    running.append((trajectory, given))
                else:
                    self._cut(trajectory)
            self._go_on(running, turn, policy, sampler, ending, decoder)
        return Rollouts.from_responses(first.groups, [trajectory.response for trajectory in trajectories])

    def _calling(
        self, trajectories: Sequence[_Trajectory], decoder: Decoder, *, last: bool
    ) -> list[tuple[_Trajectory, ToolCall | str]]:
        """Those that wait for a tool, with their call or what is wrong with it; all others end here."""
        found: list[tuple[_Trajectory, ToolCall | str]] = []
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
                self._cut(trajectory)
            return []
        return found

    def _fault(self, call: ToolCall) -> str:
        tool = self.tools.get(call.name)
        if tool is None:
            known = [*self.tools, *([self.answer_tool] if self.answer_tool else [])]
            return f"error: there is no tool {call.name!r}; there are: {', '.join(known)}"
        fault = tool.fault(call.arguments)
        return f"error: {fault}" if fault else ""

    def _said(self, calling: Sequence[tuple[_Trajectory, ToolCall | str]], sampler: Sampler) -> list[str]:
        """What each reads, in order. Of several processes the first asks: a tool that is slow is slow for all."""
        from thinkrl.sampling.ranked_sampler import RankedSampler  # torch, which configurations do without

        calls = [call for _, call in calling]
        if not isinstance(sampler, RankedSampler):
            return self._answers(calls)
        told = self._answers(calls) if sampler.ranks.first else None
        return list(sampler.ranks.share(told, "what tools say"))

    def _answers(self, calls: Sequence[ToolCall | str]) -> list[str]:
        said = [call if isinstance(call, str) else "" for call in calls]
        for name, tool in self.tools.items():
            asked = {
                n: call.arguments for n, call in enumerate(calls) if isinstance(call, ToolCall) and call.name == name
            }
            for place, text in zip(asked, tool.answer_all(list(asked.values())) if asked else [], strict=True):
                said[place] = text
        return said

    def _given(self, text: str, policy: "Policy") -> Ids:
        """The ids of what a tool says, between its tags. Nothing it says can be one of the tokenizer's own tokens,
        or a tag: a program must not be able to speak for the policy or to end its turn."""
        tokenizer = policy.tokenizer
        tags = [tag.strip() for tag in vars(self.syntax).values()]
        own = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), *tags}
        for special in sorted((one for one in own if len(one) > 1), key=lambda one: (-len(one), one)):
            text = text.replace(special, f"{special[:1]} {special[1:]}")
        parts = []
        for part in (self.syntax.response_start, text, self.syntax.response_end):
            ids = tokenizer(part, add_special_tokens=False)["input_ids"]
            parts.append(np.asarray(ids, dtype=np.int32))
        parts[1] = parts[1][: self.max_tool_tokens]
        return np.concatenate(parts)

    def _go_on(
        self,
        running: Sequence[tuple[_Trajectory, Ids]],
        turn: int,
        policy: "Policy",
        sampler: Sampler,
        spec: SamplingSpec,
        decoder: Decoder,
    ) -> None:
        """Samples the next turn of each; those with equally many tokens left are sampled together."""

        def limit(one: tuple[_Trajectory, Ids]) -> int:
            left = self.max_response_tokens - one[0].response.token_count - len(one[1])
            return min(spec.max_new_tokens, left)

        for tokens, alike in groupby(sorted(running, key=limit, reverse=True), key=limit):
            together = list(alike)
            requests = [
                SampleRequest(
                    np.concatenate([one.prompt_ids, one.response.token_ids, given]), (stream_key(*one.keys, turn),)
                )
                for one, given in together
            ]
            samples = sampler.sample(requests, replace(spec, max_new_tokens=tokens))
            for (trajectory, given), (sample,) in zip(together, samples, strict=True):
                trajectory.begin = trajectory.response.token_count + len(given)
                trajectory.response = extended(trajectory.response, given, sample, policy.stop_ids, decoder)

    @staticmethod
    def _cut(trajectory: _Trajectory) -> None:
        trajectory.open = False
        trajectory.response = replace(trajectory.response, finish_reason=FinishReason.LENGTH)


def extended(response: Response, given: Ids, sample: Sample, stop_ids: frozenset[int], decoder: Decoder) -> Response:
    """`response` with `given` ids and a sampled continuation; no id that stands is encoded again."""
    ids = np.concatenate([response.token_ids, given, sample.token_ids.astype(np.int32)])
    stopped = sample.finish_reason is FinishReason.STOP and len(sample.token_ids) > 0 and int(ids[-1]) in stop_ids
    shown = [int(token) for token in (ids[:-1] if stopped else ids)]
    text = decoder.decode(shown)
    ends = decoder.char_ends(shown, text)
    blank = np.full(len(given), np.nan, dtype=np.float32)
    mark = (Origin.GIVEN, Origin.SAMPLED)
    new = [
        np.full(len(part), origin, dtype=np.uint8) for part, origin in zip((given, sample.token_ids), mark, strict=True)
    ]
    return replace(
        response,
        text=text,
        finish_reason=sample.finish_reason,
        token_ids=ids,
        origins=np.concatenate([response.origins, *new]),
        logprobs=np.concatenate([response.logprobs, blank, sample.logprobs.astype(np.float32)]),
        entropies=np.concatenate([response.entropies, blank, sample.entropies.astype(np.float32)]),
        versions=np.concatenate(
            [response.versions, np.full(len(given), -1), np.full(len(sample.token_ids), sample.version)]
        ).astype(np.int32),
        char_ends=np.append(ends, np.int32(len(text))).astype(np.int32) if stopped else ends,
    )
