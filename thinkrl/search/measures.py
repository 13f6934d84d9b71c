"""What a batch of finished trees amounts to, in numbers: what was found, at what cost, and what is learned from it."""

from collections.abc import Sequence
from math import isnan, nan

import numpy as np

from thinkrl.grading.verdict import Verdict
from thinkrl.search.answers import AnswerRule, chosen_end
from thinkrl.search.tree import Node, Tree

_RULES: tuple[AnswerRule, ...] = ("best_value", "weighted_vote", "vote")
_FAULTS = (Verdict.UNGRADABLE, Verdict.TIMEOUT)


def search_metrics(
    trees: Sequence[Tree], targets: Sequence[Sequence[Node]], kept: Sequence[Sequence[Node]], by: AnswerRule
) -> dict[str, float]:
    """The metrics row of trees whose ends were judged.

    `accuracy` is over the questions whose answer, chosen `by` that rule, has a verdict; `solved` over all but those
    that cannot be judged, so that a question without an answer is not solved. Both are NaN without such a question.
    targets, kept: the steps with a target, and the ends that are learned from, of each tree.
    """
    ends = [end for tree in trees for end in tree.ends()]
    verdicts = {rule: [_verdict(chosen_end(tree, rule)) for tree in trees] for rule in _RULES}
    chosen = verdicts[by]
    right = [end for end in ends if end.verdict is Verdict.CORRECT]
    return {
        "accuracy": _share([verdict is Verdict.CORRECT for verdict in chosen if _known(verdict)]),
        "solved": _solved(chosen),
        **{f"solved/{rule}": _solved(verdicts[rule]) for rule in _RULES},
        "found": _share([any(end.verdict is Verdict.CORRECT for end in tree.ends()) for tree in trees]),
        "no_answer": float(sum(verdict is None for verdict in chosen)),
        "ungradable": float(sum(verdict in _FAULTS for verdict in chosen)),
        "asked_prompts": float(len(trees)),
        "sampled_tokens": float(sum(tree.tokens for tree in trees)),
        "tokens_per_question": _mean([tree.tokens for tree in trees]),
        "rounds": _mean([tree.rounds for tree in trees]),
        "expansions": _mean([sum(bool(node.children) for node in tree.root.walk()) for tree in trees]),
        "nodes": _mean([sum(1 for _ in tree.root.walk()) - 1 for tree in trees]),
        "depth": _mean([end.depth for end in ends]),
        "proposals": _mean([tree.proposals for tree in trees]),
        "proposals_dropped": _ratio(sum(tree.dropped for tree in trees), sum(tree.proposals for tree in trees)),
        "proposals_cut": _ratio(sum(tree.cut for tree in trees), sum(tree.proposals for tree in trees)),
        "ends": _mean([len(tree.ends()) for tree in trees]),
        "ends/right": _ratio(len(right), len(ends)),
        "ends/unanswered": _ratio(sum(end.answer is None for end in ends), len(ends)),
        "ends/value_right": _mean([end.value for end in right if not isnan(end.value)]),
        "ends/value_wrong": _mean([e.value for e in ends if e.verdict is Verdict.WRONG and not isnan(e.value)]),
        "yield/traces": float(sum(map(len, kept))),
        "yield/values": float(sum(map(len, targets))),
        "yield/questions": float(sum(map(bool, kept))),
    }


def _verdict(end: Node | None) -> Verdict | None:
    return end.verdict if end is not None else None


def _known(verdict: Verdict | None) -> bool:
    return verdict in (Verdict.CORRECT, Verdict.WRONG)


def _solved(verdicts: Sequence[Verdict | None]) -> float:
    return _share([verdict is Verdict.CORRECT for verdict in verdicts if verdict not in _FAULTS])


def _share(found: Sequence[bool]) -> float:
    return float(np.mean(found)) if found else nan


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else nan
