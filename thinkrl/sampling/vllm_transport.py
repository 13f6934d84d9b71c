"""Weights as plain bytes, with names, types and shapes beside them as JSON; never pickles, and no files on a disk."""

import base64
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64
_PART_BYTES = 32 << 20
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


class SharedWeights:
    """A nameless file in memory that processes of the same user on this machine can map, through `path`.

    It goes with this process, however that ends.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("thinkrl-weights")
        self._end = 0
        self._entries: list[dict[str, Any]] = []

    @property
    def path(self) -> str:
        """Where other processes find the bytes."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    @property
    def header(self) -> str:
        """What lies where, as JSON."""
        return json.dumps(self._entries)

    def passing(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Writes each tensor, and hands it on."""
        for name, tensor in weights:
            entry, data = _entry(name, tensor, self._end)
            _write_all(self._file, data, self._end)
            self._entries.append(entry)
            self._end += len(data) + -len(data) % _ALIGNMENT
            yield name, tensor
        os.truncate(self._file, max(self._end, 1))

    def close(self) -> None:
        """Gives the memory back."""
        os.close(self._file)


def http_parts(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, str]]:
    """The same in parts that fit a request: headers, and bytes in base 64."""
    entries: list[dict[str, Any]] = []
    data = bytearray()
    for name, tensor in weights:
        if entries and len(data) + tensor.numel() * tensor.element_size() > _PART_BYTES:
            yield json.dumps(entries), base64.b64encode(data).decode()
            entries, data = [], bytearray()
        entry, content = _entry(name, tensor, len(data))
        entries.append(entry)
        data += content
        data += bytes(-len(data) % _ALIGNMENT)
    if entries:
        yield json.dumps(entries), base64.b64encode(data).decode()


def read_weights(buffer: Any, header: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a writable `buffer`, without a copy. Raises ValueError for a header that does not fit it."""
    for entry in json.loads(header):
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{entry['name']} has dtype {entry['dtype']}, known are {', '.join(_DTYPES)}")
        shape = [int(size) for size in entry["shape"]]
        count = int(torch.Size(shape).numel())
        if not count:
            yield entry["name"], torch.empty(shape, dtype=dtype)
            continue
        flat = torch.frombuffer(buffer, dtype=dtype, count=count, offset=int(entry["offset"]))
        yield entry["name"], flat.view(shape)


def _entry(name: str, tensor: Tensor, offset: int) -> tuple[dict[str, Any], memoryview]:
    if str(tensor.dtype) not in _DTYPES:
        raise ValueError(f"{name} has dtype {tensor.dtype}, known are {', '.join(_DTYPES)}")
    flat = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
    entry = {"name": name, "dtype": str(tensor.dtype), "shape": list(tensor.shape), "offset": offset}
    content: Any = flat.numpy()
    return entry, memoryview(content)


def _write_all(file: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)
