"""The part of a recipe that scores responses: one stage's reward and advantage, built without its model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thinkrl.algorithms.types import AdvantageEstimator
from thinkrl.config.build import build
from thinkrl.config.component import ConfigError
from thinkrl.config.composed import Composed
from thinkrl.config.nearest import suggestion
from thinkrl.config.paths import conf_dir
from thinkrl.config.schema import TARGET, fields_of, load_target
from thinkrl.rewards.reward import Reward
from thinkrl.rewards.signals import Reading, merge_readings, read_signals
from thinkrl.rollouts.signals import LOGPROBS, Signal, reads_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from thinkrl.algorithms.kl import KLReward

_ALGORITHM = "thinkrl.algorithms.algorithm.Algorithm"
REFERENCE_LOGPROBS = Signal(
    "reference_logprobs", "log-probability of each token under the reference model, in nats", "token"
)


@dataclass(frozen=True)
class ScoredStage:
    """A stage's reward and what makes advantages of it.

    estimator: None where the stage learns nothing from the reward. kl_reward: None without a penalty.
    """

    name: str
    reward: Reward
    estimator: AdvantageEstimator | None = None
    kl_reward: "KLReward | None" = None

    def signals(self) -> dict[str, Reading]:
        """All signals that are read, by name."""
        parts: dict[str, list[object]] = {"advantage": [self.estimator]}
        if self.kl_reward is not None:
            parts["kl_reward"] = [_KLSignals()]
        return merge_readings(self.reward.signals(), read_signals(parts))

    @property
    def reads_tokens(self) -> bool:
        """Whether responses need their number of tokens."""
        return self.reward.reads_tokens or (self.estimator is not None and reads_tokens(self.estimator))


class _KLSignals:
    def signals(self) -> tuple[Signal, ...]:
        return (LOGPROBS, REFERENCE_LOGPROBS)


def choose_stage(composed: Composed, name: str | None) -> str:
    """The stage called `name`, else the last that has a reward. Raises ConfigError where it has none."""
    stages = _stages(composed)
    rewarded = [key for key, stage in stages.items() if isinstance(stage.get("reward"), Mapping)]
    if not rewarded:
        raise ConfigError(f"{composed.recipe_id} has no stage with a reward (stages: {', '.join(stages) or 'none'})")
    if name is None:
        return rewarded[-1]
    if name not in stages:
        raise ConfigError(f"--stage: {composed.recipe_id} has no stage {name!r}; {suggestion(name, rewarded)}")
    if name not in rewarded:
        raise ConfigError(f"--stage: stage {name!r} has no reward; those with one: {', '.join(rewarded)}")
    return name


def build_stage(composed: Composed, name: str) -> ScoredStage:
    """Builds the reward and the estimator of a stage; raises ConfigError with every problem in them.

    An objective is not built: it computes with torch, and no score depends on it.
    """
    stage, path = _stages(composed)[name], f"stages.{name}"
    reward = build(Reward, stage["reward"], composed, f"{path}.reward")
    algorithm = stage.get("algorithm")
    if not isinstance(algorithm, Mapping):
        return ScoredStage(name, reward)
    if algorithm.get(TARGET) != _ALGORITHM or "advantage" not in algorithm:
        return ScoredStage(name, reward, _build_estimator(algorithm, composed, f"{path}.algorithm"))
    estimator = _build_estimator(algorithm["advantage"], composed, f"{path}.algorithm.advantage")
    if algorithm.get("kl_reward") is None:
        return ScoredStage(name, reward, estimator)
    from thinkrl.algorithms.kl import KLReward

    penalty = build(KLReward, algorithm["kl_reward"], composed, f"{path}.algorithm.kl_reward")
    return ScoredStage(name, reward, estimator, penalty if penalty.coefficient else None)


def _build_estimator(node: Any, composed: Composed, path: str) -> AdvantageEstimator:
    return build(AdvantageEstimator, node, composed, path)  # type: ignore[type-abstract]


def stage_steps(composed: Composed, name: str) -> int | None:
    """How many steps the stage says it has; None where that depends on its data."""
    stage = _stages(composed)[name]
    stated = stage.get("steps")
    if stated is None and TARGET in stage:
        field = fields_of(load_target(stage[TARGET])).get("steps")
        stated = field.default if field is not None else None
    return stated if isinstance(stated, int) and not isinstance(stated, bool) and stated >= 1 else None


def overrides_are_read(composed: Composed, name: str) -> bool:
    """Whether every override is certain to be valid without building the whole recipe.

    It is when it set something that `build_stage` builds, or chose a file of a group, which was there.
    """
    paths = tuple(f"stages.{name}.{part}" for part in ("reward.", "algorithm.advantage.", "algorithm.kl_reward."))
    read = {origin for key, origin in composed.origins.items() if key.startswith(paths)}
    return all(f"override {override}" in read or _chooses_file(override) for override in composed.overrides)


def _chooses_file(override: str) -> bool:
    key, _, option = override.lstrip("+").partition("=")
    return (conf_dir() / key).is_dir() and bool(option) and option.replace("_", "").isalnum()


def load_tokenizer(composed: Composed) -> "PreTrainedTokenizerBase":
    """The tokenizer of the recipe's model. Raises ConfigError where it cannot be loaded."""
    from thinkrl.models.source import ModelSource, TokenizerSource

    source = build(ModelSource, composed.tree.get("model"), composed, "model")  # type: ignore[type-abstract]
    if not isinstance(source, TokenizerSource):
        raise ConfigError(f"{type(source).__name__} gives no tokenizer without its model")
    return source.load_tokenizer()


def _stages(composed: Composed) -> dict[str, Mapping[str, Any]]:
    stages = composed.tree.get("stages")
    found = stages.items() if isinstance(stages, Mapping) else ()
    return {str(name): stage for name, stage in found if isinstance(stage, Mapping)}
