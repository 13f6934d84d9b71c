"""Importance ratios between the policy that learns and the policy that sampled."""

from typing import Literal

import torch

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped here before exp: e^20 = 4.9e8 is far past any clip range, yet far from the
float32 overflow at e^88, whose inf turns into NaN when it meets an advantage of 0."""


def bounded_exp(log_ratio: torch.Tensor) -> torch.Tensor:
    """exp of log-ratios [t], clamped to +-LOG_RATIO_LIMIT."""
    return torch.exp(log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def response_sums(values: torch.Tensor, response_ids: torch.Tensor, response_count: int) -> torch.Tensor:
    """Sum of `values` [t] over the tokens of each response, [s]."""
    return values.new_zeros(response_count).index_add(0, response_ids, values)


def response_means(values: torch.Tensor, response_ids: torch.Tensor, response_count: int) -> torch.Tensor:
    """Mean of `values` [t] over the tokens of each response, [s]."""
    sums = response_sums(values, response_ids, response_count)
    lengths = torch.bincount(response_ids, minlength=response_count)
    return sums / lengths.clamp(min=1)


def importance_ratio(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    response_ids: torch.Tensor,
    response_count: int,
    level: Literal["token", "sequence"],
) -> torch.Tensor:
    """Ratio of each token, [t].

    token: r_t = pi(o_t) / pi_old(o_t).
    sequence: s = (pi(o) / pi_old(o))^(1/|o|), GSPO (arXiv 2507.18071, eq. 7), repeated over the
    tokens of o in the form s_t = sg[s] * pi(o_t) / sg[pi(o_t)] (its eq. 14). With one advantage per
    response its gradient equals that of eq. 5; advantages that differ by token each weigh their own token.
    """
    log_ratio = logprobs - old_logprobs
    if level == "sequence":
        means = response_means(log_ratio.detach(), response_ids, response_count)
        log_ratio = means[response_ids] + (logprobs - logprobs.detach())
    return bounded_exp(log_ratio)
