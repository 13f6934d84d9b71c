"""Exact values of tabular processes: optimal ones, those of a policy, after some steps, and where a policy goes."""

from dataclasses import dataclass

import numpy as np

from thinkrl.tabular.mdp import Bools, Floats, Ints, TabularMDP

TIE = 1e-8
"""Actions whose optimal values differ by no more are equally good."""
_TOLERANCE = 1e-10


@dataclass(frozen=True, eq=False)
class Optimum:
    """What is optimal.

    values: [S]. q: [S, A]. best: [S, A], the optimal actions. policy: [S], the first of them in each state.
    gaps: [S], value of the optimal action less that of the best of the others; 0 where all are optimal.
    """

    values: Floats
    q: Floats
    best: Bools
    policy: Ints
    gaps: Floats

    @property
    def advantages(self) -> Floats:
        """Optimal action values less the state's, [S, A]; at most 0."""
        return self.q - self.values[:, None]


def optimum(mdp: TabularMDP, rewards: Floats | None = None) -> Optimum:
    """Value iteration to 1e-10, and then the exact values of the policy it found.

    rewards: [S, A] in place of the process's own.
    """
    paid = mdp.rewards if rewards is None else rewards
    values = np.zeros(mdp.states)
    while True:
        found = (paid + mdp.discount * mdp.transitions @ values).max(axis=1)
        change, values = np.abs(found - values).max(), found
        if change < _TOLERANCE:
            break
    q = paid + mdp.discount * mdp.transitions @ values
    greedy = (q >= q.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
    values = policy_values(mdp, deterministic(greedy, mdp.actions), paid)
    q = paid + mdp.discount * mdp.transitions @ values
    best = q >= q.max(axis=1, keepdims=True) - TIE
    others = np.where(best, -np.inf, q).max(axis=1)
    gaps = np.where(best.all(axis=1), 0.0, q.max(axis=1) - others)
    return Optimum(values, q, best, best.argmax(axis=1), gaps)


def deterministic(policy: Ints, actions: int) -> Floats:
    """Probabilities [S, A] of a policy that always takes `policy[s]`."""
    return np.eye(actions)[policy]


def moves(mdp: TabularMDP, policy: Floats) -> Floats:
    """Transitions between states under a policy of probabilities [S, A]: [S, S]."""
    return np.asarray(np.einsum("sa,sat->st", policy, mdp.transitions))


def policy_values(mdp: TabularMDP, policy: Floats, rewards: Floats | None = None) -> Floats:
    """Discounted values [S] of a policy [S, A], by solving the linear equations."""
    paid = mdp.rewards if rewards is None else rewards
    system = np.eye(mdp.states) - mdp.discount * moves(mdp, policy)
    return np.asarray(np.linalg.solve(system, (policy * paid).sum(axis=1)))


def policy_return(mdp: TabularMDP, policy: Floats, horizon: int | None = None) -> float:
    """Expected discounted return of a policy [S, A] from the start, over `horizon` steps or without end."""
    if horizon is None:
        return float(mdp.start @ policy_values(mdp, policy))
    paid, go, values = (policy * mdp.rewards).sum(axis=1), moves(mdp, policy), np.zeros(mdp.states)
    for _ in range(horizon):
        values = paid + mdp.discount * go @ values
    return float(mdp.start @ values)


def occupancy(mdp: TabularMDP, policy: Floats) -> Floats:
    """Discounted share of time that a policy [S, A] spends in each state, terminal ones left out: [S], sums to 1."""
    system = np.eye(mdp.states) - mdp.discount * moves(mdp, policy)
    share = np.linalg.solve(system.T, (1 - mdp.discount) * mdp.start)
    share[mdp.terminal] = 0.0
    return np.asarray(share / share.sum())


def smoothed(best: Bools, epsilon: float) -> Floats:
    """An optimal action, any of them alike, with probability 1 - epsilon, else any action: [S, A]."""
    return np.asarray((1 - epsilon) * best / best.sum(axis=1, keepdims=True) + epsilon / best.shape[1])


def lead(mdp: TabularMDP, policy: Ints, horizon: int | None) -> Floats:
    """Linear map from rewards to how much better the policy's action does than each other: [S, A, S, A].

    Applied to R it gives Q(s, policy(s)) - Q(s, a), with Q the sum of `horizon` + 1 discounted rewards of which all but
    the first are the policy's, or of all without end.
    """
    go = moves(mdp, deterministic(policy, mdp.actions))
    each, identity = np.arange(mdp.states), np.eye(mdp.states)
    if horizon is None:
        later = np.linalg.inv(identity - mdp.discount * go)
    else:
        later = np.zeros_like(go)
        for _ in range(horizon):
            later = identity + mdp.discount * go @ later
    count = mdp.states * mdp.actions
    worth = np.eye(count).reshape(mdp.states, mdp.actions, mdp.states, mdp.actions)
    worth[:, :, each, policy] += mdp.discount * mdp.transitions @ later
    return np.asarray(worth[each, policy][:, None] - worth)
