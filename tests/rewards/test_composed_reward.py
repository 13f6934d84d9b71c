"""The composed reward: totals recount, gates, schedules, scopes, missing numbers, faults, shaping."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.grading.verdict import Verdict
from thinkrl.rewards.faults import RewardError
from thinkrl.rewards.gate import Gate
from thinkrl.rewards.reward import Reward, WeightedTerm
from thinkrl.rewards.schedules import Constant, Cosine, Linear, Schedule, Stairs
from thinkrl.rewards.shaping import Clip, GroupNormalise, GroupPassRateWeight, LengthBudget
from thinkrl.rewards.term import RewardContext, RewardTerm, Scores
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.ragged import Ragged
from thinkrl.rollouts.store import FinishReason, Group, Response, Rollouts

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

NAN = math.nan


def batch(texts: list[str], groups: list[str] | None = None, reference: str = "7") -> Rollouts:
    """One token per character."""
    names = groups or ["g"] * len(texts)
    made = []
    for row, (text, name) in enumerate(zip(texts, names, strict=True)):
        n = len(text)
        made.append(
            Response(
                f"r{row}", name, text, FinishReason.STOP, np.zeros(n, np.int32), np.ones(n, np.uint8),
                np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int32),
                np.arange(1, n + 1, dtype=np.int32),
            )
        )  # fmt: skip
    asked, shared = (Message("user", "3 and 4"),), {"pair_id": "p"}
    prompts = {name: Prompt(name, asked, reference, metadata=shared) for name in names}
    return Rollouts.from_responses([Group(k, p, np.zeros(1, np.int32)) for k, p in prompts.items()], made)


@dataclass(frozen=True)
class Given(RewardTerm):
    """Values as given, by row."""

    numbers: tuple[float, ...]
    verdicts: tuple[Verdict | None, ...] = ()
    per_token: tuple[float, ...] | None = None

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        tokens = None
        if self.per_token is not None:
            tokens = rollouts.token_ids.with_values(np.asarray(self.per_token, dtype=np.float64))
        return Scores(np.asarray(self.numbers, dtype=np.float64), self.verdicts, tokens=tokens)


@dataclass(frozen=True)
class Raising(RewardTerm):
    """Raises where the text says so."""

    bad: str = "bad"

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        context.state["calls"] = context.state.get("calls", 0) + 1
        if any(self.bad in text for text in rollouts.texts):
            raise KeyError("no such thing")
        lengths = np.asarray(context.signals.get("length", np.ones(len(rollouts))), dtype=np.float64)
        return Scores(lengths, (Verdict.CORRECT,) * len(rollouts))


def reward(**terms: WeightedTerm) -> Reward:
    return Reward(terms)


def totals(rewarded: Reward, rollouts: Rollouts, **context: Any) -> list[float]:
    return rewarded.score(rollouts, RewardContext(**context)).totals.tolist()


def test_total_is_the_weighted_sum() -> None:
    composed = reward(a=WeightedTerm(Given((1.0, 0.0))), b=WeightedTerm(Given((0.5, 1.0)), weight=-0.25))
    assert totals(composed, batch(["x", "y"])) == [1.0 - 0.125, -0.25]


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(
            st.tuples(
                st.lists(st.one_of(st.floats(-5, 5), st.just(NAN)), min_size=n, max_size=n),
                st.floats(-2, 2),
                st.sampled_from(["exclude", "zero"]),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        )
    )
)
def test_total_recounts_its_parts(parts: list[tuple[list[float], float, str, bool]]) -> None:
    """Bit for bit: the total is the sum of the contributions, and each of them is gate * weight * shaped."""
    terms = {
        f"t{i}": WeightedTerm(
            Given(tuple(numbers)),
            weight=weight,
            missing=missing,  # type: ignore[arg-type]
            gate=Gate("t0", at_least=0.0) if gated and i else None,
        )
        for i, (numbers, weight, missing, gated) in enumerate(parts)
    }
    n = len(parts[0][0])
    result = Reward(terms).score(batch(["x"] * n), RewardContext())
    recount = np.zeros(n)
    for part in result.terms.values():
        recount = recount + part.contributions
    np.testing.assert_array_equal(result.totals, recount)
    for (name, part), (_, weight, missing, _) in zip(result.terms.items(), parts, strict=True):
        for row in range(n):
            if not part.opened[row] or weight == 0.0:
                expected = 0.0
            elif math.isnan(part.values[row]):
                expected = NAN if missing == "exclude" else 0.0
            else:
                expected = weight * part.values[row]
            assert part.contributions[row] == expected or (
                math.isnan(expected) and math.isnan(part.contributions[row])
            ), name


def test_ungradable_is_excluded_and_counted() -> None:
    judged = Given((1.0, NAN, 0.0), (Verdict.CORRECT, Verdict.UNGRADABLE, Verdict.WRONG))
    composed = reward(correct=WeightedTerm(judged), style=WeightedTerm(Given((0.5, 0.5, 0.5))))
    result = composed.score(batch(["x"] * 3), RewardContext())
    assert result.kept.tolist() == [True, False, True]
    row = result.metrics()
    assert row["reward/mean"] == pytest.approx((1.5 + 0.5) / 2)
    assert row["reward/excluded"] == 1.0
    assert (row["reward/correct_rate"], row["reward/ungradable_rate"], row["reward/timeout_rate"]) == (
        1 / 3,
        1 / 3,
        0.0,
    )
    assert row["reward/correct/value"] == 0.5
    assert row["reward/correct/missing_rate"] == pytest.approx(1 / 3)
    assert row["reward/style/value"] == 0.5
    assert row["reward/correct/firing_rate"] == pytest.approx(1 / 3)


def test_missing_zero_and_terms_that_do_not_count() -> None:
    numbers = Given((NAN, 1.0))
    assert totals(reward(a=WeightedTerm(numbers, missing="zero")), batch(["x", "y"])) == [0.0, 1.0]
    assert totals(reward(a=WeightedTerm(numbers, weight=0.0)), batch(["x", "y"])) == [0.0, 0.0]
    gated = reward(a=WeightedTerm(numbers, gate=Gate("b", at_least=1.0)), b=WeightedTerm(Given((0.0, 1.0))))
    assert totals(gated, batch(["x", "y"])) == [0.0, 2.0]


@pytest.mark.parametrize(
    ("gate", "opened"),
    [
        (Gate("b", at_least=0.5), [False, True, True, False]),
        (Gate("b", at_most=0.5), [True, True, False, False]),
        (Gate("b", at_least=0.5, at_most=0.5), [False, True, False, False]),
        (Gate("b", verdict="correct"), [False, False, True, False]),
        (Gate("b", verdict="ungradable"), [False, False, False, True]),
        (Gate("b", verdict="correct", at_most=0.9), [False, False, False, False]),
    ],
)
def test_gates(gate: Gate, opened: list[bool]) -> None:
    verdicts = (Verdict.WRONG, Verdict.WRONG, Verdict.CORRECT, Verdict.UNGRADABLE)
    composed = reward(
        a=WeightedTerm(Given((1.0,) * 4), gate=gate),
        b=WeightedTerm(Given((0.0, 0.5, 1.0, NAN), verdicts), missing="zero"),
    )
    result = composed.score(batch(["x"] * 4), RewardContext())
    assert result.terms["a"].opened.tolist() == opened
    assert result.terms["a"].contributions.tolist() == [float(o) for o in opened]
    assert result.metrics()["reward/a/gate_open_rate"] == sum(opened) / 4


def test_gates_read_raw_values_and_close_in_a_row() -> None:
    composed = reward(
        a=WeightedTerm(Given((1.0, 1.0)), gate=Gate("b", at_least=1.0)),
        b=WeightedTerm(Given((1.0, 1.0)), weight=0.0, gate=Gate("c", at_least=1.0)),
        c=WeightedTerm(Given((1.0, 0.0)), shaping=(Clip(0.0, 0.25),)),
    )
    assert totals(composed, batch(["x", "y"])) == [1.25, 0.0]


def weighted(gate: Gate | None = None) -> WeightedTerm:
    return WeightedTerm(Given((1.0,)), gate=gate)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Reward({}), "terms must name at least one"),
        (
            lambda: Reward({"correct": weighted()}, verdict_from="corect"),
            r"verdict_from .*'corect'.*did you mean 'correct'",
        ),
        (
            lambda: reward(a=weighted(Gate("lenght", at_least=0)), length=weighted()),
            "gate of 'a'.*did you mean 'length'",
        ),
        (lambda: reward(a=weighted(Gate("zzz", at_least=0)), b=weighted()), r"there are \['a', 'b'\]"),
        (lambda: reward(a=weighted(Gate("a", at_least=0))), "circle, got a -> a"),
        (
            lambda: reward(a=weighted(Gate("b", at_least=0)), b=weighted(Gate("a", at_least=0))),
            "circle, got a -> b -> a",
        ),
        (lambda: Gate("a"), "at_least, at_most or verdict"),
        (lambda: WeightedTerm(Given((1.0,)), weight=NAN), "weight must be finite"),
        (lambda: Clip(1.0, 0.0), "low must be at most high"),
        (lambda: GroupNormalise(epsilon=0.0), "epsilon must be above 0"),
        (lambda: GroupPassRateWeight(floor=2.0), "floor must be in"),
        (lambda: LengthBudget(slack=0.0), "slack must be above 0"),
        (lambda: Linear(begin=0.5, end=0.5), "begin must be below end"),
        (lambda: Stairs((1.0,), (0.5,)), "weights must hold 2 values"),
        (lambda: Stairs((1.0, 2.0, 3.0), (0.5, 0.2)), "at must rise"),
    ],
)
def test_what_cannot_work_fails_when_it_is_made(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (Constant(0.3), [0.3] * 5),
        (Linear(0.0, 1.0), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Linear(2.0, 0.0, begin=0.25, end=0.75), [2.0, 2.0, 1.0, 0.0, 0.0]),
        (Cosine(1.0, 0.0), [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]),
        (Stairs((0.0, 1.0, 0.5), (0.25, 1.0)), [0.0, 1.0, 1.0, 1.0, 0.5]),
    ],
)
def test_schedules(schedule: Schedule, weights: list[float]) -> None:
    assert [schedule.value(step, 5) for step in range(5)] == pytest.approx(weights, abs=1e-15)
    assert schedule.value(0, 1) == weights[0]
    composed = reward(a=WeightedTerm(Given((1.0,)), weight=schedule))
    for step in range(5):
        result = composed.score(batch(["x"]), RewardContext(step=step, total_steps=5))
        assert (
            result.terms["a"].weight
            == result.totals[0]
            == result.metrics()["reward/a/weight"]
            == schedule.value(step, 5)
        )


def test_span_scope_pays_the_tokens_of_the_span() -> None:
    texts = ["<think>ab</think><answer>c</answer>", "no tags"]
    composed = reward(a=WeightedTerm(Given((1.0, 1.0)), weight=0.5, scope="span"), b=WeightedTerm(Given((1.0, 2.0))))
    result = composed.score(batch(texts), RewardContext())
    assert result.totals.tolist() == [1.0, 2.0]
    assert result.tokens is not None
    assert np.flatnonzero(result.tokens[0]).tolist() == [7, 8]
    assert result.tokens[0][7] == 0.5
    assert not result.tokens[1].any()
    answer = reward(a=WeightedTerm(Given((1.0, 1.0)), scope="span", span="answer")).score(batch(texts), RewardContext())
    assert answer.tokens is not None
    assert "".join(texts[0][i] for i in np.flatnonzero(answer.tokens[0])) == "c"


def test_token_scope_adds_token_values() -> None:
    term = Given((0.0, 0.0), per_token=(1.0, NAN, 3.0))
    composed = reward(a=WeightedTerm(term, weight=2.0, scope="token"), b=WeightedTerm(term, scope="token"))
    result = composed.score(batch(["xy", "z"]), RewardContext())
    assert result.tokens is not None
    assert result.tokens.values.tolist() == [3.0, 0.0, 9.0]
    assert result.totals.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="'a' has scope token"):
        totals(reward(a=WeightedTerm(Given((1.0,)), scope="token")), batch(["x"]))


def test_no_token_totals_without_token_terms() -> None:
    assert reward(a=weighted()).score(batch(["x"]), RewardContext()).tokens is None


def test_verdicts_come_from_the_named_term_or_the_first_that_judges() -> None:
    terms = {
        "style": WeightedTerm(Given((1.0,))),
        "strict": WeightedTerm(Given((0.0,), (Verdict.WRONG,))),
        "loose": WeightedTerm(Given((1.0,), (Verdict.CORRECT,))),
    }
    assert Reward(terms).score(batch(["x"]), RewardContext()).verdicts == (Verdict.WRONG,)
    assert Reward(terms, verdict_from="loose").score(batch(["x"]), RewardContext()).verdicts == (Verdict.CORRECT,)
    assert Reward(terms, verdict_from="style").score(batch(["x"]), RewardContext()).verdicts == (None,)


def test_a_term_that_raises_stops_with_names() -> None:
    composed = reward(fine=weighted(), judge=WeightedTerm(Raising()))
    with pytest.raises(RewardError, match=r"'judge' failed on response 'r1': KeyError: 'no such thing'") as caught:
        totals(reward(judge=composed.terms["judge"]), batch(["a", "bad", "c", "bad"]))
    assert isinstance(caught.value.__cause__, KeyError)


def test_on_error_ungradable_scores_the_others_together() -> None:
    composed = reward(judge=WeightedTerm(Raising(), on_error="ungradable"))
    state: dict[str, Any] = {}
    context = RewardContext(state=state, signals={"length": np.asarray([1.0, 2.0, 3.0])})
    result = composed.score(batch(["a", "bad", "c"]), context)
    np.testing.assert_array_equal(result.totals, [1.0, NAN, 3.0])
    assert result.verdicts == (Verdict.CORRECT, Verdict.UNGRADABLE, Verdict.CORRECT)
    assert result.terms["judge"].notes[1] == "KeyError: 'no such thing'"
    # What the failed attempts wrote into the term's memory is forgotten.
    assert state == {"judge": {"calls": 1}}


@dataclass(frozen=True)
class WrongShape(RewardTerm):
    """Gives one value too few, or an infinite one."""

    infinite: bool = False

    def score(self, rollouts: Rollouts, context: RewardContext) -> Scores:
        return Scores(np.full(len(rollouts), math.inf) if self.infinite else np.zeros(1))


def test_short_and_infinite_scores_are_refused() -> None:
    with pytest.raises(RewardError, match="must give 2 values, got shape"):
        totals(reward(a=WeightedTerm(WrongShape())), batch(["x", "y"]))
    with pytest.raises(RewardError, match="infinite"):
        totals(reward(a=WeightedTerm(WrongShape(infinite=True))), batch(["x", "y"]))


def test_each_term_has_its_own_state() -> None:
    state: dict[str, Any] = {}
    composed = reward(a=WeightedTerm(Raising()), b=WeightedTerm(Raising()))
    for calls in (1, 2):
        composed.score(batch(["x"]), RewardContext(state=state))
        assert state == {"a": {"calls": calls}, "b": {"calls": calls}}


GROUPS = ["g", "h", "g", "h", "g"]


def shaped(shaping: Any, numbers: tuple[float, ...], texts: list[str] | None = None) -> NDArray[np.float64]:
    rollouts = batch(texts or ["x"] * 5, GROUPS)
    result = reward(a=WeightedTerm(Given(numbers), shaping=(shaping,))).score(rollouts, RewardContext())
    np.testing.assert_array_equal(result.terms["a"].values, numbers)
    np.testing.assert_array_equal(result.totals, result.terms["a"].shaped)
    return result.terms["a"].shaped


def test_group_normalise_by_hand() -> None:
    # g holds 1, 2, 6: mean 3, population variance (4 + 1 + 9) / 3. h holds 5 and no number.
    found = shaped(GroupNormalise(epsilon=1e-12), (1.0, 5.0, 2.0, NAN, 6.0))
    spread = math.sqrt(14 / 3)
    np.testing.assert_allclose(found, [-2 / spread, 0.0, -1 / spread, NAN, 3 / spread], rtol=1e-9)
    np.testing.assert_allclose(shaped(GroupNormalise(scale=False), (1.0, 5.0, 2.0, NAN, 6.0)), [-2, 0, -1, NAN, 3])


def test_pass_rate_weight_by_hand() -> None:
    # g passes 1 of 3: 4 * 1/3 * 2/3 = 8/9. h passes all that have a number: weight `floor`.
    np.testing.assert_allclose(shaped(GroupPassRateWeight(), (1.0, 1.0, 0.0, NAN, 0.0)), [8 / 9, 0, 0, NAN, 0])
    np.testing.assert_allclose(
        shaped(GroupPassRateWeight(floor=0.1), (1.0, 1.0, 0.0, NAN, 0.0)), [0.1 + 0.8, 0.1, 0, NAN, 0]
    )


def test_length_budget_by_hand() -> None:
    # g's passing responses have 2 and 6 tokens: the budget is 4. h passes nothing.
    texts = ["xx", "x" * 9, "x" * 6, "x", "x" * 50]
    np.testing.assert_allclose(shaped(LengthBudget(), (1.0, 0.2, 1.0, NAN, 0.0), texts), [1.0, 0.2, 4 / 6, NAN, 0.0])


def test_clip() -> None:
    assert shaped(Clip(0.0, 1.0), (-1.0, 0.5, 2.0, 1.0, 0.0)).tolist() == [0.0, 0.5, 1.0, 1.0, 0.0]


@dataclass(frozen=True)
class Careless:
    """Turns a missing number into 0."""

    def shape(self, values: NDArray[np.float64], rollouts: Rollouts, context: RewardContext) -> NDArray[np.float64]:
        return np.nan_to_num(values)


def test_shaping_cannot_invent_numbers() -> None:
    with pytest.raises(ValueError, match="'a' must leave NaN"):
        totals(reward(a=WeightedTerm(Given((NAN,)), shaping=(Careless(),))), batch(["x"]))


def test_empty_batch() -> None:
    rollouts = Rollouts.from_responses([], [])
    result = reward(a=WeightedTerm(Given(()))).score(rollouts, RewardContext())
    assert len(result.totals) == 0
    assert math.isnan(result.metrics()["reward/mean"])


CONF = Path(__file__).parents[2] / "conf" / "reward"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_rewards_build_and_score(path: Path, tmp_path: Path) -> None:
    assert path.read_text().startswith("# ")
    recipe = tmp_path / "recipe.yaml"
    constants = "constants: {length_target: 40, length_step: 8, length_limit: 80}"
    recipe.write_text(f"# A recipe.\ndefaults: [/base, {{/reward: {path.stem}}}, _self_]\n{constants}\n")
    tree = compose(recipe)
    composed = build(Reward, tree.tree["reward"], tree, "reward")
    groups = ["g", "h"] if path.stem == "cross_vote" else None  # a question and its twin
    texts = ["<think>3 + 4 = 7</think><answer>\\boxed{7}</answer>", "\\boxed{8}"]
    numbers = [name for name, reading in composed.signals().items() if reading.signal.shape == "number"]
    signals: dict[str, Any] = {name: np.asarray([0.75, 0.25]) for name in numbers}
    if path.stem == "vsrm":  # one more accuracy than there are steps
        signals["step_accuracies"] = Ragged.from_rows([[0.5, 1.0]] * 2, np.float64)
    # A verdict between two has a side for a reference, a puzzle its numbers.
    reference = {"pairwise_verdict": "A", "flow": "3 4 -> 7"}.get(path.stem, "7")
    # Each is a conversation of one turn, for rewards that read how it went.
    episodes = Episode("a", (30.0, 80.0)), Episode("b", (30.0, 40.0))
    rollouts = replace(batch(texts, groups, reference), episodes=episodes)
    result = composed.score(rollouts, RewardContext(signals=signals))
    assert result.kept.all()
    if "correctness" in composed.terms:
        assert result.verdicts == (Verdict.CORRECT, Verdict.WRONG)
        if composed.terms["correctness"].weight_at(0, 1):
            assert result.totals[0] > result.totals[1] == 0.0


def test_ragged_tokens_keep_their_rows() -> None:
    """Token totals share the offsets of the token ids."""
    rollouts = batch(["<think>a</think><answer>b</answer>", "", "x"])
    result = reward(a=WeightedTerm(Given((1.0,) * 3), scope="span")).score(rollouts, RewardContext())
    assert isinstance(result.tokens, Ragged)
    np.testing.assert_array_equal(result.tokens.offsets, rollouts.token_ids.offsets)
