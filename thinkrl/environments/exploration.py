"""Responses that the policy alone would not write: tempered, with steps at random, and completed at random."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from thinkrl.data.chat import ChatRenderer
from thinkrl.environments.decoding import Decoder
from thinkrl.environments.single_turn import make_response
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response
from thinkrl.rollouts.streams import generator, stream_key
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

Ids = NDArray[np.int32]


class ActionSet(Protocol):
    """A frozen dataclass that knows which steps, one a line, a problem allows."""

    def next(self, prompt: Prompt, written: str) -> list[str]:
        """Lines that may follow what is written, in a fixed order; none at the end, or after a fault."""
        ...

    def steps(self, prompt: Prompt) -> int:
        """Lines of a whole solution."""
        ...


@dataclass(frozen=True, eq=False)
class Explorer:
    """Writes lines with a sampler and a set of actions. Tokens that it writes are marked as sampled, as they are
    learned from, but have a log-probability only where the policy drew them at the temperature of `spec`."""

    policy: "Policy"
    actions: ActionSet
    spec: SamplingSpec

    def written(
        self, response_id: str, group: Group, ids: Ids, logprobs: NDArray[np.float32], version: int
    ) -> Response:
        """A response of these ids, which end with the stop token where it is finished."""
        stopped = len(ids) > 0 and int(ids[-1]) in self.policy.stop_ids
        sample = Sample(
            token_ids=ids,
            logprobs=logprobs,
            entropies=np.full(len(ids), np.nan, dtype=np.float32),
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
            version=version,
        )
        nothing = np.zeros(0, dtype=np.int32)
        return make_response(response_id, group.group_id, nothing, sample, self.policy.stop_ids, self._decoder)

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.policy.tokenizer)

    @cached_property
    def _end_id(self) -> int:
        return ChatRenderer(self.policy.tokenizer).end_id

    def line_ids(self, line: str, last: bool) -> Ids:
        """Ids of a line, with the stop token or the end of the line behind it."""
        plain = self.policy.tokenizer.encode(line if last else line + "\n", add_special_tokens=False)
        return np.asarray([*plain, self._end_id] if last else plain, dtype=np.int32)

    def random_line(self, prompt: Prompt, written: str, stream: np.random.Generator) -> str | None:
        """A line from the action set, each as likely, one that is not written yet where there is one."""
        legal = self.actions.next(prompt, written)
        done = set(written.splitlines())
        choice = [line for line in legal if line not in done] or legal
        return choice[int(stream.integers(len(choice)))] if choice else None

    def completed(self, response: Response, prompt: Prompt, kept: int, stream: np.random.Generator) -> Ids | None:
        """Ids of the first `kept` lines of a response as they were sampled, and random lines to the end; None where its
        lines lead nowhere, or its tokens do not end where the lines do."""
        lines = response.text.splitlines(keepends=True)[:kept]
        text = "".join(lines)
        count = int(np.searchsorted(response.char_ends, len(text), side="right")) if text else 0
        if len(lines) < kept or (count and int(response.char_ends[count - 1]) != len(text)):
            return None
        ids, steps = [response.token_ids[:count]], self.actions.steps(prompt)
        for step in range(kept, steps):
            line = self.random_line(prompt, text, stream)
            if line is None:
                return None
            ids.append(self.line_ids(line, step == steps - 1))
            text += line + "\n"
        whole = np.concatenate(ids).astype(np.int32)
        return whole if len(whole) <= self.spec.max_new_tokens else None

    def explored(
        self,
        sampler: Sampler,
        groups: Sequence[Group],
        group_size: int,
        temperatures: Sequence[float],
        chance: float,
        keys: tuple[str | int, ...],
    ) -> list[Response]:
        """Responses step by step: each step is a random line with probability `chance`, else the policy's, drawn with
        the group's own temperature."""
        drafts = [
            _Draft(group, index, temperature)
            for group, temperature in zip(groups, temperatures, strict=True)
            for index in range(group_size)
        ]
        longest = max((self.actions.steps(group.prompt) for group in groups), default=0)
        for step in range(longest if chance else 0):
            asked: list[_Draft] = []
            for draft in drafts:
                if draft.finished(self):
                    continue
                stream = generator("explore", *keys, draft.group.prompt.prompt_id, draft.index, step)
                at_line = not draft.text or draft.text.endswith("\n")
                line = None
                if stream.random() < chance and at_line:
                    line = self.random_line(draft.group.prompt, draft.text, stream)
                if line is None:
                    asked.append(draft)
                else:
                    draft.force(self, self.line_ids(line, step == self.actions.steps(draft.group.prompt) - 1))
            self._ask(sampler, asked, step, ("\n",), keys)
        self._ask(sampler, [draft for draft in drafts if not draft.finished(self)], longest, (), keys)
        return [draft.response(self, sampler.version) for draft in drafts]

    def _ask(
        self, sampler: Sampler, drafts: list["_Draft"], step: int, stop: tuple[str, ...], keys: tuple[str | int, ...]
    ) -> None:
        """Lets the policy go on, to the end of a line or of the response; one call for those that are alike."""
        alike: dict[tuple[float, int], list[_Draft]] = {}
        for draft in drafts:
            alike.setdefault((draft.temperature, draft.room(self)), []).append(draft)
        for (temperature, room), several in alike.items():
            spec = replace(
                self.spec, temperature=temperature, max_new_tokens=room, stop=(*self.spec.stop, *stop), budget=None
            )
            requests = [
                SampleRequest(
                    np.concatenate([draft.group.prompt_ids, draft.ids]).astype(np.int32),
                    (stream_key("explored", *keys, draft.group.prompt.prompt_id, draft.index, step),),
                )
                for draft in several
            ]
            for draft, (sample,) in zip(several, sampler.sample(requests, spec), strict=True):
                draft.extend(self, sample, temperature == self.spec.temperature)


class _Draft:
    """A response that is being written."""

    def __init__(self, group: Group, index: int, temperature: float) -> None:
        self.group, self.index, self.temperature = group, index, temperature
        self.ids = np.zeros(0, dtype=np.int32)
        self.text = ""
        self._logprobs = np.zeros(0, dtype=np.float32)

    def room(self, explorer: Explorer) -> int:
        """Tokens that may still be written."""
        return explorer.spec.max_new_tokens - len(self.ids)

    def finished(self, explorer: Explorer) -> bool:
        """Whether a stop token was written, or the limit is reached."""
        stopped = len(self.ids) > 0 and int(self.ids[-1]) in explorer.policy.stop_ids
        return stopped or self.room(explorer) <= 0

    def force(self, explorer: Explorer, ids: Ids) -> None:
        """Adds what the policy did not draw."""
        ids = ids[: self.room(explorer)]
        self._add(explorer, ids, np.full(len(ids), np.nan, dtype=np.float32))

    def extend(self, explorer: Explorer, sample: Sample, known: bool) -> None:
        """Adds what the policy drew; its log-probabilities count where they are those of the stage's specification."""
        logprobs = sample.logprobs.astype(np.float32)
        self._add(explorer, sample.token_ids, logprobs if known else np.full_like(logprobs, np.nan))

    def response(self, explorer: Explorer, version: int) -> Response:
        """What was written."""
        name = f"{self.group.group_id}/{self.index}"
        return explorer.written(name, self.group, self.ids, self._logprobs, version)

    def _add(self, explorer: Explorer, ids: Ids, logprobs: NDArray[np.float32]) -> None:
        self.ids = np.concatenate([self.ids, ids.astype(np.int32)])
        self._logprobs = np.concatenate([self._logprobs, logprobs])
        shown = self.ids[:-1] if len(self.ids) and int(self.ids[-1]) in explorer.policy.stop_ids else self.ids
        self.text = str(explorer.policy.tokenizer.decode(shown.tolist(), skip_special_tokens=False))
