"""Prompts made by reasoning-gym's procedural tasks."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from thinkrl.config.component import PromptCount
from thinkrl.data.source import (
    DataError,
    PromptSource,
    check_template,
    different_questions,
    fill_template,
    json_value,
    question_messages,
    question_text,
)
from thinkrl.rollouts.prompt import Prompt

_OWN_KEYS = ("seed", "size")


@dataclass(frozen=True)
class ReasoningGymPrompts:
    """Unique questions of one reasoning-gym task (Stojanovski et al. 2025, arXiv 2505.24760).

    Entry i of a data set with seed s is drawn from `Random(s + i)`, so data sets with near seeds
    share questions: `disjoint_from` is what makes a held-out set held out, not another seed.
    """

    task: str
    """Name of the task in reasoning-gym, for example chain_sum."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Options of the task, for example min_terms; `seed` and `size` are fields of their own."""
    size: PromptCount = 500
    """How many prompts, all with different questions."""
    seed: int = 0
    """Seed of the task's generator."""
    system: str = ""
    """System turn; empty for none."""
    template: str = "{question}"
    """User turn: {question}, or any field of the entry's metadata such as {expression}."""
    disjoint_from: PromptSource | None = None
    """Leaves out every question that this source yields."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")
        check_template(self.template)
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        for key in _OWN_KEYS:
            if key in self.config:
                raise ValueError(f"config must not hold {key!r}: set the field `{key}` instead")

    def prompts(self) -> Sequence[Prompt]:
        """`size` prompts with ids `<task>-<seed>-<index>`. Raises DataError when too few questions differ."""
        drawn = (self._prompt(index, entry) for index, entry in self._entries())
        kept = list(islice(different_questions(drawn, self.disjoint_from), self.size))
        if len(kept) == self.size:
            return kept
        excluded = len({question_text(prompt) for prompt in self.disjoint_from.prompts()}) if self.disjoint_from else 0
        held_out = f" outside the {excluded} of disjoint_from" if excluded else ""
        raise DataError(
            f"reasoning-gym task {self.task!r} gave {len(kept)} different questions{held_out} in {self._limit} draws,"
            f" but size is {self.size}: lower size, or widen the task's config ({dict(self.config)})"
        )

    @property
    def _limit(self) -> int:
        return 20 * self.size + 2000

    def _entries(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        # Imported here: it takes seconds, and composing a configuration must not.
        from reasoning_gym.factory import DATASETS, create_dataset

        if self.task not in DATASETS:
            near = difflib.get_close_matches(self.task, DATASETS, n=3) or sorted(DATASETS)[:3]
            raise DataError(f"reasoning-gym has no task {self.task!r}; nearest: {', '.join(near)}")
        try:
            data = create_dataset(self.task, size=self._limit, seed=self.seed, **self.config)
        except (TypeError, AssertionError, ValueError) as error:
            raise DataError(f"reasoning-gym task {self.task!r} refuses config {dict(self.config)}: {error}") from error
        yield from ((index, data[index]) for index in range(self._limit))

    def _prompt(self, index: int, entry: Mapping[str, Any]) -> Prompt:
        metadata = {**json_value(entry.get("metadata", {})), "question": str(entry["question"])}
        try:
            text = fill_template(self.template, metadata)
        except ValueError as error:
            raise DataError(f"reasoning-gym task {self.task!r}: {error}") from error
        return Prompt(
            prompt_id=f"{self.task}-{self.seed}-{index}",
            messages=question_messages(text, self.system),
            reference=json_value(entry["answer"]),
            source=f"reasoning_gym/{self.task}",
            metadata=metadata,
        )
