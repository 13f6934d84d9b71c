"""What a step of a solution is: where it ends, when the solution ends with it, and which cannot be used."""

from dataclasses import dataclass

from thinkrl.config.component import NewTokens
from thinkrl.search.tree import Node


@dataclass(frozen=True)
class StepRule:
    """Solutions are written step by step; a step ends with `delimiter`, or with the solution.

    A solution ends where the policy ends it, or where its text has one of `end_texts`: the plain form of the
    self-critic of arXiv 2406.03816. A step that is too short, or that was said before, is not used.
    """

    delimiter: str = "\n"
    """Ends a step."""
    end_texts: tuple[str, ...] = ("</answer>", "\\boxed{", "answer is")
    """A solution that contains one of these is finished with the step that says it."""
    minimum_characters: int = 1
    """Fewest characters of a step, white space around it aside."""
    tries: int = 3
    """How often a step is sampled until it can be used."""
    most_steps: int = 32
    """Deepest that a tree may be; no step follows such a beginning."""
    solution_tokens: NewTokens = 2048
    """Most tokens of a solution; no step follows a beginning that has as many."""

    def __post_init__(self) -> None:
        if not self.delimiter:
            raise ValueError(f"delimiter must not be empty, got {self.delimiter!r}")
        if any(not text for text in self.end_texts):
            raise ValueError(f"end_texts must hold no empty text, got {self.end_texts}")
        for name in ("minimum_characters", "tries", "most_steps", "solution_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.most_steps > 100:  # a tree is written as nested JSON
            raise ValueError(f"most_steps must be at most 100, got {self.most_steps}")

    def ended(self, solution: str) -> bool:
        """Whether the text says that the solution is finished."""
        return any(text in solution for text in self.end_texts)

    def usable(self, step: str, beginning: str) -> bool:
        """Whether `step` says something new behind `beginning`."""
        bare = step.strip()
        return len(bare) >= self.minimum_characters and bare not in beginning

    def has_room(self, node: Node) -> bool:
        """Whether a step may follow."""
        return node.depth < self.most_steps and len(node.beginning_ids) < self.solution_tokens

    def split(self, solution: str) -> list[str]:
        """The steps of a whole solution, which they say one after the other; empty lines go with the step before."""
        steps: list[str] = []
        parts = solution.split(self.delimiter)
        for place, part in enumerate(parts):
            text = part + (self.delimiter if place < len(parts) - 1 else "")
            if steps and not part.strip():
                steps[-1] += text
            elif text:
                steps.append(text)
        return steps[: self.most_steps - 1] + (
            ["".join(steps[self.most_steps - 1 :])] if len(steps) >= self.most_steps else []
        )
