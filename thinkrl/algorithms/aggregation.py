"""From a loss per token to a sum and the count that will divide it."""

from typing import Literal

import torch

from thinkrl.algorithms.ratio import response_means
from thinkrl.algorithms.types import SumCount

Aggregation = Literal["token", "sequence", "constant"]


def aggregate(
    losses: torch.Tensor,
    response_ids: torch.Tensor,
    response_count: int,
    how: Aggregation,
    constant_length: int | None = None,
) -> SumCount:
    """Sums `losses` [t]; the quotient of sum and count over all parts of a step is the step's loss.

    token: sum_t l_t over tokens, DAPO (arXiv 2503.14476, eq. 8).
    sequence: sum_i (1/|o_i|) sum_t l_t over responses, GRPO (arXiv 2402.03300, eq. 3).
    constant: sum_t l_t / L over responses, Dr. GRPO (arXiv 2503.20783, section 3.2).
    """
    if how == "token":
        return SumCount(losses.sum(), float(losses.numel()))
    if how == "sequence":
        return SumCount(response_means(losses, response_ids, response_count).sum(), float(response_count))
    if constant_length is None:
        raise ValueError("constant_length must be given when aggregation is 'constant', got None")
    return SumCount(losses.sum() / constant_length, float(response_count))
