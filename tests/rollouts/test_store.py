import numpy as np
import pytest

from thinkrl.rollouts.prompt import Message, Prompt
from thinkrl.rollouts.store import FinishReason, Group, Origin, Response, Rollouts, concatenate


def group(name: str) -> Group:
    return Group(name, Prompt(name, (Message("user", "same text"),)), np.asarray([1, 2], np.int32))


def response(response_id: str, group_id: str, origins: list[int]) -> Response:
    n = len(origins)
    return Response(
        response_id=response_id,
        group_id=group_id,
        text="x" * n,
        finish_reason=FinishReason.STOP,
        token_ids=np.arange(n, dtype=np.int32),
        origins=np.asarray(origins, np.uint8),
        logprobs=np.full(n, -1.0, np.float32),
        entropies=np.zeros(n, np.float32),
        versions=np.zeros(n, np.int32),
        char_ends=np.arange(1, n + 1, dtype=np.int32),
    )


S, G = Origin.SAMPLED, Origin.GIVEN


def test_columns_hold_the_responses() -> None:
    given_responses = [response("a", "g2", [S, S]), response("b", "g1", [S, G, S]), response("c", "g2", [])]
    rollouts = Rollouts.from_responses([group("g1"), group("g2")], given_responses)
    assert [r.response_id for r in rollouts] == ["a", "b", "c"]
    for before, after in zip(given_responses, rollouts, strict=True):
        assert before.token_ids.tolist() == after.token_ids.tolist()
        assert before.group_id == after.group_id
    assert rollouts.sampled.tolist() == [True, True, True, False, True]
    assert rollouts.sampled_counts.tolist() == [2, 2, 0]


def test_groups_are_ids_not_positions_or_texts() -> None:
    rollouts = Rollouts.from_responses(
        [group("g1"), group("g2")], [response("a", "g2", [S]), response("b", "g1", [S]), response("c", "g2", [S])]
    )
    assert {name: rows.tolist() for name, rows in rollouts.rows_by_group().items()} == {"g1": [1], "g2": [0, 2]}
    assert rollouts.prompt(0).prompt_id == "g2"


def test_select_drops_empty_groups_and_keeps_order() -> None:
    rollouts = Rollouts.from_responses(
        [group("g1"), group("g2")], [response("a", "g1", [S]), response("b", "g2", [S, S]), response("c", "g2", [])]
    )
    chosen = rollouts.select([2, 1])
    assert chosen.response_ids == ("c", "b")
    assert [g.group_id for g in chosen.groups] == ["g2"]
    assert chosen.token_ids.lengths.tolist() == [0, 2]


def test_parts_join() -> None:
    first = Rollouts.from_responses([group("g1")], [response("a", "g1", [S])])
    second = Rollouts.from_responses([group("g2")], [response("b", "g2", [S, G])])
    joined = concatenate([first, second])
    assert joined.response_ids == ("a", "b")
    with pytest.raises(ValueError, match="unique"):
        concatenate([first, first])


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="groups that are not given"):
        Rollouts.from_responses([group("g1")], [response("a", "g9", [S])])
    bad = response("a", "g1", [S, S])
    object.__setattr__(bad, "logprobs", np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="logprobs and token_ids differ"):
        Rollouts.from_responses([group("g1")], [bad])
