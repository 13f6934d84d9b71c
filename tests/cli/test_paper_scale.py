"""`thinkrl reproduce --scale paper`: needs are said first, and what cannot run is refused before it is loaded."""

from pathlib import Path
from typing import Any

import pytest
from test_cli_start import invoke

from thinkrl.cli import paper_scale
from thinkrl.cli.paper_scale import paper_form
from thinkrl.planning import hardware
from thinkrl.planning.hardware import GIB, Hardware
from thinkrl.reproduction import arms

SMALL = Hardware("a small machine", 1, 8 * GIB, 1e12, 1e10, "a test", gpu=False)
LARGE = Hardware("a large machine", 1, 8000 * GIB, 1e15, 1e13, "a test", gpu=True)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What would have run."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    found: list[Any] = []

    def run_all(runs: list[Any], *_: object) -> None:
        found.extend(runs)
        raise SystemExit(0)

    monkeypatch.setattr(arms, "run_all", run_all)
    return found


def on(machine: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "find_hardware", lambda text, **_: machine)


def test_a_small_machine_is_refused_with_what_is_needed(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    on(SMALL, monkeypatch)
    code, text = invoke("reproduce", "grpo_lambda", "--scale", "paper")
    assert code == 2
    for said in ("model Qwen/Qwen3-8B: to be downloaded", "data set", "runs: 9 (3 arms x 3 seeds)",
                 "hardware: a small machine",
                 "does not fit", "this machine cannot run grpo_lambda/paper", "--force"):  # fmt: skip
        assert said in text
    assert ran == []
    assert not Path("runs").exists()


def test_force_runs_it_all_the_same(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    on(SMALL, monkeypatch)
    assert invoke("reproduce", "grpo_lambda", "--scale", "paper", "--force", "--seeds", "0")[0] == 0
    assert [run.arm for run in ran] == ["method", "grpo", "grpo_lp"]
    assert ran[0].directory == Path("runs/grpo_lambda_paper/reproduce/method/seed0")


def test_a_large_machine_runs_it(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    on(LARGE, monkeypatch)
    code, text = invoke("reproduce", "grpo_lambda/paper")
    assert (code, len(ran)) == (0, 9), text


def test_what_does_not_carry_over_is_said(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    on(LARGE, monkeypatch)
    code, text = invoke("reproduce", "laser", "--scale", "paper", "--dry-run")
    assert code == 0, text
    assert "laser/paper states no claim of its own: that of laser is checked" in text
    assert "arm truncation: constants.length_target=40 is a size for the laptop form" in text
    assert "check hardest_sums: " in text
    assert "check shorter" not in text
    assert ran == []


def test_a_claim_of_which_nothing_is_left_is_an_error(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from thinkrl.reproduction import paper_scale as fitting

    on(LARGE, monkeypatch)
    monkeypatch.setattr(fitting, "_not_there", lambda *_: "of the test")
    code, text = invoke("reproduce", "laser", "--scale", "paper")
    assert code == 2
    assert "no check of laser can be made on laser/paper" in text


def test_a_missing_file_is_a_reason(ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    on(LARGE, monkeypatch)
    code, text = invoke("reproduce", "co_reward", "--scale", "paper")
    assert code == 2
    assert "math_train_pairs.jsonl is missing" in text


@pytest.mark.parametrize(
    ("recipe", "form"),
    [("laser", "laser/paper"), ("laser/paper", "laser/paper"), ("family/laser", "family/laser/paper"),
     ("x/laptop.yaml", "x/paper.yaml"), ("x/paper.yaml", "x/paper.yaml"), ("x/own.yaml", "x/own.yaml")],
)  # fmt: skip
def test_the_paper_form_of_a_name(recipe: str, form: str) -> None:
    assert paper_form(recipe) == form
    assert paper_scale.paper_form("/") == "/paper.yaml"
