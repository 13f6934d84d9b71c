"""What the sampling stages write of a batch: metrics of the rollouts, and columns for the rollout files."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.result import RewardResult
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.spans import read_response, token_range
from thinkrl.rollouts.store import FinishReason, Rollouts
from thinkrl.tracking.recorder import Stopwatch


def thinking_tokens(rollouts: Rollouts) -> list[int]:
    """Tokens between the thinking tags of each response, 0 where there is no thinking."""
    counts = []
    for response in rollouts:
        think = read_response(response.text).think
        start, end = token_range(response.char_ends, *think) if think else (0, 0)
        counts.append(end - start)
    return counts


def batch_metrics(rollouts: Rollouts, rewards: RewardResult, watch: Stopwatch) -> dict[str, float]:
    """Headline numbers, lengths, entropy, speed and every part of the reward of one batch."""
    sampled = rollouts.sampled
    seconds = watch.seconds.get("sample", 0.0)
    parts = rewards.metrics()
    return {
        "reward": parts["reward/mean"],
        "accuracy": parts.get("reward/correct_rate", float("nan")),
        "response_length": float(np.mean(rollouts.token_ids.lengths)),
        "thinking_length": float(np.mean(thinking_tokens(rollouts))),
        "truncated": float(np.mean([reason is FinishReason.LENGTH for reason in rollouts.finish_reasons])),
        "entropy": float(np.mean(rollouts.entropies.values[sampled], dtype=np.float64)),
        "sampled_tokens": float(sampled.sum()),
        "time/tokens_per_second": float(sampled.sum()) / seconds if seconds else 0.0,
        **parts,
    }


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
