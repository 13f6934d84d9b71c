"""Backup: what was seen behind a node changes its value, and the values above it."""

from thinkrl.search.tree import Node


def mixed(value: float, seen: float, share: float) -> float:
    """(1 - a) V + a max V': the value of a step after a look ahead (MCTS* of arXiv 2406.03816, simulation).

    seen: the greatest value seen behind it. share: a.
    """
    return (1.0 - share) * value + share * seen


def back_up(node: Node) -> None:
    """From `node` to the root: N += 1, and V = sum_i V_i N_i / sum_i N_i over the children, where any was visited.

    The backpropagation of MCTS* (arXiv 2406.03816): children that were never visited carry no weight.
    """
    above: Node | None = node
    while above is not None:
        above.visits += 1
        visits = sum(child.visits for child in above.children)
        if visits:
            above.value = sum(child.value * child.visits for child in above.children if child.visits) / visits
        above = above.parent
