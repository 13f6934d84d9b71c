"""Golden values through the command line: responses in a file, `thinkrl score`, and what it prints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typer.testing import CliRunner

from thinkrl.cli.app import app
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.term import RewardContext, Scores
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts

TOLERANCE: Any = {"rel": 1e-5, "abs": 1e-6}


def score(folder: Path, lines: list[dict[str, Any]], *arguments: str) -> list[dict[str, Any]]:
    """What `thinkrl score ARGUMENTS[0] FILE ARGUMENTS[1:] --json` says of each line."""
    file = folder / "responses.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = CliRunner().invoke(app, ["score", arguments[0], str(file), *arguments[1:], "--json"])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]


def rollouts(
    lengths: list[int],
    groups: list[str] | None = None,
    texts: list[str] | None = None,
    ids: list[list[int]] | None = None,
    entropies: list[list[float]] | None = None,
) -> Rollouts:
    """Responses of so many tokens; a token a character where texts are that long."""
    names = groups or ["g"] * len(lengths)
    made = []
    for row, (n, name) in enumerate(zip(lengths, names, strict=True)):
        made.append(
            Response(
                response_id=f"r{row}",
                group_id=name,
                text=texts[row] if texts else "x" * n,
                finish_reason=FinishReason.STOP,
                token_ids=np.asarray(ids[row] if ids else np.arange(n), dtype=np.int32),
                origins=np.ones(n, np.uint8),
                logprobs=np.zeros(n, np.float32),
                entropies=np.asarray(entropies[row] if entropies else np.zeros(n), dtype=np.float32),
                versions=np.zeros(n, np.int32),
                char_ends=np.arange(1, n + 1, dtype=np.int32),
            )
        )
    prompts = {name: Prompt(name, (Message("user", "?"),), "7") for name in names}
    return Rollouts.from_responses([Group(k, p, np.zeros(1, np.int32)) for k, p in prompts.items()], made)


def reading(name: str, values: list[float], state: dict[str, Any] | None = None) -> RewardContext:
    """A context in which the term `name` gave `values`; 1 is right."""
    verdicts = tuple(Verdict.CORRECT if value == 1.0 else Verdict.WRONG for value in values)
    return RewardContext(
        state={} if state is None else state,
        scores={name: Scores(np.asarray(values, dtype=np.float64), verdicts)},
    )


def numbers(*values: float) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)
