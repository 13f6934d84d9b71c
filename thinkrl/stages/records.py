"""What the sampling stages write of a batch: metrics, columns for the rollout files, and a table to read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import Advantages
from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.spans import thinking_lengths
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.rollouts.tool_calls import tool_metrics
from thinkrl.sampling.sampler import SamplingSpec
from thinkrl.tracking.metrics import Value
from thinkrl.tracking.recorder import Stopwatch
from thinkrl.tracking.rollout_files import Columns


def batch_metrics(
    rollouts: Rollouts, rewards: RewardResult, spec: SamplingSpec, watch: Stopwatch, asked: int
) -> dict[str, float]:
    """Headline numbers, lengths, entropy, speed, calls of tools and every part of the reward of one batch of `asked`
    prompts."""
    sampled = rollouts.sampled
    seconds = watch.seconds.get("sample", 0.0)
    parts = rewards.metrics()
    return {
        "reward": parts["reward/mean"],
        "accuracy": parts.get("reward/correct_rate", float("nan")),
        "response_length": float(np.mean(rollouts.token_ids.lengths)),
        "thinking_length": float(np.mean(thinking_lengths(rollouts))),
        **({} if spec.budget is None else {"thinking_cut": _cut_share(rollouts)}),
        "truncated": float(np.mean([reason is FinishReason.LENGTH for reason in rollouts.finish_reasons])),
        "entropy": _known_mean(rollouts.entropies.values[sampled]),
        "sampled_tokens": float(sampled.sum()),
        "asked_prompts": float(asked),
        "prompts_dropped": float(asked - len(rollouts.groups)),
        "time/tokens_per_second": float(sampled.sum()) / seconds if seconds else 0.0,
        **tool_metrics(rollouts),
        **parts,
    }


def _known_mean(values: NDArray[np.float32]) -> float:
    """The mean of what is known: tokens that were replayed, or written to explore, have no entropy."""
    known = values[~np.isnan(values)] if np.isnan(values).any() else values
    return float(np.mean(known, dtype=np.float64)) if len(known) else float("nan")


def _cut_share(rollouts: Rollouts) -> float:
    """The share of responses in which given tokens stand behind sampled ones."""
    rows = rollouts.origins.with_values(rollouts.sampled.astype(np.int8))
    return float(np.mean([np.any(np.diff(row) < 0) for row in rows]))


def sample_table(rollouts: Rollouts, columns: Columns, count: int = 8) -> tuple[list[str], list[list[Value]]]:
    """Headings and rows of a table to read: one response of each of the first `count` groups, with what has one
    value a response in `columns`."""
    flat = {name: column for name, column in columns.items() if not isinstance(column, Ragged)}
    rows: list[list[Value]] = []
    for group in list(rollouts.rows_by_group().values())[:count]:
        row = int(group[0])
        values = [column[row] for column in flat.values()]
        plain = [value.item() if isinstance(value, np.generic) else value for value in values]
        rows.append([rollouts.prompt(row).messages[-1].content, rollouts.texts[row], *plain])
    return ["prompt", "response", *flat], rows


def reward_columns(rewards: RewardResult) -> dict[str, Sequence[Any] | NDArray[Any] | Ragged]:
    """Every part of the reward, one column each, for the rollout file."""
    columns: dict[str, Sequence[Any] | NDArray[Any] | Ragged] = {
        "reward": rewards.totals.tolist(),
        "verdict": [verdict.value if verdict else None for verdict in rewards.verdicts],
    }
    for name, part in rewards.terms.items():
        columns[f"term/{name}"] = part.values.tolist()
        columns[f"weight/{name}"] = [part.weight] * len(part.values)
        columns[f"contribution/{name}"] = part.contributions.tolist()
        columns[f"notes/{name}"] = list(part.notes) or [""] * len(part.values)
    return columns


def advantage_columns(
    advantages: Advantages, rewards: RewardResult, rollouts: Rollouts
) -> dict[str, NDArray[Any] | Ragged]:
    """The mean advantage of each response; and its tokens' own, their weights and rewards, where there are such.

    `token_advantages` is left out where all sampled tokens of each response have the same. Tokens that were given are
    NaN: what stands there is read by nobody.
    """
    columns: dict[str, NDArray[Any] | Ragged] = {"advantage": advantages.per_response()}
    parts = {
        "token_advantages": advantages.values if _vary(advantages.values, rollouts.sampled) else None,
        "token_weights": advantages.weights,
        "token_rewards": rewards.tokens,
    }
    for name, values in parts.items():
        if values is not None:
            shown = np.where(rollouts.sampled, values.values, np.nan).astype(np.float32)
            columns[name] = values.with_values(shown)
    return columns


def _vary(values: Ragged, sampled: NDArray[np.bool_]) -> bool:
    """Whether the sampled tokens of any row differ."""
    rows, numbers = values.row_ids[sampled], values.values[sampled]
    return bool(np.any((rows[1:] == rows[:-1]) & (numbers[1:] != numbers[:-1])))
