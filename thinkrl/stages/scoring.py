"""Scores given responses as a stage would: rollouts without a model, then reward and advantage."""

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thinkrl.algorithms.types import Advantages
from thinkrl.config.component import ConfigError
from thinkrl.data.responses import GivenResponse, json_type
from thinkrl.data.source import DataError
from thinkrl.rewards.result import RewardResult
from thinkrl.rewards.signals import FORMS, Reading, SignalError, missing
from thinkrl.rewards.term import RewardContext
from thinkrl.rollouts.cuts import Cut, thinking_owners
from thinkrl.rollouts.episodes import Episode
from thinkrl.rollouts.ragged import Ragged, add
from thinkrl.rollouts.signals import CUT, EPISODE, ROLLOUT_SIGNALS
from thinkrl.rollouts.spans import stretches, token_range
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts
from thinkrl.stages.scored_stage import REFERENCE_LOGPROBS, ScoredStage
from thinkrl.stages.token_places import ids_of, joined_ends, spread_ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Number = float | None
"""None where there is no number."""


@dataclass(frozen=True)
class ScoredResponse:
    """What the reward and the advantage say of one response.

    terms, contributions: raw value of each term, and what it added to the reward. weights: in force.
    advantage: a number, or one a token where the tokens of some response differ. notes: reasons, in words.
    """

    prompt_id: str | int
    response_id: str | int
    verdict: str | None
    terms: dict[str, Number]
    weights: dict[str, float]
    contributions: dict[str, Number]
    reward: Number
    advantage: Number | list[Number]
    notes: list[str]


@dataclass(frozen=True)
class Scored:
    """The scores of a file, in its order, with the metrics of reward and advantage."""

    responses: list[ScoredResponse]
    metrics: dict[str, float]


def score_responses(
    stage: ScoredStage,
    given: Sequence[GivenResponse],
    *,
    step: int,
    total_steps: int,
    state: MutableMapping[str, Any],
    tokenizer: "Callable[[], PreTrainedTokenizerBase]",
) -> Scored:
    """Scores `given` as the stage does at `step` of 1..total_steps; `state` is read and changed.

    tokenizer: called when a number of tokens is read that the file does not give.
    Raises UserError for signals that are missing or do not fit, and for what a term or the estimator refuses.
    """
    readings = stage.signals()
    for one in given:
        for reading in readings.values():
            if reading.signal.name not in one.signals:
                raise missing(reading, one.response_id, one.where)
    rollouts, notes = make_rollouts(given, readings, tokenizer if stage.reads_tokens else None)
    columns = {
        name: _column(name, readings, given, rollouts) for name in dict.fromkeys(n for g in given for n in g.signals)
    }
    signals = {name: column for name, column in columns.items() if name not in ROLLOUT_SIGNALS}
    try:
        rewards = stage.reward.score(rollouts, RewardContext(step - 1, total_steps, state, signals))
        advantages = _advantages(stage, rollouts, rewards, signals)
    except ValueError as error:  # a reward or an estimator refuses what it got; what terms raise is a RewardError
        raise DataError(f"stage {stage.name!r} cannot score these responses: {error}") from error
    shown = _shown_advantages(advantages, len(given))
    metrics = {**rewards.metrics(), **(advantages.metrics if advantages else {})}
    alone = _alone(rollouts, rewards) if advantages else set()
    return Scored(
        [
            ScoredResponse(
                prompt_id=one.given_ids[0],
                response_id=one.given_ids[1],
                verdict=verdict.value if (verdict := rewards.verdicts[row]) else None,
                terms={name: _number(part.values[row]) for name, part in rewards.terms.items()},
                weights={name: part.weight for name, part in rewards.terms.items()},
                contributions={name: _number(part.contributions[row]) for name, part in rewards.terms.items()},
                reward=_number(rewards.totals[row]),
                advantage=shown[row],
                notes=[*notes[row], *_notes(rewards, row, row in alone, shown[row])],
            )
            for row, one in enumerate(given)
        ],
        metrics,
    )


def make_rollouts(
    given: Sequence[GivenResponse],
    readings: Mapping[str, Reading],
    tokenizer: "Callable[[], PreTrainedTokenizerBase] | None",
) -> tuple[Rollouts, list[list[str]]]:
    """Rollouts in the file's order, one group a prompt, and notes on what was counted.

    Tokens are those that the file gives as texts. Where it gives their number alone, by `token_count` or by a signal
    for each token, they have no ids (-1) and are spread over the text, but for tags, which are a token each, unless
    the `tokenizer` splits the text into just as many as a signal has. Else the tokenizer splits it, and a stop token
    is added to a finished response, as in a run. Without a tokenizer a response is one token, or one for each stretch
    that was given or sampled.
    """
    responses: list[Response] = []
    notes: list[list[str]] = []
    opened: list[PreTrainedTokenizerBase] = []
    for one in given:
        counts, note = _given_counts(one, readings), []
        count = next(iter(counts.values()), None)
        if one.tokens is not None:
            ids, ends = ids_of(one.tokens), joined_ends(one.tokens)
        elif count is not None or tokenizer is None:
            apart = count is None and bool(one.given)
            ends = _stretch_ends(one) if apart else spread_ends(one.text, 1 if count is None else count)
            ids = np.full(len(ends), -1, dtype=np.int32)
            if tokenizer is not None and set(counts) - {"token_count"}:  # then it matters where each token stands
                ids, ends = _split_as_counted(tokenizer, opened, one, len(ends)) or (ids, ends)
        else:
            if not opened:
                opened.append(_open(tokenizer, one))
            ids, ends = _split(opened[0], one)
            note = [f"{len(ends)} tokens, counted with the recipe's tokenizer"]
        responses.append(_response(one, ids, ends.astype(np.int32), readings))
        notes.append(note)
    _give_shared_thinking(responses)
    prompts = {one.prompt.prompt_id: one.prompt for one in given}
    groups = [Group(name, prompt, np.zeros(0, dtype=np.int32)) for name, prompt in prompts.items()]
    return Rollouts.from_responses(groups, responses), notes


def _open(tokenizer: "Callable[[], PreTrainedTokenizerBase]", one: GivenResponse) -> "PreTrainedTokenizerBase":
    try:
        return tokenizer()
    except ConfigError as error:
        raise ConfigError(
            f"{one.where}: the reward or the advantage reads the number of tokens, which this line does not give, and"
            f" they cannot be counted: {error}\n  give each response its token_count"
        ) from error


def _split(tokenizer: "PreTrainedTokenizerBase", one: GivenResponse) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids, and where each token ends in the text, in characters, with a stop token after a finished response."""
    split = tokenizer(one.text, add_special_tokens=False, return_offsets_mapping=True)
    stop = [0] * (one.finish_reason is FinishReason.STOP)
    ids = [*split["input_ids"], *((tokenizer.eos_token_id or 0) for _ in stop)]
    ends = [*(end for _, end in split["offset_mapping"]), *(len(one.text) for _ in stop)]
    return np.asarray(ids, dtype=np.int32), np.maximum.accumulate(np.asarray(ends, dtype=np.int64))


def _split_as_counted(
    tokenizer: "Callable[[], PreTrainedTokenizerBase]",
    opened: "list[PreTrainedTokenizerBase]",
    one: GivenResponse,
    count: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
    """The tokenizer's split where it has `count` tokens, with or without a stop token; None where it has not."""
    if not opened:
        try:
            opened.append(tokenizer())
        except ConfigError:
            return None  # it is not there, and the response can be scored without it
    ids, ends = _split(opened[0], one)
    return (
        (ids[:count], ends[:count])
        if len(ends) - (one.finish_reason is FinishReason.STOP) <= count <= len(ends)
        else None
    )


def _given_counts(one: GivenResponse, readings: Mapping[str, Reading]) -> dict[str, int]:
    """The number of tokens that the line gives, by what gives it. Raises SignalError where they differ."""
    counts = {} if one.token_count is None else {"token_count": one.token_count}
    if one.tokens is not None:
        counts["tokens"] = len(one.tokens)
    for name in one.signals:
        shape = (
            readings[name].signal.shape
            if name in readings
            else ROLLOUT_SIGNALS[name].shape
            if name in ROLLOUT_SIGNALS
            else ""
        )
        if shape == "token" and one.signals[name] is not None:
            counts[f"the signal {name!r}"] = len(_numbers(one, name, one.signals[name], "token"))
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{count} by {name}" for name, count in counts.items())
        raise SignalError(f"{one.where}: response {one.response_id!r} has numbers of tokens that differ: {said}")
    return counts


def _response(
    one: GivenResponse, ids: NDArray[np.int32], ends: NDArray[np.int32], readings: Mapping[str, Reading]
) -> Response:
    count = len(ids)
    blank = np.full(count, np.nan, dtype=np.float32)
    filled = {
        name: np.asarray(_numbers(one, name, one.signals[name], "token"), dtype=np.float32)
        for name, signal in ROLLOUT_SIGNALS.items()
        if signal.shape == "token" and one.signals.get(name) is not None
    }
    return Response(
        response_id=one.response_id,
        group_id=one.prompt.prompt_id,
        text=one.text,
        finish_reason=one.finish_reason,
        token_ids=ids,
        origins=_origins(one, ends),
        logprobs=filled.get("logprobs", blank),
        entropies=filled.get("entropies", blank),
        versions=np.zeros(count, dtype=np.int32),
        char_ends=ends,
        cut=_cut(one, count),
        episode=_episode(one),
    )


def _stretch_ends(one: GivenResponse) -> NDArray[np.int64]:
    return np.asarray([last for (_, last), _ in stretches(len(one.text), one.given)], dtype=np.int64)


def _origins(one: GivenResponse, ends: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Given where a token writes anything of a given stretch."""
    origins = np.full(len(ends), Origin.SAMPLED, dtype=np.uint8)
    for stretch in one.given:
        origins[slice(*token_range(ends, *stretch))] = Origin.GIVEN
    return origins


def _cut(one: GivenResponse, count: int) -> Cut | None:
    """What the line says of the thinking that its response shares. Raises SignalError where that cannot be."""
    given = one.signals.get(CUT.name)
    if given is None:
        return None
    where = f"{one.where}: the signal {CUT.name!r} of response {one.response_id!r}"
    try:
        cut = Cut.from_json(given)
    except ValueError as error:
        raise SignalError(f"{where}: {error}") from error
    if cut.kept > count:
        raise SignalError(f"{where} keeps {cut.kept} tokens of thinking, but the response has {count}")
    # Files may number the thoughts of each prompt anew.
    return replace(cut, thinking=f"{one.prompt.prompt_id}/{cut.thinking}")


def _episode(one: GivenResponse) -> Episode | None:
    """What the line says of the episode that its response took part in. Raises SignalError where that cannot be."""
    given = one.signals.get(EPISODE.name)
    if given is None:
        return None
    try:
        episode = Episode.from_json(given)
    except ValueError as error:
        where = f"{one.where}: the signal {EPISODE.name!r} of response {one.response_id!r}"
        raise SignalError(f"{where}: {error}") from error
    # Files may number the episodes of each prompt anew.
    return replace(episode, episode=f"{one.prompt.prompt_id}/{episode.episode}")


def _give_shared_thinking(responses: list[Response]) -> None:
    """A thinking that several responses share was sampled once: to all but its owner it is given."""
    owners = thinking_owners([response.cut for response in responses])
    for row, (response, owns) in enumerate(zip(responses, owners, strict=True)):
        if response.cut is not None and not owns:
            origins = response.origins.copy()
            origins[: response.cut.kept] = Origin.GIVEN
            responses[row] = replace(response, origins=origins)


def _column(name: str, readings: Mapping[str, Reading], given: Sequence[GivenResponse], rollouts: Rollouts) -> Any:
    """One signal of all responses, in the form that its shape has in a run; as JSON where nothing declares it."""
    values = [one.signals.get(name) for one in given]
    shape = readings[name].signal.shape if name in readings else "json"
    if shape == "json":
        return values
    if shape == "number":
        return np.asarray([_numbers(one, name, [v], shape)[0] for one, v in zip(given, values, strict=True)])
    rows = [
        [] if value is None else _numbers(one, name, value, shape) for one, value in zip(given, values, strict=True)
    ]
    if shape == "token":
        lengths = rollouts.token_ids.lengths
        rows = [
            row if given[i].signals[name] is not None else [math.nan] * int(lengths[i]) for i, row in enumerate(rows)
        ]
    return Ragged.from_rows(rows, np.float64)


def _numbers(one: GivenResponse, name: str, value: Any, shape: str) -> list[float]:
    """A list of numbers, NaN for null. Raises SignalError for anything else."""
    if not isinstance(value, list) or any(isinstance(v, bool) or not isinstance(v, int | float | None) for v in value):
        shown = value[0] if shape == "number" else value
        raise SignalError(
            f"{one.where}: the signal {name!r} of response {one.response_id!r} must be {FORMS[shape]}, or null,"
            f" got a {json_type(shown)}"
        )
    try:
        return [math.nan if v is None else float(v) for v in value]
    except OverflowError as error:
        raise SignalError(f"{one.where}: the signal {name!r} holds a number that is too large") from error


def _advantages(
    stage: ScoredStage, rollouts: Rollouts, rewards: RewardResult, signals: Mapping[str, Any]
) -> Advantages | None:
    if stage.estimator is None:
        return None
    token_rewards = rewards.tokens
    if stage.kl_reward is not None:
        reference = signals[REFERENCE_LOGPROBS.name]
        token_rewards = add(token_rewards, stage.kl_reward.token_rewards(rollouts, rollouts.logprobs, reference))
    return stage.estimator.advantages(rewards.totals, rollouts, token_rewards, signals)


def _shown_advantages(advantages: Advantages | None, n: int) -> Sequence[Number | list[Number]]:
    """One number a response, or one a token for all where the tokens of some response differ, null at given tokens."""
    if advantages is None:
        return [None] * n
    rows = [row if kept else row[:0] for row, kept in zip(advantages.values, advantages.kept, strict=True)]
    known = [row[~np.isnan(row)] for row in rows]
    if all(len(row) == 0 or np.all(row == row[0]) for row in known):
        return [_number(row[0]) if len(row) else None for row in known]
    return [[_number(value) for value in row] if len(row) else None for row in rows]


def _alone(rollouts: Rollouts, rewards: RewardResult) -> set[int]:
    """Rows whose group holds no other response with a reward."""
    kept = [[int(row) for row in rows if rewards.kept[row]] for rows in rollouts.rows_by_group().values()]
    return {rows[0] for rows in kept if len(rows) == 1}


def _notes(rewards: RewardResult, row: int, alone: bool, advantage: Number | list[Number]) -> list[str]:
    notes = []
    for name, part in rewards.terms.items():
        if part.notes and part.notes[row]:
            notes.append(f"{name}: {part.notes[row]}")
        if not part.opened[row]:
            notes.append(f"{name}: not counted, its gate is closed")
        if part.tokens is not None:
            paid = float(np.sum(part.tokens[row]))
            notes.append(f"{name}: pays {paid:.4g} in all to tokens, beside the reward of the response")
    if math.isnan(rewards.totals[row]):
        without = [name for name, part in rewards.terms.items() if math.isnan(part.contributions[row])]
        notes.append(f"no reward: {' and '.join(without)} gave no number")
    elif alone and advantage == 0:
        notes.append("no other response to this prompt has a reward: the advantage is 0")
    return notes


def _number(value: Any) -> Number:
    return float(value) + 0.0 if math.isfinite(value) else None  # + 0.0: a weighted zero is no -0.0
