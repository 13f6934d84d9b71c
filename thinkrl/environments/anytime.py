"""Thinking sampled once to the largest budget, and answers at every budget."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from thinkrl.environments.environment import Environment
from thinkrl.environments.forced_answers import ForcedAnswers, check_shares, share_of
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.store import Rollouts
from thinkrl.rollouts.streams import generator
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy


@dataclass(frozen=True)
class AnytimeThinking:
    """For every response of `thinking`, which stops at the end of thinking, answers when it is cut at each budget.

    `SamplingSpec.max_new_tokens` is the largest budget; answers come on top. The rollouts have a response for each
    thinking, budget and answer, marked by `Rollouts.cuts`; AnytimeReasoner (arXiv 2505.13438).
    """

    thinking: Environment = field(default_factory=SingleTurn)
    """Samples the thinking."""
    answers: ForcedAnswers = field(default_factory=ForcedAnswers)
    """How thinking is cut and answered."""
    budgets: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """The budgets, as shares of `sampling.max_new_tokens`, rounded up to tokens."""
    drawn: int | None = None
    """How many of the budgets a prompt gets, drawn evenly for it; null takes all."""

    def __post_init__(self) -> None:
        check_shares(self.budgets, "budgets")
        if self.drawn is not None and not 1 <= self.drawn <= len(self.budgets):
            raise ValueError(f"drawn must be from 1 to the {len(self.budgets)} budgets, got {self.drawn}")

    def rollout(
        self,
        policy: "Policy",
        sampler: Sampler,
        prompts: Sequence[Prompt],
        group_size: int,
        spec: SamplingSpec,
        seed: int,
        stage: str,
        step: int,
    ) -> Rollouts:
        """`group_size` thoughts a prompt, each with its answers; see `ForcedAnswers.answer` for order and names."""
        if spec.budget is not None:
            raise ValueError("sampling.budget must be null where the environment cuts thinking, got a budget")
        budgets = share_of(self.budgets, spec.max_new_tokens)
        if len(set(budgets)) < len(budgets):
            raise ValueError(f"budgets must differ in tokens, got {budgets} of max_new_tokens {spec.max_new_tokens}")
        ending = replace(spec, stop=(*spec.stop, self.answers.end))
        thoughts = self.thinking.rollout(policy, sampler, prompts, group_size, ending, seed, stage, step)
        chosen = {
            group.group_id: self._chosen(budgets, group.prompt.prompt_id, seed, stage, step)
            for group in thoughts.groups
        }
        allowed = [chosen[thoughts.groups[index].group_id] for index in thoughts.group_index]
        return self.answers.answer(policy, sampler, thoughts, allowed, spec, seed, stage)

    def _chosen(self, budgets: list[int], prompt_id: str, seed: int, stage: str, step: int) -> list[int]:
        if self.drawn is None:
            return budgets
        places = generator("budgets", seed, stage, step, prompt_id).choice(len(budgets), self.drawn, replace=False)
        return [budgets[place] for place in sorted(places.tolist())]
