"""Does every turn think once, and then say something?"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.store import Response, Rollouts
from thinkrl.rollouts.tool_calls import turn_spans

_START, _END = "<think>", "</think>"


@dataclass(frozen=True)
class TurnThinking(RewardTerm):
    """1 where every turn of the policy is `<think>...</think>` and then a reply, with each tag once, else 0.

    As a gate it is what the text of RLVER (arXiv 2507.03112) asks of responses that are paid; the code does not.
    """

    reads_tokens: ClassVar[bool] = False

    prefix: str = ""
    """What was already written of each turn, such as `<think>`."""
    min_thinking_characters: int = 1
    """Least thinking of a turn, in characters other than white space."""

    def __post_init__(self) -> None:
        if self.min_thinking_characters < 0:
            raise ValueError(f"min_thinking_characters must be 0 or more, got {self.min_thinking_characters}")

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        """One value a response; the note names the first turn that is not in order."""
        notes = tuple(self._fault(response) for response in rollouts)
        return Scores(np.asarray([0.0 if note else 1.0 for note in notes], dtype=np.float64), notes=notes)

    def _fault(self, response: Response) -> str:
        ends = [0, *response.char_ends.tolist()]
        spans = turn_spans(response)
        for number, (first, stop) in enumerate(spans, start=1):
            fault = self._turn_fault(self.prefix + response.text[ends[first] : ends[stop]])
            if fault:
                return f"turn {number}: {fault}" if len(spans) > 1 else fault
        return "" if spans else "no turn"

    def _turn_fault(self, turn: str) -> str:
        for tag in (_START, _END):
            if turn.count(tag) != 1:
                return f"no {tag}" if tag not in turn else f"{tag} {turn.count(tag)} times"
        before, _, rest = turn.partition(_START)
        thinking, end, reply = rest.partition(_END)
        if not end:
            return f"{_END} before {_START}"
        if before.strip():
            return f"text before {_START}"
        if len("".join(thinking.split())) < self.min_thinking_characters:
            return "too little thinking"
        return "" if reply.strip() else "nothing said"
