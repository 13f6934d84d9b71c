"""The processes that work on one run together: what they tell each other, and how long they wait.

Every process (rank) runs the same program on the same data, and does its share of the sampling and of the
learning. Each exchange has a name, and a deadline after which the run ends: none waits for ever.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from thinkrl.parallel.place import ALONE, Place
from thinkrl.parallel.wire import decode, encode
from thinkrl.tracking.errors import RunError


class LostRankError(RunError):
    """Another rank ended, or did not come in time: this rank is not the one that failed."""


class Ranks:
    """This process among `size` of them. All ranks call the same methods in the same order.

    Alone, every method gives back what it was given.
    """

    def __init__(self, place: Place = ALONE, wait_seconds: float = 1800.0) -> None:
        self.rank = place.rank
        self.size = place.size
        self.local_rank = place.local_rank
        self.wait_seconds = wait_seconds

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the one that writes the run directory, prints and tracks."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}"

    @contextmanager
    def waiting(self, name: str) -> Iterator[None]:
        """Says who waited for what when an exchange inside fails, as it does when another rank is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or isinstance(error, NotImplementedError | RecursionError):
                raise
            raise LostRankError(
                f"{self} waited for the others at '{name}' (at most {self.wait_seconds:.0f} s,"
                f" learner.wait_minutes) and they did not come: {_first_line(error)}"
            ) from error

    def gather(self, value: object, name: str, kinds: Sequence[type] = ()) -> list[Any]:
        """Every rank's `value`, in the order of ranks, on every rank. See `wire` for what can be told.

        Raises RuntimeError when ranks are not at the same exchange.
        """
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(encode([name, value])), dtype=torch.uint8)
        with self.waiting(name):
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(own)]))
            longest = max(int(size) for size in sizes)
            parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(parts, torch.nn.functional.pad(own, (0, longest - len(own))))
        told = [decode(part[: int(size)].numpy().tobytes(), kinds) for part, size in zip(parts, sizes, strict=True)]
        self._check_names([sent for sent, _ in told])
        return [given for _, given in told]

    def share(self, value: object, name: str, kinds: Sequence[type] = ()) -> Any:
        """Rank 0's `value`, on every rank; the others' is not read."""
        if self.size == 1:
            return value
        data = torch.frombuffer(bytearray(encode([name, value if self.first else None])), dtype=torch.uint8)
        with self.waiting(name):
            size = torch.tensor([len(data)])
            dist.broadcast(size, 0)
            if not self.first:
                data = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0)
        if self.first:
            return value
        sent, given = decode(data.numpy().tobytes(), kinds)
        self._check_names([sent, name])
        return given

    def any(self, flag: bool, name: str) -> bool:
        """Whether any rank says yes."""
        return any(self.gather(flag, name))

    def barrier(self, name: str) -> None:
        """Waits until every rank is here."""
        self.gather(None, name)

    def sum_(self, tensor: Tensor, name: str) -> Tensor:
        """Adds up `tensor` over the ranks, in place; every rank gets the same bits."""
        if self.size > 1:
            with self.waiting(name):
                dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensor: Tensor, name: str) -> Tensor:
        """Fills `tensor` with rank 0's, in place."""
        if self.size > 1:
            with self.waiting(name):
                dist.broadcast(tensor, 0)
        return tensor

    def share_tensors(self, tensors: Mapping[str, Tensor], name: str) -> Mapping[str, Tensor]:
        """Rank 0's tensors by name, on every rank, on the processor; the others' are not read."""
        if self.size == 1:
            return tensors
        sizes = {key: [str(t.dtype).removeprefix("torch."), list(t.shape)] for key, t in tensors.items()}
        told = self.share(sizes, name)
        return {
            key: self.broadcast_(
                tensors[key].cpu().contiguous() if self.first else torch.empty(shape, dtype=getattr(torch, dtype)),
                f"{name}: {key}",
            )
            for key, (dtype, shape) in told.items()
        }

    @contextmanager
    def first_alone(self, name: str) -> Iterator[None]:
        """Rank 0 does what is inside before the others do: it fetches and converts what they then find."""
        if not self.first:
            self.barrier(name)
        yield
        if self.first:
            self.barrier(name)

    def _check_names(self, names: Sequence[str]) -> None:
        if len(set(names)) > 1:
            raise RuntimeError(f"ranks are out of step: they are at {', '.join(map(repr, dict.fromkeys(names)))}")


_here = Ranks()


def ranks() -> Ranks:
    """The ranks of the run that this process works on; alone until it joins others."""
    return _here


@contextmanager
def joined(place: Place, wait_seconds: float) -> Iterator[Ranks]:
    """Joins the other ranks for as long as the block lasts.

    Raises LostRankError when they do not come. After an error nobody is waited for: the others notice.
    """
    global _here
    if place.size == 1:
        yield _here
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        # Where a launcher shows each process its own GPU alone, that one is number 0.
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    together = Ranks(place, wait_seconds)
    # By the environment, since torchrun answers at the address itself, which torch reads from there as well.
    os.environ.update(place.environment())
    with together.waiting("the start"):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            timeout=timedelta(seconds=wait_seconds),
        )
    _here = together
    try:
        yield together
        together.barrier("the end")
        dist.destroy_process_group()
    finally:
        _here = Ranks()


def _first_line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.partition(". This is typically")[0]  # torch goes on with guesses
