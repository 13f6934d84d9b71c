"""From finished runs to a decided claim: every check with its interval, the budgets, and one verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thinkrl.benchmarks.metrics import Scores
from thinkrl.config.component import ConfigError
from thinkrl.reproduction.claim import Check, Claim, Spent
from thinkrl.reproduction.readings import FinishedRun
from thinkrl.reproduction.statistics import Estimate, Verdict, decide, over_seeds, over_seeds_and_prompts, overall
from thinkrl.tracking.provenance import git_state, hardware, versions

_TOKEN_TOLERANCE = 0.05

Runs = Mapping[tuple[str, int], FinishedRun]
"""Finished runs by arm and seed."""


@dataclass(frozen=True)
class Decided:
    """A check, what was measured, and what follows. `means`: the metric of each side, over seeds and prompts."""

    check: Check
    estimate: Estimate
    means: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True)
class Outcome:
    """A decided claim.

    spent: per arm, the mean over seeds of what its runs spent. unequal: where arms did not spend alike, in words.
    seconds: of all steps, those taken from the cache included. minutes: by the clock, by arm and seed. commits: of the
    code that ran.
    """

    checks: Mapping[str, Decided]
    spent: Mapping[str, Mapping[Spent, float]]
    unequal: tuple[str, ...]
    seconds: float
    minutes: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    commits: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """That of the worst check; a claim on unequal budgets is at best inconclusive."""
        found = overall([decided.verdict for decided in self.checks.values()])
        return "inconclusive" if self.unequal and found == "reproduced" else found


def decide_claim(claim: Claim, seeds: Sequence[int], runs: Runs) -> Outcome:
    """Reads all runs and decides every check."""
    checks = {name: _decide(check, seeds, runs) for name, check in claim.checks.items()}
    spent = {arm: _mean_spent([runs[arm, seed].spent() for seed in seeds]) for arm in claim.arms}
    minutes = {arm: {seed: runs[arm, seed].wall_seconds / 60 for seed in seeds} for arm in claim.arms}
    seconds = sum(run.seconds for run in runs.values())
    commits = dict.fromkeys(run.commit for run in runs.values() if run.commit)
    return Outcome(checks, spent, tuple(_unequal(claim, spent)), seconds, minutes, tuple(commits))


def _decide(check: Check, seeds: Sequence[int], runs: Runs) -> Decided:
    sides = [
        (check.arm, check.stage, check.metric),
        (check.against, check.other_stage, check.other_metric),
    ]
    if check.statistic == "evaluated":
        a, b = aligned([[runs[arm, seed].per_prompt(metric, stage) for seed in seeds] for arm, stage, metric in sides])
        estimate = over_seeds_and_prompts(a, b, check.compare)
        means = (float(np.nanmean(a)), float(np.nanmean(b)))
    else:
        x, y = (
            [runs[arm, seed].logged(metric, stage, check.statistic) for seed in seeds] for arm, stage, metric in sides
        )
        estimate = over_seeds(x, y, check.compare)
        means = (float(np.mean(x)), float(np.mean(y)))
    return Decided(check, estimate, means, decide(estimate, check.at_least, check.at_most))


def aligned(sides: Sequence[Sequence[tuple[tuple[str, ...], Scores]]]) -> tuple[Scores, Scores]:
    """Both sides as [seeds, prompts], columns being the prompts that every run was asked."""
    every = [ids for side in sides for ids, _ in side]
    common = [name for name in every[0] if all(name in set(ids) for ids in every)]
    if not common:
        raise ConfigError("the arms were asked no held-out prompt in common; their benchmarks must be the same")
    rows = [np.stack([values[[ids.index(name) for name in common]] for ids, values in side]) for side in sides]
    return rows[0], rows[1]


def _mean_spent(spent: Sequence[Mapping[Spent, float]]) -> dict[Spent, float]:
    return {name: float(np.mean([one[name] for one in spent])) for name in spent[0]}


def _unequal(claim: Claim, spent: Mapping[str, Mapping[Spent, float]]) -> list[str]:
    """What arms did not spend alike although the claim says they do."""
    told = []
    for name in claim.equal:
        amounts = {arm: amount[name] for arm, amount in spent.items()}
        least, most = min(amounts.values()), max(amounts.values())
        if most > least * (1 + (_TOKEN_TOLERANCE if name == "sampled_tokens" else 0)):
            told.append(f"{name}: " + ", ".join(f"{arm} {amount:,.0f}" for arm, amount in amounts.items()))
    return told


def results_record(
    recipe: str, title: str, arxiv: str, claim: Claim, seeds: Sequence[int], overrides: Sequence[str], outcome: Outcome
) -> dict[str, Any]:
    """What `results.json` holds."""
    return {
        "format": 1,
        "recipe": recipe,
        "paper": {"title": title, "arxiv": arxiv},
        "claim": claim.statement,
        "verdict": outcome.verdict,
        "analysis": claim.analysis,
        "seeds": list(seeds),
        "overrides": list(overrides),
        "arms": {arm: list(changes) for arm, changes in claim.arms.items()},
        "checks": {
            name: {
                **asdict(decided.check),
                "verdict": decided.verdict,
                "means": list(decided.means),
                **asdict(decided.estimate),
            }
            for name, decided in outcome.checks.items()
        },
        "spent": {arm: dict(amounts) for arm, amounts in outcome.spent.items()},
        "unequal": list(outcome.unequal),
        "seconds": round(outcome.seconds, 1),
        "minutes": {
            arm: {str(seed): round(minutes, 2) for seed, minutes in seeds_of.items()}
            for arm, seeds_of in outcome.minutes.items()
        },
        "commits": list(outcome.commits),
        "versions": versions(),
        "hardware": {key: value for key, value in hardware().items() if key != "host"},
        "git": git_state(),
    }


def read_runs(claim: Claim, seeds: Sequence[int], directories: Mapping[tuple[str, int], Path]) -> Runs:
    """The finished runs of all arms and seeds."""
    return {(arm, seed): FinishedRun(directories[arm, seed]) for arm in claim.arms for seed in seeds}
