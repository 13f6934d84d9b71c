"""Checkpoints that are whole or not there: a folder a step, JSON and safetensors, nothing pickled.

step_00000040/state.json            step, values, and what tensors.safetensors must be
step_00000040/tensors.safetensors   readable by the safetensors library
"""

import errno
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from thinkrl.tracking.atomic import clean_partial, remove_directory, replace_directory
from thinkrl.tracking.errors import RunError, disk_errors
from thinkrl.tracking.json_values import dump_json, load_json
from thinkrl.tracking.state import RunState

if TYPE_CHECKING:
    import torch

_CHUNK = 1 << 20
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


class CheckpointStore:
    """The checkpoints of one stage in `folder`, of which the newest `keep` stay.

    Opening it removes what a killed write left, so only the process that holds the run may do so.
    report: told in words when a damaged checkpoint is passed over.
    """

    def __init__(self, folder: Path, keep: int = 1, report: Callable[[str], None] | None = None) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.folder = folder
        self.keep = keep
        self._report = report
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        clean_partial(folder)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        names = (re.fullmatch(r"step_(\d{8,})", entry.name) for entry in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, state: RunState) -> Path:
        """Writes `state` aside, waits until it is on the disk, puts it in place, then drops what is too old.

        Raises RunError when space runs out or the disk refuses; the earlier checkpoints stay whole.
        """
        if state.step < 0:
            raise ValueError(f"step must be 0 or more, got {state.step}")
        path = self._path(state.step)
        values = dump_json(state.values)
        owners = _storage_owners(state.tensors)
        written = _aligned({name: state.tensors[name] for name, owner in owners.items() if owner == name})
        header = _header(written)
        needed = len(header) + sum(tensor.numel() * tensor.element_size() for tensor in written.values())
        with replace_directory(path, needed=needed) as aside:
            checksum = _write_tensors(aside / "tensors.safetensors", header, written, needed)
            described = {
                "format": 1,
                "step": state.step,
                "tensors": {"bytes": needed, "crc32": checksum},
                "names": owners,
                "values_crc32": zlib.crc32(values.encode()),
            }
            text = json.dumps(described)[:-1] + ', "values": ' + values + "}\n"
            (aside / "state.json").write_text(text)
        for step in self.steps()[: -self.keep]:
            remove_directory(self._path(step))
        return path

    def clear(self) -> None:
        """Drops every checkpoint: the stage is finished and its artifacts stand for it."""
        for step in self.steps():
            remove_directory(self._path(step))

    def latest(self) -> RunState | None:
        """The newest whole checkpoint with its tensors on the CPU; None when none was ever saved.

        A damaged one is passed over with a message. Raises RunError when all of them are damaged.
        """
        found = []
        for step in reversed(self.steps()):
            try:
                return _read(self._path(step), step)
            except _DamagedError as error:
                found.append(f"{self._path(step)} is damaged: {error}")
                if self._report is not None:
                    self._report(f"{found[-1]}; going on from the one before it")
        if found:
            raise RunError(
                "no whole checkpoint is left:\n  " + "\n  ".join(found) + "\n"
                f"Remove {self.folder} to start this stage again, or use another --dir"
            )
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:08d}"


class _DamagedError(Exception):
    """What is wrong with a checkpoint, in words."""


def _storage_owners(tensors: "Mapping[str, torch.Tensor]") -> dict[str, str]:
    """For each name, the first name that holds the very same memory in the same way (tied weights)."""
    import torch

    first: dict[tuple[object, ...], str] = {}
    owners = {}
    for name, tensor in tensors.items():
        if _dtype_name(tensor) not in _DTYPES or tensor.layout is not torch.strided:
            raise ValueError(f"tensor {name!r} cannot be saved: dtype {tensor.dtype}, layout {tensor.layout}")
        same = (str(tensor.device), tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        owners[name] = first.setdefault(same, name) if tensor.numel() else name
    return owners


def _dtype_name(tensor: "torch.Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _aligned(tensors: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """The tensors in file order: wide elements first, so that each begins at a multiple of its element size."""
    return dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))


def _header(tensors: "Mapping[str, torch.Tensor]") -> bytes:
    """The safetensors header: its length in 8 bytes, then JSON padded so that the data is aligned."""
    entries: dict[str, object] = {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[_dtype_name(tensor)],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_tensors(path: Path, header: bytes, tensors: "Mapping[str, torch.Tensor]", size: int) -> int:
    """Writes the file and returns its CRC-32. One tensor at a time leaves its device; none is copied twice."""
    import torch

    with open(path, "wb", buffering=0) as file:
        _reserve(file, size)
        checksum = _write_checked(file, memoryview(header), 0)
        for tensor in tensors.values():
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            checksum = _write_checked(file, memoryview(flat.numpy().data), checksum)
    return checksum


def _reserve(file: IO[bytes], size: int) -> None:
    """Takes the space first: a full disk is then found before anything is written."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _write_checked(file: IO[bytes], data: memoryview, checksum: int) -> int:
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        checksum = zlib.crc32(chunk, checksum)
        while chunk:
            chunk = chunk[file.write(chunk) :]
    return checksum


def _read(path: Path, step: int) -> RunState:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        described = load_json((path / "state.json").read_bytes())
        _check_description(described, step)
        tensors_path = path / "tensors.safetensors"
        _check_tensors(tensors_path, described["tensors"])
        loaded = load_file(tensors_path, backend="pread")
        tensors = {name: loaded[owner] for name, owner in described["names"].items()}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _DamagedError(f"{type(error).__name__}: {error}") from error
    return RunState(step, described["values"], tensors)


def _check_description(described: Any, step: int) -> None:
    if described["format"] != 1:
        raise RunError(f"the checkpoint of step {step} has format {described['format']}; this version reads format 1")
    if described["step"] != step:
        raise _DamagedError(f"state.json says step {described['step']}")
    if zlib.crc32(dump_json(described["values"]).encode()) != described["values_crc32"]:
        raise _DamagedError("the values in state.json do not match their checksum")


def _check_tensors(path: Path, expected: Mapping[str, int]) -> None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise _DamagedError(f"tensors.safetensors has {size} bytes, expected {expected['bytes']}")
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    if checksum != expected["crc32"]:
        raise _DamagedError("tensors.safetensors does not match its checksum")
