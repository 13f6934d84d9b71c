"""Traces of which only the answer is learned: what comes before it is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from thinkrl.data.source import DataError
from thinkrl.data.traces import Trace, TraceSource


@dataclass(frozen=True)
class AnswerTraces:
    """Traces of `source` whose loss is on the answer alone: from the last place of the reference to the end."""

    source: TraceSource
    """Traces whose responses end with the reference."""

    def traces(self) -> Sequence[Trace]:
        """One for each of the source's. Raises DataError for a response in which the reference does not stand."""
        return [self._answer_alone(trace) for trace in self.source.traces()]

    def _answer_alone(self, trace: Trace) -> Trace:
        start = trace.response.rfind(str(trace.prompt.reference))
        if start < 0 or trace.prompt.reference in (None, ""):
            raise DataError(
                f"prompt {trace.prompt.prompt_id}: its response does not say the answer {trace.prompt.reference!r}"
            )
        if start and trace.response[start - 1] == " ":  # tokens of words begin with the space before them
            start -= 1
        return replace(trace, given=((0, start),) if start else ())
