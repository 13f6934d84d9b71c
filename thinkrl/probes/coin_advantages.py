"""Advantages of a group whose rewards are fair coins, over all 2^G outcomes."""

from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.advantages import centred, deviation

Deviation = Literal["population", "sample"]
LARGEST_GROUP = 20
"""2^20 outcomes take a moment; no more are written out."""


def coin_advantages(group_size: int, std: Deviation) -> NDArray[np.float64]:
    """(r - mean) / std of every outcome, [2^G, G]; 0 where all rewards are equal (arXiv 2402.03300)."""
    if not 1 <= group_size <= LARGEST_GROUP:
        raise ValueError(f"group_size must be from 1 to {LARGEST_GROUP}, got {group_size}")
    return np.asarray([_advantages(np.asarray(rewards), std) for rewards in product((0.0, 1.0), repeat=group_size)])


def coin_moment(power: int, group_size: int, std: Deviation, *, absolute: bool = False) -> float:
    """E[A^power], or E|A|^power: for power 2 (1 - 1/G)(1 - 2^(1-G)) with sample, 1 - 2^(1-G) with population std."""
    advantages = np.abs(_by_ones(group_size, std)) if absolute else _by_ones(group_size, std)
    return float(_chances(group_size) @ np.mean(advantages**power, axis=1))


def largest_coin_advantage(group_size: int, std: Deviation) -> float:
    """max |A|: sqrt(G) - 1/sqrt(G) with sample, sqrt(G - 1) with population std."""
    return float(np.max(np.abs(_by_ones(group_size, std))))


def _by_ones(group_size: int, std: Deviation) -> NDArray[np.float64]:
    """Advantages of one outcome for each number of ones, [G + 1, G]; the others are its permutations."""
    return np.asarray([_advantages(np.arange(group_size) < ones, std) for ones in range(group_size + 1)])


def _chances(group_size: int) -> NDArray[np.float64]:
    """The chance of each number of ones, [G + 1]."""
    chances = [1.0]
    for ones in range(group_size):
        chances.append(chances[-1] * (group_size - ones) / (ones + 1))
    return np.asarray(chances) / 2.0**group_size


def _advantages(rewards: NDArray[np.generic], std: Deviation) -> NDArray[np.float64]:
    values = rewards.astype(np.float64)
    return centred(values, "mean") / (deviation(values, std) or 1.0)
