"""What processes tell each other, as bytes: JSON for plain values, raw buffers for arrays, never a pickle.

A message that arrives can build nothing but plain values, arrays, and the record types that its reader names.
"""

import dataclasses
import enum
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_LENGTH = 8


def encode(value: object) -> bytes:
    """Plain values (numbers bit for bit, NaN included), arrays, enums and dataclasses, nested in any way.

    Raises ValueError for anything else.
    """
    arrays: list[np.ndarray[Any, Any]] = []
    text = json.dumps(_plain(value, arrays)).encode()
    buffers = [np.ascontiguousarray(array).tobytes() for array in arrays]
    return b"".join([len(text).to_bytes(_LENGTH, "little"), text, *buffers])


def decode(data: bytes, kinds: Sequence[type] = ()) -> Any:
    """What `encode` wrote; tuples come back as tuples, records as those of `kinds` with their name."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    return _Reader(data, end, {kind.__name__: kind for kind in kinds}).value(json.loads(data[_LENGTH:end]))


def _plain(value: object, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, enum.Enum):
        return {"enum": type(value).__name__, "name": value.name}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, arrays) for item in value]}
    if isinstance(value, Mapping):
        return {"map": [[_plain(key, arrays), _plain(item, arrays)] for key, item in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        arrays.append(value)
        return {"array": value.dtype.str, "shape": list(value.shape)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return {"record": type(value).__name__, "fields": [[k, _plain(v, arrays)] for k, v in fields.items()]}
    raise ValueError(f"{type(value).__name__} cannot be sent to another process")


@dataclasses.dataclass
class _Reader:
    """Builds values in the order they were written, which is that of the buffers."""

    data: bytes
    place: int
    kinds: Mapping[str, type]

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "tuple" in node:
            return tuple(self.value(item) for item in node["tuple"])
        if "map" in node:
            return {self.value(key): self.value(item) for key, item in node["map"]}
        if "array" in node:
            return self._array(np.dtype(node["array"]), tuple(node["shape"]))
        if "enum" in node:
            return self._kind(node["enum"])[node["name"]]
        return self._kind(node["record"])(**{name: self.value(item) for name, item in node["fields"]})

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(self.data, dtype, count, self.place).reshape(shape).copy()
        self.place += count * dtype.itemsize
        return array

    def _kind(self, name: str) -> Any:
        if name not in self.kinds:
            raise ValueError(f"a message holds a {name}, which its reader did not name")
        return self.kinds[name]
