"""The scripts in benchmarks/ keep up with the code that they measure: every name they import is there."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
OF_ANOTHER_ENVIRONMENT = {"trl_worker", "gpu_trl"}
"""Run by a Python that has TRL, which is no dependency."""


@pytest.mark.parametrize("name", sorted({path.stem for path in SCRIPTS.glob("*.py")} - OF_ANOTHER_ENVIRONMENT))
def test_a_script_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    assert importlib.import_module(name).__doc__
    sys.modules.pop(name)
