from pathlib import Path

import pytest
from cli_process import finish, small_quickstart, start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of one small quickstart that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code = finish(start(small_quickstart(folder / "run"), folder / "log"))
    assert code == 0, (folder / "log").read_text()
    return folder / "run"
