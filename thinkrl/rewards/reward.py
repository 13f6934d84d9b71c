"""The composed reward: named terms with weights, gates, scopes and shaping, and a total that recounts them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thinkrl.rewards.faults import score_with_faults
from thinkrl.rewards.gate import Gate
from thinkrl.rewards.result import RewardResult, TermResult
from thinkrl.rewards.schedules import Schedule
from thinkrl.rewards.shaping import Shaping
from thinkrl.rewards.signals import Reading, read_signals, refuse_missing
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores, terms_read
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.signals import reads_tokens
from thinkrl.rollouts.spans import read_response, token_range
from thinkrl.rollouts.store import Rollouts


@dataclass(frozen=True)
class WeightedTerm:
    """A term and how it counts: contribution = gate * weight * shaping(value)."""

    term: RewardTerm
    """What is scored."""
    weight: float | Schedule = 1.0
    """Factor of the term in the total, constant or by schedule."""
    gate: Gate | None = None
    """When the term counts; always, without one. Behind a closed gate it contributes 0."""
    scope: Literal["response", "span", "token"] = "response"
    """Whether the value is paid to the response, to each token of a span, or per token as the term says."""
    span: Literal["think", "answer"] = "think"
    """Which span scope `span` pays. A response without that span is paid nothing."""
    shaping: tuple[Shaping, ...] = ()
    """Applied to the values in this order, before the weight."""
    missing: Literal["exclude", "zero"] = "exclude"
    """Whether a response for which the term has no number leaves the loss, or the term contributes 0."""
    on_error: Literal["raise", "ungradable"] = "raise"
    """Whether an exception in the term stops the run, or makes the response ungradable."""
    prefix: str = ""
    """For scope `span`: what the prompt already wrote of the response, such as `<think>`."""

    def __post_init__(self) -> None:
        if not isinstance(self.weight, Schedule) and not math.isfinite(self.weight):
            raise ValueError(f"weight must be finite, got {self.weight}")

    def weight_at(self, step: int, total_steps: int) -> float:
        """The weight in force."""
        return self.weight.value(step, total_steps) if isinstance(self.weight, Schedule) else float(self.weight)


@dataclass(frozen=True)
class Reward:
    """total = sum over terms of gate * weight * shaped value; NaN where a response is excluded.

    Terms with scope `span` or `token` add to token totals and not to the response's total.
    """

    terms: Mapping[str, WeightedTerm] = field(default_factory=dict)
    """The terms by name."""
    verdict_from: str | None = None
    """The term whose verdict is the response's; the first that judges, when not named."""

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("terms must name at least one term, got none")
        if self.verdict_from is not None:
            self._must_exist(self.verdict_from, "verdict_from")
        for name, weighted in self.terms.items():
            if weighted.gate is not None:
                self._must_exist(weighted.gate.term, f"the gate of {name!r}")
            for read in self._reads(name):
                self._must_exist(read, f"the term {name!r}")
        for name in self.terms:
            self._must_not_circle(name)
        self._in_reading_order()
        self.signals()

    def score(self, rollouts: Rollouts, context: RewardContext) -> RewardResult:
        """Scores every response with every term. Raises RewardError where a term does, or lacks a signal."""
        refuse_missing(self.signals(), rollouts, context)
        scores: dict[str, Scores] = {}
        for name in self._in_reading_order():
            weighted, own = self.terms[name], self._own_context(name, context, scores)
            scores[name] = score_with_faults(name, weighted.term, weighted.on_error, rollouts, own)
        opened = {name: self._opened(name, scores, rollouts) for name in self.terms}
        parts = {
            name: self._part(name, scores[name], opened[name], rollouts, self._own_context(name, context, scores))
            for name in self.terms
        }
        judge = self.verdict_from or next((name for name in self.terms if scores[name].verdicts), None)
        nothing = (None,) * len(rollouts)
        return RewardResult(
            totals=_total([part.contributions for part in parts.values()], len(rollouts)),
            terms=parts,
            verdicts=(scores[judge].verdicts or nothing) if judge else nothing,
            tokens=_token_totals(rollouts, parts),
        )

    def signals(self) -> dict[str, Reading]:
        """What the terms and their shaping read of models, by name. Raises ValueError where two disagree."""
        return read_signals({name: (weighted.term, *weighted.shaping) for name, weighted in self.terms.items()})

    @property
    def reads_tokens(self) -> bool:
        """Whether a term, a shaping or a scope counts or locates tokens."""
        return any(
            weighted.scope != "response" or any(map(reads_tokens, (weighted.term, *weighted.shaping)))
            for weighted in self.terms.values()
        )

    @property
    def observes(self) -> bool:
        """Whether a term wants to see a monitor's responses."""
        return any(getattr(weighted.term, "observes", False) for weighted in self.terms.values())

    def observe(self, rollouts: Rollouts, context: RewardContext) -> None:
        """Shows responses that are not learned from to the terms that follow the policy; changes `context.state`."""
        for name, weighted in self.terms.items():
            if (look := getattr(weighted.term, "observe", None)) is None:
                continue
            aside = replace(context, state={})  # what the terms that are read remember belongs to training
            scores: dict[str, Scores] = {}
            for read in self._read_by(name):
                part, own = self.terms[read], self._own_context(read, aside, scores)
                scores[read] = score_with_faults(read, part.term, part.on_error, rollouts, own)
            look(rollouts, self._own_context(name, context, scores))

    def _reads(self, name: str) -> tuple[str, ...]:
        weighted = self.terms[name]
        return tuple(read for part in (weighted.term, *weighted.shaping) for read in terms_read(part))

    def _read_by(self, name: str) -> list[str]:
        """What `name` reads, and what that reads, in reading order."""
        wanted = {name}
        for other in reversed(self._in_reading_order()):
            if other in wanted:
                wanted |= set(self._reads(other))
        return [other for other in self._in_reading_order() if other in wanted - {name}]

    def _in_reading_order(self) -> list[str]:
        """The names, each after the terms it reads. Raises ValueError for a circle."""
        order: list[str] = []
        while len(order) < len(self.terms):
            ready = [name for name in self.terms if name not in order and set(self._reads(name)) <= set(order)]
            if not ready:
                raise ValueError(
                    f"terms must not read one another in a circle, got {sorted(set(self.terms) - set(order))}"
                )
            order += ready
        return order

    def _own_context(self, name: str, context: RewardContext, scores: Mapping[str, Scores]) -> RewardContext:
        """`context` with the term's own corner of the state, and the scores that it reads."""
        read = {other: scores[other] for other in self._reads(name)}
        return replace(context, state=context.state.setdefault(name, {}), scores=read)

    def _opened(self, name: str, scores: Mapping[str, Scores], rollouts: Rollouts) -> NDArray[np.bool_]:
        gate = self.terms[name].gate
        if gate is None:
            return np.ones(len(scores[name].values), dtype=np.bool_)
        return gate.open(scores[gate.term], rollouts) & self._opened(gate.term, scores, rollouts)

    def _part(
        self, name: str, scores: Scores, opened: NDArray[np.bool_], rollouts: Rollouts, context: RewardContext
    ) -> TermResult:
        weighted = self.terms[name]
        weight = weighted.weight_at(context.step, context.total_steps)
        shaped = scores.values.copy()
        for shaping in weighted.shaping:
            shaped = _same_length(shaping.shape(shaped, rollouts, context), shaped, name)
        # A term that does not count (closed gate, weight 0) excludes nothing: 0 * NaN is 0 here.
        counts = opened & (weight != 0.0)
        known = counts & ~np.isnan(shaped)
        owed = np.zeros(len(rollouts), dtype=np.float64)
        owed[known] = weight * shaped[known]
        if weighted.missing == "exclude":
            owed[counts & np.isnan(shaped)] = math.nan
        tokens = self._tokens(name, scores, owed, weight, counts, rollouts)
        return TermResult(
            values=scores.values,
            shaped=shaped,
            weight=weight,
            opened=opened,
            # Excluded stays excluded, whatever the scope; a number paid to tokens is not paid twice.
            contributions=owed if weighted.scope == "response" else np.where(np.isnan(owed), owed, 0.0),
            verdicts=scores.verdicts,
            notes=scores.notes,
            tokens=tokens,
            metrics=scores.metrics,
        )

    def _tokens(
        self,
        name: str,
        scores: Scores,
        owed: NDArray[np.float64],
        weight: float,
        counts: NDArray[np.bool_],
        rollouts: Rollouts,
    ) -> Ragged | None:
        weighted = self.terms[name]
        if weighted.scope == "response":
            return None
        if weighted.scope == "token":
            if scores.tokens is None or not np.array_equal(scores.tokens.offsets, rollouts.token_ids.offsets):
                raise ValueError(f"term {name!r} has scope token and must give a value per token")
            paid = np.where(counts[scores.tokens.row_ids], weight * scores.tokens.values.astype(np.float64), 0.0)
            return scores.tokens.with_values(np.where(np.isnan(paid), 0.0, paid))
        rows = [np.zeros(length, dtype=np.float64) for length in rollouts.token_ids.lengths]
        for row, text in enumerate(rollouts.texts):
            parts = read_response(text, weighted.prefix)
            span = parts.think if weighted.span == "think" else parts.answer
            if span is not None and not math.isnan(owed[row]):
                first, stop = token_range(rollouts.char_ends[row], *span)
                rows[row][first:stop] = owed[row]
        return Ragged.from_rows(rows, np.float64)

    def _must_exist(self, name: str, where: str) -> None:
        if name not in self.terms:
            near = get_close_matches(name, self.terms, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {sorted(self.terms)}"
            raise ValueError(f"{where} names the term {name!r}, which does not exist{hint}")

    def _must_not_circle(self, name: str) -> None:
        path = [name]
        while (gate := self.terms[path[-1]].gate) is not None:
            path.append(gate.term)
            if path.count(gate.term) > 1:
                raise ValueError(f"gates must not form a circle, got {' -> '.join(path)}")


def _same_length(new: NDArray[np.float64], old: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    if new.shape != old.shape:
        raise ValueError(f"the shaping of term {name!r} must give {len(old)} values, got shape {new.shape}")
    if np.any(np.isnan(old) & ~np.isnan(new)):
        raise ValueError(f"the shaping of term {name!r} must leave NaN as it is")
    return new


def _total(contributions: list[NDArray[np.float64]], n: int) -> NDArray[np.float64]:
    """Sums in term order, so that a recount in the same order gives the same bits."""
    total = np.zeros(n, dtype=np.float64)
    for part in contributions:
        total = total + part
    return total


def _token_totals(rollouts: Rollouts, parts: Mapping[str, TermResult]) -> Ragged | None:
    given = [part.tokens.values for part in parts.values() if part.tokens is not None]
    return rollouts.token_ids.with_values(_total(given, len(rollouts.token_ids.values))) if given else None
