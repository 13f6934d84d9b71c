"""Environments of gymnasium whose dynamics are tables (FrozenLake, CliffWalking, Taxi), as exact tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from thinkrl.config.component import UserError
from thinkrl.tabular.mdp import TabularMDP
from thinkrl.tabular.worlds import World, check_chance


@dataclass(frozen=True, kw_only=True)
class GymnasiumWorld(World):
    """A registered environment that shows its transitions as `P`; what gymnasium ends goes to an end of its own.

    Needs the package gymnasium. Time limits of the registration play no part: the stage's horizon does.
    """

    environment: str
    """Registered name, such as `FrozenLake-v1`."""
    discount: float = 0.99
    """Discount of a step."""
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """What the environment is made with."""

    def __post_init__(self) -> None:
        check_chance("discount", self.discount)

    def mdp(self) -> TabularMDP:
        """The tables. Raises UserError where gymnasium or the environment is missing, or has no tables."""
        try:
            import gymnasium
        except ImportError as error:
            raise UserError(
                f"environment {self.environment} needs gymnasium: pip install 'thinkrl[tabular]'"
            ) from error
        try:
            made = gymnasium.make(self.environment, **self.options)  # type: ignore[arg-type]
        except (gymnasium.error.Error, TypeError) as error:
            raise UserError(f"gymnasium cannot make '{self.environment}': {error}") from error
        inner = made.unwrapped
        dynamics, start = getattr(inner, "P", None), getattr(inner, "initial_state_distrib", None)
        made.close()
        if not isinstance(dynamics, dict) or start is None:
            raise UserError(f"'{self.environment}' shows no table of transitions; FrozenLake-v1 and CliffWalking-v1 do")
        states, actions = len(dynamics), len(dynamics[0])
        transitions = np.zeros((states + 1, actions, states + 1))
        rewards = np.zeros((states + 1, actions))
        for state, by_action in dynamics.items():
            for action, outcomes in by_action.items():
                for probability, target, reward, over in outcomes:
                    transitions[state, action, states if over else int(target)] += probability
                    rewards[state, action] += probability * float(reward)
        transitions[states, :, states] = 1.0
        end = np.arange(states + 1) == states
        return TabularMDP(transitions, rewards, np.append(np.asarray(start, float), 0.0), self.discount, end)
