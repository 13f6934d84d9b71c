"""Questions in pairs: each with a twin that asks the same in other words, and so has the same answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from thinkrl.data.source import DataError, PromptSource, check_template, fill_template
from thinkrl.rollouts.prompt import Message, Prompt

PAIR_ID = "pair_id"
"""Key of a prompt's metadata: what it shares with its twin and with no other prompt."""
SIDE = "side"
"""Key of a prompt's metadata: `original` or `rewritten`."""


class Rewriter(Protocol):
    """A frozen dataclass that asks a question in other words, the same way each time."""

    def rewrite(self, prompt: Prompt) -> str | None:
        """The question anew, or None where there is no other wording."""
        ...


@dataclass(frozen=True)
class PairedPrompts:
    """Each prompt of `source` and, right behind it, its twin: another question with the same answer.

    Both carry `pair_id` and `side` (original or rewritten) in their metadata, by which rewards find them, and stay in
    one batch, so a step takes an even number of prompts. A question without a twin is left out.
    """

    together: ClassVar[int] = 2

    source: PromptSource
    """The original questions."""
    rewriter: Rewriter
    """Gives the twin's question."""
    template: str = "{question}"
    """The twin's user turn: {question} is its question."""

    def __post_init__(self) -> None:
        check_template(self.template)

    def prompts(self) -> Sequence[Prompt]:
        """Originals and twins in turn, ids `<id>` and `<id>/rewritten`. Raises DataError where no question has one."""
        originals = self.source.prompts()
        pairs = [
            prompt
            for original in originals
            if (question := self.rewriter.rewrite(original)) is not None
            for prompt in self._pair(original, question)
        ]
        if not pairs:
            raise DataError(f"none of the {len(originals)} questions has a twin: see what {self.rewriter} reads")
        return pairs

    def _pair(self, original: Prompt, question: str) -> tuple[Prompt, Prompt]:
        shared = {**original.metadata, PAIR_ID: original.prompt_id}
        turn = Message("user", fill_template(self.template, {"question": question}))
        return (
            replace(original, metadata={**shared, SIDE: "original"}),
            replace(
                original,
                prompt_id=f"{original.prompt_id}/rewritten",
                messages=(*original.messages[:-1], turn),
                metadata={**shared, SIDE: "rewritten", "question": question},
            ),
        )


@dataclass(frozen=True)
class RewrittenColumn:
    """The twin's question as a column of the data holds it, for rewordings that a model wrote beforehand.

    With `start` and `end` the column may hold all that the model wrote: what stands between the last `start` and the
    `end` behind it is the question, and a row without both has no twin.
    """

    column: str = "rewritten"
    """Column with the rewording, or with the text that holds it."""
    start: str = ""
    """What stands before the rewording; empty where the column begins with it."""
    end: str = ""
    """What stands behind it; empty where the column ends with it."""

    def rewrite(self, prompt: Prompt) -> str | None:
        """The text between the marks, without white space around it; None where nothing is left."""
        text = prompt.metadata.get(self.column)
        if not isinstance(text, str):
            return None
        if self.start:
            _, found, text = text.rpartition(self.start)
            if not found:
                return None
        if self.end:
            text, found, _ = text.partition(self.end)
            if not found:
                return None
        return text.strip() or None
