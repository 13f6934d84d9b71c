import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkrl.tracking.errors import RunError
from thinkrl.tracking.metrics import MetricsLog, read_rows, without_times


def test_rows_read_back_in_order_with_their_keys_in_order(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    rows: list[dict[str, Any]] = [{"z": 1, "a": 0.1, "text": "ü\u2028"}, {"b": None, "a": True}]
    for row in rows:
        log.append(row)
    assert log.rows() == rows
    assert [list(row) for row in log.rows()] == [["z", "a", "text"], ["b", "a"]]
    assert log.row_count == 2


def test_numpy_scalars_keep_their_value(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"f": np.float32(0.1), "i": np.int64(2**53 + 1), "b": np.bool_(True)})
    assert log.rows() == [{"f": float(np.float32(0.1)), "i": 2**53 + 1, "b": True}]


def test_a_corrupt_line_is_named_by_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2\n{"a": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: not a row"):
        MetricsLog(path).rows()
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n\xff\xfe\n')
    with pytest.raises(RunError, match="line 3"):
        read_rows(path)
    path.write_bytes(b"[1]\n")
    with pytest.raises(RunError, match="line 1: expected a JSON object, found list"):
        read_rows(path)


def test_a_torn_last_line_is_left_out_by_readers_and_cut_off_by_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert read_rows(path) == [{"a": 1}]
    assert path.read_bytes().endswith(b'{"a": 2'), "a reader changes nothing: the run may still be writing"
    log = MetricsLog(path)
    log.append({"a": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"a": 3}\n'


@given(cut=st.integers(0, 10), extra=st.integers(0, 5), torn=st.booleans())
def test_an_interrupted_and_rewound_log_equals_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, cut: int, extra: int, torn: bool
) -> None:
    folder = tmp_path_factory.mktemp("log")
    whole = MetricsLog(folder / "whole.jsonl")
    broken = MetricsLog(folder / "broken.jsonl")
    for number in range(12):
        whole.append({"row": number, "x": number / 3})
    for number in range(cut):
        broken.append({"row": number, "x": number / 3})
    position = json.loads(json.dumps(broken.position))
    for number in range(cut, cut + extra):
        broken.append({"row": number, "x": number / 3})
    broken.close()
    if torn:
        with open(folder / "broken.jsonl", "ab") as file:
            file.write(b'{"row": 99, "x"')
    again = MetricsLog(folder / "broken.jsonl")
    again.rewind(position)
    assert again.row_count == cut
    for number in range(cut, 12):
        again.append({"row": number, "x": number / 3})
    assert (folder / "broken.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
    whole.close()
    again.close()


def test_rewinding_to_rows_that_are_gone_is_refused(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"a": 1})
    position = log.position
    log.rewind({"bytes": 0, "rows": 0})
    with pytest.raises(RunError, match="does not hold the 1 rows"):
        log.rewind(position)
    log.append({"abc": 1})
    with pytest.raises(RunError, match="was changed or lost"):
        log.rewind(position)  # as many bytes are there, but no line ends at that place
    with pytest.raises(ValueError, match="position must be"):
        log.rewind(None)


def test_a_full_disk_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"a": 1})
    real = os.write

    def half_then_full(file: int, data: bytes) -> int:
        if len(data) < 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:-4])

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(RunError, match="no space left"):
        log.append({"a": 2})
    monkeypatch.undo()
    log.append({"a": 3})
    assert log.path.read_bytes() == b'{"a": 1}\n{"a": 3}\n'


def test_times_are_told_apart_by_their_names() -> None:
    row = {"row": 1, "reward": 0.5, "seconds/sample": 1.0, "time": 2.0, "time/tokens_per_second": 3.0, "steps": 4}
    assert without_times(row) == {"row": 1, "reward": 0.5, "steps": 4}
