import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from thinkrl.tracking import checkpoints
from thinkrl.tracking.checkpoints import CheckpointStore
from thinkrl.tracking.errors import RunError
from thinkrl.tracking.state import RunState

torch.set_num_threads(1)


def _state(step: int) -> RunState:
    values: dict[str, object] = {"rate": step / 3, "nested": {"list": [1, None, float("inf")], "seed": 2**127 - 1}}
    return RunState(step, values, {"weight": torch.full((64, 65), float(step)), "count": torch.tensor(step)})


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_dtype_and_layout_comes_back_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8 * 24,), dtype=torch.uint8, generator=generator)
    names = ("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64")
    names += ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    tensors = {name: noise.clone().view(getattr(torch, name)) for name in names}
    matrix = torch.arange(12.0).reshape(3, 4)
    tensors |= {
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5, requires_grad=True),
        "empty": torch.zeros(0, 3),
        "transposed": matrix.T,
        "slice": matrix[:, 1:3],
        "odd": torch.ones(3, dtype=torch.uint8),
    }
    store = CheckpointStore(tmp_path)
    store.save(RunState(7, {}, tensors))
    back = store.latest()
    assert back is not None
    assert list(back.tensors) == list(tensors)
    for name, tensor in tensors.items():
        read = back.tensors[name]
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape), name
        assert _bits(read) == _bits(tensor), name
    back.tensors["float32"].add_(1)  # what was read is memory of its own


def test_values_come_back_exactly(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(_state(5))
    back = store.latest()
    assert back is not None
    assert (back.step, back.values) == (5, _state(5).values)


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    tensors = {"byte": torch.ones(3, dtype=torch.uint8), "weight": torch.randn(5, 7), "half": torch.ones(2).bfloat16()}
    path = CheckpointStore(tmp_path).save(RunState(1, {}, tensors))
    read = load_file(path / "tensors.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    weight = torch.randn(1000, 10)
    views = {"embedding": weight, "head": weight, "transposed": weight.T, "part": weight[:500]}
    store = CheckpointStore(tmp_path)
    path = store.save(RunState(1, {}, views))
    assert (path / "tensors.safetensors").stat().st_size < 4 * (10_000 + 10_000 + 5_000) + 2_000
    back = store.latest()
    assert back is not None
    assert back.tensors["head"] is back.tensors["embedding"]
    assert torch.equal(back.tensors["transposed"], weight.T)
    assert torch.equal(back.tensors["part"], weight[:500])


def test_the_newest_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (0, 10, 5, 200_000_000):
        store.save(_state(step))
    assert store.steps() == [10, 200_000_000]
    assert sorted(os.listdir(tmp_path)) == ["step_00000010", "step_200000000"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(RunState(3, {"a": 1}))
    store.save(RunState(3, {"a": 2}))
    back = store.latest()
    assert back is not None
    assert back.values == {"a": 2}
    assert back.tensors == {}


@pytest.mark.parametrize("damage", ["flip", "cut", "values", "no state", "no tensors", "torn state"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_message(tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    store = CheckpointStore(tmp_path, keep=2, report=said.append)
    store.save(_state(1))
    path = store.save(_state(2))
    tensors, description = path / "tensors.safetensors", path / "state.json"
    if damage == "flip":
        content = bytearray(tensors.read_bytes())
        content[-100] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif damage == "values":
        description.write_text(description.read_text().replace("0.6666", "0.6667"))
    elif damage == "no state":
        description.unlink()
    elif damage == "no tensors":
        tensors.unlink()
    else:
        description.write_text(description.read_text()[:-20])
    back = store.latest()
    assert back is not None
    assert back.step == 1
    assert len(said) == 1
    assert "step_00000002 is damaged" in said[0]


def test_when_all_are_damaged_the_run_does_not_silently_start_over(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    (store.save(_state(1)) / "state.json").write_text("{}")
    with pytest.raises(RunError, match="no whole checkpoint is left"):
        store.latest()


def test_no_space_is_reported_with_sizes_and_keeps_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(_state(1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_checked", full)
    with pytest.raises(RunError, match=r"no space left to write .*step_00000002, which needs 16\.\d kB; .* free"):
        store.save(_state(2))
    assert os.listdir(tmp_path) == ["step_00000001"]
    back = store.latest()
    assert back is not None
    assert back.step == 1


def test_a_real_limit_on_file_size_keeps_the_last_one(tmp_path: Path) -> None:
    script = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from thinkrl.tracking.checkpoints import CheckpointStore\n"
        "from thinkrl.tracking.errors import RunError\n"
        "from thinkrl.tracking.state import RunState\n"
        "store = CheckpointStore(Path(sys.argv[1]))\n"
        "store.save(RunState(1, {}, {'w': torch.ones(10)}))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))\n"
        "try:\n"
        "    store.save(RunState(2, {}, {'w': torch.ones(100_000)}))\n"
        "except RunError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "no space left" in done.stdout
    assert "needs 400.1 kB" in done.stdout
    assert os.listdir(tmp_path) == ["step_00000001"]


_SAVER = """
import sys, torch
from pathlib import Path
from thinkrl.tracking.checkpoints import CheckpointStore
from thinkrl.tracking.state import RunState
torch.set_num_threads(1)
store = CheckpointStore(Path(sys.argv[1]))
for step in range(10**6):
    store.save(RunState(step, {"step": step}, {f"w{i}": torch.full((400_000,), float(step)) for i in range(5)}))
    print(step, flush=True)
"""


def test_kill_9_during_writes_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _SAVER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    reached = int(writer.stdout.readline())
    deadline = time.monotonic() + 60
    while not (tmp_path / "step_00000002.partial" / "tensors.safetensors").exists():  # in the middle of a write
        assert time.monotonic() < deadline
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    lines = writer.stdout.read().split()
    writer.stdout.close()
    reached = int(lines[-1]) if lines else reached
    assert reached >= 1
    store = CheckpointStore(tmp_path)
    back = store.latest()
    assert back is not None
    assert back.step in (reached, reached + 1)
    assert back.values == {"step": back.step}
    assert all(torch.equal(tensor, torch.full((400_000,), float(back.step))) for tensor in back.tensors.values())
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]


def test_what_cannot_be_kept_exactly_is_refused_before_writing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(ValueError, match="'w' cannot be saved"):
        store.save(RunState(1, {}, {"w": torch.eye(3).to_sparse()}))
    with pytest.raises(ValueError, match="object is not a JSON value"):
        store.save(RunState(1, {"a": object()}))
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        CheckpointStore(tmp_path, keep=0)
    assert os.listdir(tmp_path) == []


def test_clearing_drops_every_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.save(_state(1))
    store.save(_state(2))
    store.clear()
    assert store.latest() is None
    assert os.listdir(tmp_path) == []
