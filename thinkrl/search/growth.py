"""Grows many trees side by side: what their rounds ask for is sampled, and read by the value model, in one batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thinkrl.data.chat import ChatRenderer
from thinkrl.environments.decoding import Decoder
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import FinishReason
from thinkrl.rollouts.streams import generator, stream_key
from thinkrl.sampling.sampler import Sample, Sampler, SampleRequest, SamplingSpec
from thinkrl.search.method import Judge, Plan, Proposal, Propose, SearchMethod
from thinkrl.search.steps import StepRule
from thinkrl.search.tree import Node, Tree

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

Valuation = Callable[[Sequence[Prompt], Sequence[str]], NDArray[np.float64]]
"""The values of beginnings of solutions to prompts, [n]."""


@dataclass(eq=False)
class _Slot:
    """One proposal that was asked for: by which request, behind which of its nodes, and which of several."""

    tree: Tree
    request: Propose
    place: int
    number: int
    asked: int
    found: Proposal | None = None

    @property
    def node(self) -> Node:
        return self.request.nodes[self.place]


@dataclass(frozen=True, eq=False)
class Growth:
    """A policy, and what is read of its steps, at work on trees.

    A sample depends on seed, stage, the prompt's id and its place in the tree's own history, on the weights and on
    `sampling` alone; so does the whole tree, up to near-ties of values.
    """

    policy: "Policy"
    sampler: Sampler
    sampling: SamplingSpec
    rule: StepRule
    value: Valuation | None
    seed: int
    stage: str
    _prompt_ids: dict[str, NDArray[np.int32]] = field(default_factory=dict, init=False)

    def plant(self, prompt: Prompt) -> Tree:
        """A tree without a step; what the chat template opens the response with is its root's."""
        given = ChatRenderer(self.policy.tokenizer).given_ids()
        text = Decoder(self.policy.tokenizer).decode([int(token) for token in given])
        return Tree(prompt, Node(text, tuple(int(token) for token in given), value=0.0))

    def grow(self, trees: Sequence[Tree], method: SearchMethod) -> bool:
        """One round of each tree that is not done; returns whether there was any."""
        growing = [tree for tree in trees if not method.over(tree)]
        plans = []
        for tree in growing:
            stream = generator("search", self.seed, self.stage, tree.prompt.prompt_id, "round", tree.rounds)
            plans.append(method.round(tree, self.rule, stream))
        self.carry_out(growing, plans)
        for tree in growing:
            tree.rounds += 1
        return bool(growing)

    def carry_out(self, trees: Sequence[Tree], plans: Sequence[Plan]) -> None:
        """Runs `plans`, one on each of `trees`, in step: each gets what it asks for before any asks again."""
        asking = [(tree, plan, next(plan, None)) for tree, plan in zip(trees, plans, strict=True)]
        while True:
            waiting = [(tree, plan, request) for tree, plan, request in asking if request is not None]
            if not waiting:
                return
            replies = self._answer([(tree, request) for tree, _, request in waiting])
            asking = [(tree, plan, _sent(plan, reply)) for (tree, plan, _), reply in zip(waiting, replies, strict=True)]

    def _answer(self, requests: Sequence[tuple[Tree, Propose | Judge]]) -> list[list[list[Proposal]]]:
        slots: list[list[_Slot]] = []
        judged: list[tuple[Tree, Node]] = []
        for tree, request in requests:
            slots.append([])
            if isinstance(request, Judge):
                judged += [(tree, node) for node in request.nodes]
                continue
            places, numbers = range(len(request.nodes)), range(request.count)
            slots[-1] = [_Slot(tree, request, place, number, tree.asked) for place in places for number in numbers]
            tree.asked += 1
        self._judge(judged)
        self._propose([slot for own in slots for slot in own])
        return [_by_node(request, own) for (_, request), own in zip(requests, slots, strict=True)]

    def _judge(self, judged: Sequence[tuple[Tree, Node]]) -> None:
        """Reads values, and cuts them off at 0 and 1."""
        if self.value is None or not judged:
            return
        values = self.value([tree.prompt for tree, _ in judged], [node.beginning for _, node in judged])
        for (_, node), value in zip(judged, np.clip(values, 0.0, 1.0), strict=True):
            node.value = float(value)

    def _propose(self, slots: Sequence[_Slot]) -> None:
        """Samples for all slots; a step that cannot be used is sampled again, as often as the rule says."""
        for attempt in range(self.rule.tries):
            # A whole solution is taken as it comes: only the first attempt is at one.
            open_slots = [slot for slot in slots if slot.found is None and not (slot.request.whole and attempt)]
            for whole in (False, True):
                self._sample([slot for slot in open_slots if slot.request.whole == whole], attempt, whole)

    def _sample(self, slots: Sequence[_Slot], attempt: int, whole: bool) -> None:
        if not slots:
            return
        by_node: dict[tuple[int, int], list[_Slot]] = {}
        for slot in slots:
            by_node.setdefault((id(slot.tree), id(slot.node)), []).append(slot)
        groups = list(by_node.values())
        requests = [
            SampleRequest(
                np.concatenate([self._ids(own[0].tree), np.asarray(own[0].node.beginning_ids, dtype=np.int32)]),
                tuple(self._key(slot, attempt) for slot in own),
            )
            for own in groups
        ]
        spec = self.sampling
        if whole:
            spec = replace(spec, max_new_tokens=self.rule.solution_tokens)
        else:
            spec = replace(spec, stop=(*spec.stop, self.rule.delimiter))
        for own, samples in zip(groups, self.sampler.sample(requests, spec), strict=True):
            for slot, sample in zip(own, samples, strict=True):
                self._take(slot, sample)

    def _take(self, slot: _Slot, sample: Sample) -> None:
        tree, beginning = slot.tree, slot.node.beginning
        proposal = self._read(slot.node, beginning, sample)
        tree.tokens += len(sample.token_ids)
        tree.proposals += 1
        tree.cut += proposal.cut
        usable = bool(proposal.text.strip()) if slot.request.whole else self.rule.usable(proposal.text, beginning)
        tree.dropped += not usable
        slot.found = proposal if usable else None

    def _read(self, node: Node, beginning: str, sample: Sample) -> Proposal:
        """What was sampled, as text that continues the beginning's."""
        ids = [int(token) for token in sample.token_ids]
        stopped = sample.finish_reason is FinishReason.STOP and bool(ids) and ids[-1] in self.policy.stop_ids
        shown = ids[:-1] if stopped else ids
        decoder = Decoder(self.policy.tokenizer)
        # Some tokenizers drop a space at the start of what they decode.
        together = decoder.decode([*node.beginning_ids, *shown])
        text = together[len(beginning) :] if together.startswith(beginning) else decoder.decode(shown)
        return Proposal(text, tuple(ids), stopped, sample.finish_reason is FinishReason.LENGTH)

    def _ids(self, tree: Tree) -> NDArray[np.int32]:
        name = tree.prompt.prompt_id
        if name not in self._prompt_ids:
            self._prompt_ids[name] = ChatRenderer(self.policy.tokenizer).prompt_ids(tree.prompt.messages)
        return self._prompt_ids[name]

    def _key(self, slot: _Slot, attempt: int) -> int:
        place = (slot.asked, slot.place, slot.number, attempt)
        return stream_key("search", self.seed, self.stage, slot.tree.prompt.prompt_id, *place)


def _sent(plan: Plan, reply: list[list[Proposal]]) -> Propose | Judge | None:
    """What the plan asks for next; None where it is done."""
    try:
        return plan.send(reply)
    except StopIteration:
        return None


def _by_node(request: Propose | Judge, slots: Sequence[_Slot]) -> list[list[Proposal]]:
    """The usable proposals, for each node in order; nothing for values."""
    if isinstance(request, Judge):
        return []
    found: list[list[Proposal]] = [[] for _ in request.nodes]
    for slot in slots:
        if slot.found is not None:
            found[slot.place].append(slot.found)
    return found
