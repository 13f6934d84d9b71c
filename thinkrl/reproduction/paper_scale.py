"""The claim of a recipe's laptop form, as far as it can be checked on its full-size form."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from thinkrl.reproduction.claim import Check, Claim

_ABSENT = object()


def fit_claim(claim: Claim, laptop: Mapping[str, Any], paper: Mapping[str, Any]) -> tuple[Claim, list[str]]:
    """The arms and checks that mean the same in both forms, and in words why the others are left out.

    laptop, paper: the composed trees. An arm that sets a value in which the two forms differ sets a laptop's size.
    """
    missing: list[str] = []
    arms = {}
    for name, changes in claim.arms.items():
        reasons = [reason for change in changes if (reason := _laptop_size(change, laptop, paper))]
        if reasons:
            missing.append(f"arm {name}: {'; '.join(reasons)}")
        else:
            arms[name] = changes
    checks = {}
    stages = list(paper.get("stages") or {})
    for name, check in claim.checks.items():
        if reason := _not_there(check, arms, stages):
            missing.append(f"check {name}: {reason}")
        else:
            checks[name] = check
    used = {side for check in checks.values() for side in (check.arm, check.against)}
    kept = {name: changes for name, changes in arms.items() if name in used}
    if not checks:
        return replace(claim, arms=kept or {"method": ()}, checks={}), missing
    return replace(claim, arms=kept, checks=checks), missing


def _laptop_size(change: str, laptop: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    """Why an override of an arm does not carry over; empty where it does."""
    key, _, value = change.lstrip("+~").partition("=")
    here, there = _at(laptop, key), _at(paper, key)
    if here is _ABSENT or isinstance(here, Mapping | list):
        return ""  # the choice of a group's file, or something new: it means the same anywhere
    if there is _ABSENT:
        return f"{key}={value} sets what the paper form does not have"
    if here != there:
        return f"{key}={value} is a size for the laptop form, which has {here} there where the paper form has {there}"
    return ""


def _not_there(check: Check, arms: Mapping[str, object], stages: list[str]) -> str:
    for arm in (check.arm, check.against):
        if arm not in arms:
            return f"compares arm {arm}, which is left out"
    for stage in (check.stage, check.other_stage):
        if stage is not None and stage not in stages:
            return f"reads stage {stage}; the paper form has {', '.join(stages)}"
    return ""


def _at(tree: Any, key: str) -> Any:
    """The value at a dotted key, or _ABSENT."""
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return _ABSENT
        tree = tree[part]
    return tree
