"""Exact accounting of the tensors that a piece of work makes, for tests of memory."""

import weakref
from typing import Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Counts what is made while it is on: `largest` of one tensor's storage, and `peak` of all alive at a time, both in
    elements or bytes. Storages up to `smallest` are left out, and so are those that existed before."""

    def __init__(self, smallest: int = 0, unit: Literal["elements", "bytes"] = "elements") -> None:
        super().__init__()
        self._bytes = unit == "bytes"
        self.largest = self.peak = self._alive = 0
        self._smallest = smallest
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and _key(leaf) not in before and _key(leaf) not in self._known:
                self._note(leaf)
        return out

    def _note(self, tensor: torch.Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        size = storage.nbytes() // (1 if self._bytes else tensor.element_size())
        if size <= self._smallest:
            return
        self._known[key] = size
        self._alive += size
        self.largest, self.peak = max(self.largest, size), max(self.peak, self._alive)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._alive -= self._known.pop(key, 0)


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
