import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinkrl.tracking import atomic
from thinkrl.tracking.atomic import clean_partial, remove_directory, replace_directory, write_bytes, write_text
from thinkrl.tracking.errors import RunError


def _fill(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "a").write_text(text)
    (folder / "b").write_text(text)


def _fill_half(folder: Path) -> None:
    (folder / "a").write_text("new")
    raise KeyError


def test_files_are_replaced_and_folders_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "ä")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "flush", full)
    with pytest.raises(RunError, match=r"no space left to write .*file.txt, which needs 3 bytes; .* free"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with replace_directory(path) as aside:
        _fill(aside, "old")
    with pytest.raises(KeyError), replace_directory(path) as aside:
        _fill_half(aside)
    assert sorted(os.listdir(tmp_path)) == ["folder"]
    assert (path / "a").read_text() == (path / "b").read_text() == "old"
    with replace_directory(path) as aside:
        (aside / "c").write_text("new")
    assert os.listdir(path) == ["c"]
    assert os.listdir(tmp_path) == ["folder"]


def test_a_failed_last_rename_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    _fill(path, "old")
    real = os.rename

    def fails_into_place(old: Path, new: Path) -> None:
        if new == path and not str(old).endswith(".previous.partial"):
            raise OSError(errno.EIO, "Input/output error")
        real(old, new)

    monkeypatch.setattr(os, "rename", fails_into_place)
    with pytest.raises(RunError, match="Input/output error"), replace_directory(path) as aside:
        _fill(aside, "new")
    assert (path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["folder"]


def test_cleaning_removes_leftovers_and_restores_a_folder_set_aside(tmp_path: Path) -> None:
    _fill(tmp_path / "kept", "kept")
    _fill(tmp_path / "half.partial", "half")
    _fill(tmp_path / "lost.previous.partial", "old")
    _fill(tmp_path / "lost.partial", "new")
    _fill(tmp_path / "there", "new")
    _fill(tmp_path / "there.previous.partial", "old")
    (tmp_path / "kept" / "file.partial").write_text("half")
    removed = clean_partial(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["kept", "lost", "there"]
    assert (tmp_path / "lost" / "a").read_text() == "old"
    assert (tmp_path / "there" / "a").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "kept")) == ["a", "b"]
    assert len(removed) == 4


def test_removal_takes_the_name_away_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    _fill(path, "old")
    seen: list[list[str]] = []
    monkeypatch.setattr(atomic.shutil, "rmtree", lambda *_, **__: seen.append(os.listdir(tmp_path)))
    remove_directory(path)
    assert seen[-1] == ["folder.partial"]


_WRITER = """
import sys
from pathlib import Path
from thinkrl.tracking.atomic import replace_directory, write_text
folder = Path(sys.argv[1])
for turn in range(10**6):
    text = str(turn) * 2000
    write_text(folder / "file", text)
    with replace_directory(folder / "whole") as aside:
        for name in "abc":
            (aside / name).write_text(text)
    print("turn", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011])
def test_kill_9_leaves_one_version_or_the_other(tmp_path: Path, delay: float) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    for _ in range(3):
        writer.stdout.readline()
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    clean_partial(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["file", "whole"]
    texts = {(tmp_path / "whole" / name).read_text() for name in "abc"}
    assert len(texts) == 1
    for text in (*texts, (tmp_path / "file").read_text()):
        turn = text[: len(text) // 2000]
        assert text == turn * 2000
        assert int(turn) >= 2
