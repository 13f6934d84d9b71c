"""What a policy can call: arguments in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from thinkrl.rollouts.calls import CallOutcome
from thinkrl.sandbox.execution import Execution, Limit
from thinkrl.sandbox.python_sandbox import PythonSandbox


@dataclass(frozen=True)
class ToolReply:
    """What a tool says to a call, for the policy to read, and what became of the call, for the record.

    reason: what is wrong, or which limit was met; empty where there is nothing to say.
    """

    text: str
    outcome: CallOutcome = CallOutcome.DONE
    reason: str = ""


class Tool(Protocol):
    """A frozen dataclass that answers calls. It may take long for one call, so it gets all of a turn at once."""

    def fault(self, arguments: Mapping[str, Any]) -> str:
        """Why these arguments cannot be used, for the policy to read; empty when they can."""
        ...

    def answer_all(self, calls: Sequence[Mapping[str, Any]]) -> list[ToolReply]:
        """The answer to each call, in order, within a limit on time of its own. The same call has the same answer."""
        ...


@dataclass(frozen=True)
class PythonTool:
    """Runs the script in the argument `code` and shows what it printed, then the error if there was one.

    What fails or takes too long is an answer like any other. Partial output that depends on timing is not shown.
    """

    sandbox: PythonSandbox = field(default_factory=PythonSandbox)
    """Where scripts run."""

    def fault(self, arguments: Mapping[str, Any]) -> str:
        """Anything but one text called `code`."""
        if set(arguments) != {"code"} or not isinstance(arguments["code"], str):
            return 'the arguments must be {"code": "..."} and nothing else'
        return ""

    def answer_all(self, calls: Sequence[Mapping[str, Any]]) -> list[ToolReply]:
        """Runs the scripts side by side, equal ones once: they begin alike, so they end alike."""
        scripts = [str(call["code"]) for call in calls]
        different = list(dict.fromkeys(scripts))
        replies = dict(zip(different, map(self._reply, self.sandbox.run_all(different)), strict=True))
        return [replies[script] for script in scripts]

    def _reply(self, done: Execution) -> ToolReply:
        text = self._shown(done)
        if done.limit is not None:
            return ToolReply(text, CallOutcome.STOPPED, done.limit.value)
        if not done.succeeded:
            return ToolReply(text, CallOutcome.FAILED, text.rpartition("\n")[2])
        return ToolReply(text)

    def _shown(self, done: Execution) -> str:
        if done.limit is Limit.WALL:
            return f"stopped: it took more than {self.sandbox.wall_seconds:g} s"
        if done.limit is not None and done.exit_code is None:
            return f"stopped: too much {done.limit.value}"
        parts = [done.stdout.rstrip("\n"), done.stderr.rstrip("\n")]
        if done.signal:
            parts.append(f"stopped by {done.signal}")
        return "\n".join(part for part in parts if part) or "no output"
