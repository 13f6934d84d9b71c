"""Word problems answered at once, worked out shortly or in detail, or with facts that have nothing to do with them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from thinkrl.data.source import DataError, PromptSource
from thinkrl.data.traces import Trace
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.streams import generator

Detail = Literal["none", "short", "detailed", "facts"]
_EQUATION = re.compile(r"(\d[\d.,]*(?:\s*[-+*/x×]\s*\d[\d.,]*)+)\s*=\s*(-?\d+(?:\.\d+)?)")
_CONCLUSION = "The final answer is {answer}."
FACTS = (
    "The sun rises in the east and sets in the west.",
    "Water freezes at zero degrees Celsius.",
    "Paris is the capital of France.",
    "The heart pumps blood through the body.",
    "Bees collect nectar from flowers and make honey.",
    "The Pacific is the largest ocean on Earth.",
    "Light travels faster than sound.",
    "Iron is a metal that rusts in moist air.",
    "The moon goes around the Earth in about a month.",
    "Penguins are birds that cannot fly.",
    "Rome was the centre of a large empire.",
    "Plants use sunlight to make sugar from water and air.",
    "Mount Everest is the highest mountain in the world.",
    "Whales are mammals that live in the sea.",
    "The Nile flows north into the Mediterranean Sea.",
    "Gold does not rust and is easy to shape.",
    "Bats find their way in the dark by listening to echoes.",
    "The printing press made books much cheaper.",
    "Deserts are hot by day and cold by night.",
    "Salt dissolves in water.",
    "Owls hunt at night and sleep by day.",
    "Tea is made from the leaves of a plant.",
    "Glass is made by melting sand.",
    "The violin is played with a bow.",
)
"""What everybody knows, and no problem asks."""


@dataclass(frozen=True)
class WorkedProblems:
    """Responses to the problems of `source` in one degree of detail, made of the working in their metadata.

    none: the answer alone. short: the working, then the answer. detailed: the problem is taken up, then each line of
    the working is a step, with its calculations in words, then the answer. facts: as many words as `detailed` has,
    of sentences that have nothing to do with the problem, then the answer.
    """

    source: PromptSource
    """Problems whose metadata hold the `working`, such as reasoning-gym's gsm_symbolic."""
    detail: Detail = "short"
    """Which of the four."""
    working: str = "answer_cot"
    """Field of the metadata with the working in lines; `####` ends it."""
    seed: int = 0
    """Seed of the choice of facts."""

    def __post_init__(self) -> None:
        if self.detail not in get_args(Detail):
            raise ValueError(f"detail must be one of {', '.join(get_args(Detail))}, got {self.detail}")

    def traces(self) -> Sequence[Trace]:
        """One a problem. Raises DataError for a problem without working."""
        return [Trace(prompt, self._response(prompt)) for prompt in self.source.prompts()]

    def _response(self, prompt: Prompt) -> str:
        text = prompt.metadata.get(self.working)
        lines = [line.strip() for line in str(text).partition("####")[0].splitlines() if line.strip()]
        if not isinstance(text, str) or not lines:
            raise DataError(f"prompt {prompt.prompt_id}: its metadata hold no working in {self.working!r}")
        if self.detail == "none":
            return str(prompt.reference)
        conclusion = _CONCLUSION.format(answer=prompt.reference)
        if self.detail == "short":
            return "\n".join([*lines, conclusion])
        detailed = "\n\n".join([_OPENING, *map(_step, range(1, len(lines) + 1), lines), f"Therefore: {conclusion}"])
        return detailed if self.detail == "detailed" else self._facts(prompt, len(detailed.split()), conclusion)

    def _facts(self, prompt: Prompt, words: int, conclusion: str) -> str:
        """Facts in random order, over again where they do not suffice, in about `words` words."""
        stream = generator("facts", self.seed, prompt.prompt_id)
        told: list[str] = []
        left = words - len(conclusion.split())
        while left > 0:
            for place in stream.permutation(len(FACTS)):
                if left > 0:
                    told.append(FACTS[int(place)])
                    left -= len(told[-1].split())
        return " ".join([*told, conclusion])


_OPENING = "To find the answer, let us go through the problem step by step, and use what it tells us."


def _step(number: int, line: str) -> str:
    """A line of working as a step, with each of its calculations said again in words."""
    told = [f"   - We calculate {left.strip()}, and this gives {right}." for left, right in _EQUATION.findall(line)]
    return "\n".join([f"{number}. **Step {number}:** {line}", *told])
