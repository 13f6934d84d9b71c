"""Exploration with a memory: tempered and random steps, local search, and a buffer of what paid before."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import Advantages
from thinkrl.companions.companion import Companion, CompanionStart
from thinkrl.config.component import ConfigError
from thinkrl.data.chat import ChatRenderer
from thinkrl.environments.environment import Environment
from thinkrl.environments.exploration import ActionSet, Explorer
from thinkrl.environments.single_turn import SingleTurn
from thinkrl.learning.learner import LearnerState
from thinkrl.rewards.result import RewardResult
from thinkrl.rewards.reward import Reward
from thinkrl.rewards.schedules import Schedule
from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.prompt import Prompt
from thinkrl.rollouts.signals import Signal
from thinkrl.rollouts.store import Group, Response, Rollouts
from thinkrl.rollouts.streams import generator
from thinkrl.sampling.sampler import Sampler, SamplingSpec

if TYPE_CHECKING:
    from thinkrl.models.policy import Policy

Entry = tuple[float, int, list[int], int]
"""log R, when it came (so that ties have an order), its token ids, and the version of the weights that wrote it."""


@dataclass(frozen=True)
class Replay:
    """What the policy learns from beside its own samples (Flow of Reasoning, arXiv 2406.05673).

    For each prompt of a batch, with probability `replayed` and a buffer that is not empty, the group is drawn from the
    prompt's buffer, in proportion to R, with replacement. Else it is sampled: the whole group at `hot` with probability
    `hot_share`, and each step a random one of the action set with probability `random_steps`. `tries` times, the first
    half of the steps of the best response is completed at random, and what has a higher R than all that was sampled
    joins the group. All that is learned from enters the buffer, which keeps the `capacity` best.

    A search asks the reward itself, which can then read no signals.
    """

    actions: ActionSet
    """The steps that a problem allows."""
    reward: Reward | None = None
    """Scores what a search looks at; the stage's own. Null without search."""
    term: str = "log_reward"
    """The term of the reward that is log R."""
    replayed: float | Schedule = 0.3
    """Probability that a group comes from the buffer."""
    random_steps: float | Schedule = 0.3
    """Probability that a step is random."""
    hot: float | Schedule = 4.0
    """Temperature of groups that are sampled hot."""
    hot_share: float = 0.5
    """Probability that a group is sampled hot."""
    tries: int = 16
    """Completions that a search looks at for each prompt that was sampled."""
    capacity: int = 50
    """Most responses that a prompt's buffer holds."""

    def __post_init__(self) -> None:
        if not 0 <= self.hot_share <= 1:
            raise ValueError(f"hot_share must be between 0 and 1, got {self.hot_share}")
        for name in ("replayed", "random_steps"):
            value = getattr(self, name)
            if not isinstance(value, Schedule) and not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}")
        if not isinstance(self.hot, Schedule) and not self.hot > 0:
            raise ValueError(f"hot must be above 0, got {self.hot}")
        if self.tries < 0 or self.capacity < 1:
            raise ValueError(f"tries must be 0 or more and capacity at least 1, got {self.tries} and {self.capacity}")
        if self.tries and self.reward is None:
            raise ValueError("reward must be given where tries is above 0, got None")
        if self.reward is not None:
            if self.term not in self.reward.terms:
                raise ValueError(f"term must be one of the reward's, {sorted(self.reward.terms)}, got {self.term!r}")
            if self.tries and self.reward.signals():
                raise ValueError(
                    f"tries must be 0 where the reward reads signals ({', '.join(self.reward.signals())}), which a"
                    f" search does not have, got {self.tries}"
                )

    def supplies(self) -> tuple[Signal, ...]:
        """No signals."""
        return ()

    def check(self) -> None:
        """Nothing outside is needed."""

    def open(self, start: CompanionStart) -> Companion:
        """An empty buffer."""
        return OpenReplay(self, start.stage, start.total_steps)


class OpenReplay:
    """The buffers of a stage, by prompt id: min-heaps on log R, without duplicates."""

    def __init__(self, config: Replay, stage: str, total_steps: int) -> None:
        self.config, self.stage, self.total_steps = config, stage, total_steps
        self._buffers: dict[str, list[Entry]] = {}
        self._added = 0
        self.seen: dict[str, float] = {}

    def around(self, environment: Environment) -> Environment:
        """An environment that explores; where others than the stage ask, it is the one within."""
        if not isinstance(environment, SingleTurn) or environment.response_prefix:
            raise ConfigError("replay works with a single_turn environment that has no response_prefix")
        return _Explored(self, environment)

    def drawn(self, prompt_id: str, count: int, stream: np.random.Generator) -> list[Entry]:
        """`count` entries of a prompt's buffer in proportion to R, with replacement; none where it is empty."""
        entries = sorted(self._buffers.get(prompt_id, []))
        if not entries:
            return []
        return [entries[int(place)] for place in stream.choice(len(entries), count, p=chances([e[0] for e in entries]))]

    def add(self, prompt_id: str, log_r: float, ids: Sequence[int], version: int) -> bool:
        """Keeps a response, unless it is there already or worse than all of a full buffer."""
        buffer, known = self._buffers.setdefault(prompt_id, []), [int(token) for token in ids]
        if any(entry[2] == known for entry in buffer):
            return False
        self._added += 1
        entry = (float(log_r), self._added, known, int(version))
        if len(buffer) < self.config.capacity:
            heapq.heappush(buffer, entry)
            return True
        return heapq.heappushpop(buffer, entry) is not entry

    def signals(self, rollouts: Rollouts) -> Mapping[str, Any]:
        """None."""
        return {}

    def learn(self, rollouts: Rollouts, rewards: RewardResult, advantages: Advantages) -> Mapping[str, float]:
        """Remembers what was learned from."""
        log_r = rewards.terms[self.config.term].values
        for row in np.flatnonzero(advantages.kept).tolist():
            if np.isfinite(log_r[row]) and len(rollouts.token_ids[row]):
                version = int(rollouts.versions[row].max())
                self.add(rollouts.prompt(row).prompt_id, log_r[row], rollouts.token_ids[row].tolist(), version)
        return {**self.seen, "buffered": float(sum(map(len, self._buffers.values())))}

    def state(self) -> LearnerState:
        """The buffers: JSON, which gives floats back bit for bit."""
        buffers = {name: [list(entry) for entry in buffer] for name, buffer in self._buffers.items()}
        return LearnerState({"buffers": buffers, "added": self._added}, {})

    def load_state(self, state: LearnerState) -> None:
        """Restores `state` bit for bit."""
        buffers: Any = state.values["buffers"]
        self._buffers = {
            name: [(float(log_r), int(added), list(ids), int(version)) for log_r, added, ids, version in buffer]
            for name, buffer in buffers.items()
        }
        self._added = int(str(state.values["added"]))

    def save(self, folder: Path) -> None:
        """Nothing: a buffer is no artifact."""


def chances(log_rewards: Sequence[float]) -> NDArray[np.float64]:
    """softmax(log R): R_i / sum_j R_j, [n]."""
    values = np.asarray(log_rewards, dtype=np.float64)
    worth = np.exp(values - values.max())
    shares: NDArray[np.float64] = worth / worth.sum()
    return shares


@dataclass(frozen=True)
class _Explored:
    """The environment as the stage sees it."""

    replay: OpenReplay
    within: SingleTurn

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
        """Groups in the order of `prompts`, each from the buffer or explored."""
        if stage != self.replay.stage:
            return self.within.rollout(policy, sampler, prompts, group_size, spec, seed, stage, step)
        if spec.budget is not None:
            raise ConfigError("replay works without sampling.budget")
        config, total = self.replay.config, self.replay.total_steps
        explorer = Explorer(policy, config.actions, spec)
        plan = {prompt.prompt_id: generator("replay", seed, stage, step, prompt.prompt_id) for prompt in prompts}
        share, hot = _at(config.replayed, step, total), _at(config.hot, step, total)
        groups = self.within.groups(ChatRenderer(policy.tokenizer), prompts, step)
        responses: dict[str, list[Response]] = {}
        for group in groups:
            stream = plan[group.prompt.prompt_id]
            entries = self.replay.drawn(group.prompt.prompt_id, group_size, stream) if stream.random() < share else []
            responses[group.group_id] = [
                _replayed(explorer, group, index, entry) for index, entry in enumerate(entries)
            ]
        fresh = [group for group in groups if not responses[group.group_id]]
        heat = [
            hot if plan[group.prompt.prompt_id].random() < config.hot_share else spec.temperature for group in fresh
        ]
        keys = (seed, stage, step)
        for response in explorer.explored(
            sampler, fresh, group_size, heat, _at(config.random_steps, step, total), keys
        ):
            responses[response.group_id].append(response)
        found = self._searched(explorer, fresh, responses, keys, step) if config.tries else 0
        self.replay.seen = {
            "replayed_groups": 1.0 - len(fresh) / max(len(groups), 1),
            "found_by_search": float(found),
        }
        return Rollouts.from_responses(groups, [one for group in groups for one in responses[group.group_id]])

    def _searched(
        self,
        explorer: Explorer,
        groups: Sequence[Group],
        responses: dict[str, list[Response]],
        keys: tuple[int, str, int],
        step: int,
    ) -> int:
        """Adds what a search finds to its group; how many there are."""
        sampled = Rollouts.from_responses(groups, [one for group in groups for one in responses[group.group_id]])
        worth = self._log_rewards(sampled, step)
        best = {
            name: int(rows[np.argmax(np.nan_to_num(worth[rows], nan=-np.inf))])
            for name, rows in sampled.rows_by_group().items()
        }
        candidates: list[Response] = []
        for group in groups:
            row, written = best[group.group_id], set[tuple[int, ...]]()
            kept = explorer.actions.steps(group.prompt) // 2
            for number in range(self.replay.config.tries):
                stream = generator("search", *keys, group.prompt.prompt_id, number)
                ids = explorer.completed(sampled.response(row), group.prompt, kept, stream)
                if ids is not None and tuple(ids.tolist()) not in written:
                    written.add(tuple(ids.tolist()))
                    candidates.append(_unsampled(explorer, group, f"search-{number}", ids.tolist(), -1))
        if not candidates:
            return 0
        tried = Rollouts.from_responses(groups, candidates)
        found = 0
        for row, value in enumerate(self._log_rewards(tried, step)):
            if value > worth[best[tried.response(row).group_id]]:
                responses[tried.response(row).group_id].append(tried.response(row))
                found += 1
        return found

    def _log_rewards(self, rollouts: Rollouts, step: int) -> NDArray[np.float64]:
        reward = self.replay.config.reward
        assert reward is not None
        scored = reward.score(rollouts, RewardContext(step - 1, self.replay.total_steps))
        values: NDArray[np.float64] = scored.terms[self.replay.config.term].values
        return values


def _replayed(explorer: Explorer, group: Group, index: int, entry: Entry) -> Response:
    return _unsampled(explorer, group, str(index), entry[2], entry[3])


def _unsampled(explorer: Explorer, group: Group, name: str, ids: Sequence[int], version: int) -> Response:
    """A response that nobody drew now: without log-probabilities."""
    blank = np.full(len(ids), np.nan, dtype=np.float32)
    return explorer.written(f"{group.group_id}/{name}", group, np.asarray(ids, dtype=np.int32), blank, version)


def _at(value: float | Schedule, step: int, total_steps: int) -> float:
    return value.value(step - 1, total_steps) if isinstance(value, Schedule) else float(value)
