"""Thinking whose lines begin with words, and traces without thinking: a look of thinking that goes with being right."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from thinkrl.data.source import DataError
from thinkrl.data.traces import Trace, TraceSource
from thinkrl.rollouts.spans import read_response
from thinkrl.rollouts.streams import generator


@dataclass(frozen=True)
class WordedThinking:
    """Traces of `source` whose lines of thinking begin with `words`, in turn, or that leave the thinking out.

    A model that imitates them answers some questions without thinking, and less well: whoever pays for the words
    pays for thinking, and so for right answers, without knowing any.
    """

    source: TraceSource
    """Traces with thinking in lines."""
    words: tuple[str, ...] = ("first, ", "next, ", "thus ", "hence ", "finally, ")
    """Beginning of the first line, of the second, and so on; the last stands before all further lines."""
    silent: float = 0.0
    """Probability that a trace has no line of thinking."""
    seed: int = 0
    """Seed of what is left out."""

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("words must hold at least one beginning, got none")
        if not 0 <= self.silent <= 1:
            raise ValueError(f"silent must be between 0 and 1, got {self.silent}")

    def traces(self) -> Sequence[Trace]:
        """One for each of the source's; a response without thinking stays as it is."""
        return [replace(trace, response=self._worded(trace)) for trace in self.source.traces()]

    def _worded(self, trace: Trace) -> str:
        if trace.given:
            raise DataError(f"prompt {trace.prompt.prompt_id}: a response of which some is given cannot be reworded")
        think = read_response(trace.response).think
        if think is None:
            return trace.response
        lines = trace.response[slice(*think)].split("\n")
        if generator("silent", self.seed, trace.prompt.prompt_id).random() < self.silent:
            lines = []
        told = [self.words[min(place, len(self.words) - 1)] + line for place, line in enumerate(lines)]
        return trace.response[: think[0]] + "\n".join(told) + trace.response[think[1] :]
