"""What a recipe says should come out: arms, seeds, an equal budget, and checks with the paper's own numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Statistic = Literal["evaluated", "mean", "last", "slope"]
Spent = Literal["prompts", "updates", "sampled_tokens"]


@dataclass(frozen=True)
class PaperNumber:
    """What the paper reports, as printed there."""

    value: str
    """The numbers, method first."""
    source: str
    """Table or figure, and page."""


@dataclass(frozen=True)
class Check:
    """One comparison of two arms: metric(arm) against metric(against), with a bound that decides.

    `evaluated` metrics (accuracy, format_rate, thinking_tokens, response_tokens, truncation_rate) have one value
    for each held-out response, and intervals over seeds and prompts. The others are read from the metrics log
    of a training stage, one number a seed, and have intervals over seeds.
    """

    statement: str
    """The claim in words."""
    metric: str
    """What is compared: an evaluated metric, or the name of a column of the metrics log."""
    at_least: float | None = None
    """The comparison must reach this; give this or `at_most`."""
    at_most: float | None = None
    """The comparison must stay at or below this."""
    compare: Literal["difference", "ratio"] = "difference"
    """arm - against, or arm / against."""
    arm: str = "method"
    """The arm that is claimed something of."""
    against: str = "baseline"
    """The arm it is compared with; the same arm where two stages of one run are compared."""
    stage: str | None = None
    """Stage that is read, of either arm; none takes the last evaluation (the last training stage for the log)."""
    against_stage: str | None = None
    """Stage of `against`, where it is another one."""
    against_metric: str | None = None
    """What is taken of `against`, where it is another metric."""
    statistic: Statistic = "evaluated"
    """Held-out measurement, or what is taken of the log: mean of the last quarter of the steps, the last step,
    or the least-squares slope per step."""
    paper: PaperNumber | None = None
    """What the paper reports for it."""

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"at_least or at_most must be given, and not both, got {self.at_least}, {self.at_most}")
        if (self.arm, self.stage, self.metric) == (self.against, self.other_stage, self.other_metric):
            raise ValueError(
                "against must be another arm, against_stage another stage, or against_metric another metric,"
                f" got '{self.against}' twice"
            )

    @property
    def other_stage(self) -> str | None:
        """The stage read of `against`."""
        return self.against_stage or self.stage

    @property
    def other_metric(self) -> str:
        """The metric read of `against`."""
        return self.against_metric or self.metric


@dataclass(frozen=True)
class Claim:
    """A checkable claim: what `thinkrl reproduce` runs and decides."""

    statement: str
    """What the recipe should show, in one sentence."""
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"method": ()})
    """Overrides of each arm, by name. The method is usually the recipe as it stands; at least one other arm is the
    paper's baseline, at its best."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    """What must hold, by name."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds that every arm runs with."""
    equal: tuple[Spent, ...] = ("prompts", "updates")
    """What arms must spend alike, counted over all training stages: prompts asked, optimizer steps, sampled tokens
    (to one part in twenty). All three are reported."""
    analysis: str = ""
    """What was learned where something did not come out, with its reason as far as known."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one, got {list(self.seeds)}")
        for name, check in self.checks.items():
            for arm in (check.arm, check.against):
                if arm not in self.arms:
                    raise ValueError(f"checks.{name} must name arms among {', '.join(self.arms)}, got '{arm}'")
