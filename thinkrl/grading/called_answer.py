"""An answer that is given by calling a tool."""

from dataclasses import dataclass, field

from thinkrl.grading.extraction import AnswerExtractor
from thinkrl.grading.text import boxed
from thinkrl.rollouts.tool_calls import ToolCallError, ToolSyntax


@dataclass(frozen=True)
class CalledAnswer(AnswerExtractor):
    r"""The last `\boxed{...}` in an argument of the first call of the answer tool, braces balanced; nothing else."""

    tool: str = "answer"
    """Name of the answer tool."""
    argument: str = "answer"
    """The argument with the box."""
    syntax: ToolSyntax = field(default_factory=ToolSyntax)
    """How calls are written."""

    def extract(self, text: str) -> str | None:
        """The answer in `text`, or None."""
        for turn in self.syntax.policy_turns(self.prefix + text):
            try:
                call = self.syntax.read_call(turn)
            except ToolCallError:
                continue
            if call.name == self.tool:
                value = call.arguments.get(self.argument)
                boxes = boxed(value) if isinstance(value, str) else []
                return (boxes[-1] or "").strip() or None if boxes else None
        return None
