"""Two processes tell each other things; alone, everything is as it was."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from many_steps import run_ranks

from thinkrl.parallel.place import ALONE
from thinkrl.parallel.ranks import LostRankError, joined, ranks


def test_alone_everything_is_given_back():
    alone = ranks()
    assert (alone.rank, alone.size, alone.first) == (0, 1, True)
    value, tensor = object(), torch.ones(2)
    assert alone.gather(value, "x") == [value]
    assert alone.share(value, "x") is value
    assert alone.sum_(tensor, "x") is tensor
    assert alone.share_tensors({"a": tensor}, "x")["a"] is tensor
    assert not alone.any(False, "x")
    with alone.first_alone("x"):
        alone.barrier("x")
    with joined(ALONE, 1.0) as same:
        assert same is alone


def test_alone_errors_are_nobody_else_s():
    with pytest.raises(RuntimeError, match="own fault") as caught, ranks().waiting("x"):
        raise RuntimeError("own fault")
    assert not isinstance(caught.value, LostRankError)


def exchange():
    here = ranks()
    r = here.rank
    kept = torch.full((3,), float(r + 1))
    told = {
        "gathered": here.gather({"rank": r, "rows": np.arange(r * 1000)}, "gather"),
        "shared": here.share([1.5, None] if here.first else "not read", "share"),
        "sum": here.sum_(kept, "sum").tolist(),
        "any": [here.any(r == 1, "any"), here.any(False, "any")],
        "tensors": here.share_tensors({"w": torch.tensor([[0.1, 2.0]])} if here.first else {}, "tensors"),
    }
    try:
        here.gather(r, f"place {r}")
    except RuntimeError as error:
        told["out of step"] = str(error)
    with here.first_alone("order"):
        told["before"] = here.first
    return told


def gone(place):
    """Rank 1 goes without a word; rank 0 waits for it, no longer than agreed."""
    here = ranks()
    said = ""
    here.share("rewards", "rewards")
    if here.first:
        try:
            here.gather("answer", "the answer")
        except LostRankError as error:
            said = str(error)
    Path(f"{place}{here.rank}").write_text(said)
    os._exit(0)


def test_two_processes_hear_the_same():
    first, second = run_ranks(2, exchange)
    for told in (first, second):
        assert [part["rank"] for part in told["gathered"]] == [0, 1]
        assert len(told["gathered"][1]["rows"]) == 1000
        assert told["shared"] == [1.5, None]
        assert told["sum"] == [3.0, 3.0, 3.0]
        assert told["any"] == [True, False]
        assert told["tensors"]["w"].tolist() == torch.tensor([[0.1, 2.0]]).tolist()
        assert "'place 0', 'place 1'" in told["out of step"]


def test_who_waited_for_what_is_said_when_another_is_gone(tmp_path):
    run_ranks(2, gone, str(tmp_path / "rank"), results=False)
    said = (tmp_path / "rank0").read_text()
    assert said.startswith("rank 0 of 2 waited for the others at 'the answer' (at most 60 s, learner.wait_minutes)")
    assert "by peer" in said
    assert (tmp_path / "rank1").read_text() == ""
