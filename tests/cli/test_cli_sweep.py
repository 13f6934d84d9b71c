import json
import shlex
from pathlib import Path

import pytest
from test_cli_start import invoke

PAGE = (Path(__file__).parents[2] / "docs/sweeps.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line.partition("   #")[0])[1:] for line in PAGE.splitlines() if line.startswith("thinkrl ")]
DRY = [words for words in COMMANDS if words[0] == "sweep" and ("--dry-run" in words or "--table" not in words)]


def test_a_dry_run_names_every_run_and_what_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = invoke(
        "sweep", "quickstart", "stages.grpo.group_size=4,8", "seed=range(2)", "scale=smoke", "--dry-run"
    )
    assert code == 0, text
    assert text.count("new ") == 4
    assert "stages.grpo.group_size=8 seed=1" in text
    assert "best by    highest accuracy of stage validation, on validation prompts" in text
    assert "runs/quickstart/sweep_scale=smoke_stages.grpo.group_size=4,8" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", DRY, ids=" ".join)
def test_a_sweep_of_the_page_is_planned(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thinkrl.sweeps.sweep import Sweep

    every = Sweep.configurations
    monkeypatch.setattr(Sweep, "configurations", lambda self, runs: every(self, runs[:1]))  # one of each is enough here
    monkeypatch.chdir(tmp_path)
    code, text = invoke(*words, *(() if "--dry-run" in words else ("--dry-run",)))
    assert code == 0, text
    assert "nothing was run" in text


def test_the_page_has_its_commands() -> None:
    assert len(COMMANDS) == 10
    assert sum(words[0] == "compare" for words in COMMANDS) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quikstart", "seed=0,1"], "did you mean quickstart?"),
        (
            ["quickstart", "stages.grpo.group_size=4,8", "--jobs", "2", "--launcher", "local"],
            "--launcher joblib runs 2",
        ),
        (["quickstart", "--sweeper", "random"], "needs keys to draw"),
        (["quickstart", "stages.grpo.stpes=1,2"], "did you mean steps?"),
        (["quickstart", "stages.grpo.group_size=4,8", "--stop", "medain"], "median"),
        (["quickstart", "stages.grpo.group_size=4,8", "--wandb", "id"], "the W&B sweep says what is swept"),
        (["quickstart", "algorithm=grpo,rloo", "--dry-run"], "must be given when aggregation is 'constant'"),
        (["quickstart", "seed=0,0"], "seeds must be different"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments: list[str], says: str, tmp_path: Path) -> None:
    code, text = invoke("sweep", *arguments, "--dir", str(tmp_path / "sweep"))
    assert code == 2, text
    assert says in text
    assert not (tmp_path / "sweep").exists()


def test_a_missing_plugin_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinkrl.sweeps.means.is_installed", lambda module: False)
    code, text = invoke("sweep", "quickstart", "seed=0,1", "--launcher", "submitit_slurm")
    assert (code, "pip install hydra-submitit-launcher" in text) == (2, True)


def test_a_table_of_nothing_is_an_error(tmp_path: Path) -> None:
    code, text = invoke("sweep", "quickstart", "seed=0,1", "scale=smoke", "--table", "--dir", str(tmp_path / "none"))
    assert (code, "holds no sweep" in text) == (1, True)


def test_compare_prints_a_table_or_json_and_refuses_other_protocols(tmp_path: Path) -> None:
    import sys

    sys.path.append(str(Path(__file__).parents[1] / "sweeps"))
    from sweep_fakes import result

    for name, found in {"a": result(2), "b": result(6), "other": result(6, version=2)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.json").write_text(found.to_json())
        made = {"status": "finished", "artifacts": {"result": {"path": "test.json", "fingerprint": ""}}}
        (tmp_path / name / "run.json").write_text(json.dumps({"seed": 0, "stages": {"0_test": made}}))
    code, text = invoke("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 0, text
    row = next(line for line in text.splitlines() if "accuracy" in line)
    assert [cell in row for cell in ("0.25", "0.75", "+0.5", "8")] == [True] * 4
    assert "the interval says nothing of other seeds" in text
    code, text = invoke("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json")
    assert json.loads(text)["metrics"]["accuracy"]["difference"] == 0.5
    code, text = invoke("compare", str(tmp_path / "a"), str(tmp_path / "other"))
    assert (code, "version" in text, "--force" in text) == (1, True, True)
    assert invoke("compare", str(tmp_path / "a"), str(tmp_path / "other"), "--force")[0] == 0
    (tmp_path / "empty").mkdir()
    code, text = invoke("compare", str(tmp_path / "a"), str(tmp_path / "empty"))
    assert (code, "holds no run" in text) == (2, True)
