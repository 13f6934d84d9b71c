"""benchmarks/gpu_check.py without a GPU: its checks on recorded numbers, its commands, and its silence."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu_check  # noqa: E402
import gpu_probe  # noqa: E402

MIB = 1 << 20
WEIGHTS = 2 * 134_515_008


def recorded(steps: int = 20, growth: int = 0, used: int = 9000 * MIB, **changes: Any) -> list[dict[str, Any]]:
    """Rows as the probe writes them; memory settles at step 3 and grows by `growth` a step from there."""
    rows = []
    for step in range(1, steps + 1):
        memory = {"device_used": used + growth * max(step - 3, 0), "allocated": 3000 * MIB + growth * max(step - 3, 0)}
        if step < 3:
            memory = {key: value - 500 * MIB for key, value in memory.items()}
        figures = {"loss": 0.1, "mismatch/mean_abs": 0.01, "sampled_tokens": 4000.0, "time/tokens_per_second": 5000.0}
        parts = {"seconds/sample": 0.8, "seconds/update": 1.1, "seconds/wait": 0.1}
        rows.append({"step": step, "most_allocated": 4 << 30, **memory, **figures, **parts, **changes})
    return rows


def failed(rows: list[dict[str, Any]], name: str = "vllm") -> list[str]:
    return [check.name for check in gpu_check.check_rows(name, rows, 20) if not check.passed]


def test_a_good_run_passes_every_check() -> None:
    assert failed(recorded()) == []
    assert len(gpu_check.check_rows("vllm", recorded(), 20)) == 5


@pytest.mark.parametrize("growth", [4 * MIB, WEIGHTS])
def test_memory_that_grows_with_every_step_is_a_leak(growth: int) -> None:
    names = failed(recorded(growth=growth))
    assert [name.split()[1] for name in names] == ["device_used", "allocated"]


def test_memory_may_settle_before_step_3_and_may_shrink_after_it() -> None:
    assert failed(recorded(growth=3 * MIB)) == []
    assert failed(recorded(growth=-30 * MIB)) == []


def test_without_figures_of_the_device_nothing_passes_for_a_result() -> None:
    blank = dict.fromkeys(("device_used", "allocated", "most_allocated"))
    leaks = [f"vllm: {key} after the last step as after step 3" for key in ("device_used", "allocated")]
    assert failed(recorded(**blank)) == ["vllm: on the GPU", *leaks]
    assert len(failed([])) == 5
    assert failed(recorded(steps=3)) != []


@pytest.mark.parametrize("change", [{"loss": float("nan")}, {"loss": None}])
def test_a_loss_that_is_no_number_fails(change: dict[str, Any]) -> None:
    assert failed(recorded(**change)) == ["vllm: 20 steps"]


def test_a_missing_or_repeated_step_fails() -> None:
    rows = recorded()
    assert failed(rows[:12] + rows[13:]) == ["vllm: 20 steps"]
    assert "vllm: 20 steps" in failed([*rows, rows[-1]])


@pytest.mark.parametrize(("name", "value"), [("torch", 0.06), ("vllm", 0.11), ("vllm", float("nan")), ("vllm", None)])
def test_sampler_and_learner_must_agree_at_every_step(name: str, value: float | None) -> None:
    rows = recorded()
    rows[7]["mismatch/mean_abs"] = value
    assert failed(rows, name) == [f"{name}: sampler and learner agree"]


def test_weights_that_stayed_on_the_processor_are_noticed() -> None:
    assert failed(recorded(most_allocated=0)) == ["vllm: on the GPU"]


def test_sleep_must_free_at_least_the_weights() -> None:
    awake = recorded(used=30_000 * MIB)
    (good,) = gpu_check.check_sleep(awake, recorded(used=8000 * MIB))
    (idle,) = gpu_check.check_sleep(awake, recorded(used=29_900 * MIB))
    assert good.passed
    assert not idle.passed
    assert gpu_check.check_sleep(awake, None) == []


def test_speed_counts_all_of_a_step_and_leaves_out_the_first_three() -> None:
    rows = recorded()
    for row in rows[:3]:
        row["seconds/update"] = 100.0
    found = gpu_check.speed(rows)
    assert found["step_seconds"] == pytest.approx(2.0)
    assert found["tokens_a_second"] == pytest.approx(2000.0)
    assert found["sampling_tokens_a_second"] == pytest.approx(5000.0)
    other = gpu_check.trl_figures([{"seconds": 50.0, "tokens": 1.0}] * 3 + [{"seconds": 4.0, "tokens": 4000.0}] * 17)
    assert other == {"step_seconds": 4.0, "tokens_a_second": 1000.0}
    assert gpu_check.ratio({"vllm": found, "trl_vllm": other}) == {"vllm": pytest.approx(2.0)}
    assert gpu_check.ratio({"vllm": found}) == {}


def test_a_missing_vllm_is_a_check_that_failed_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda _: None)
    rows: dict[str, list[dict[str, Any]]] = {}
    (check,) = gpu_check.run_and_check("vllm", tmp_path, 20, rows)
    assert not check.passed
    assert check.found == "not run: vLLM is not installed (pip install vllm)"
    assert rows == {}


def test_the_run_itself_works_as_far_as_a_processor_goes(tmp_path: Path) -> None:
    """The same command on the tiny model: rows come, with no figures of a device."""
    sizes = {"prompts_per_step": 2, "group_size": 2, "sampling.max_new_tokens": 8}
    small = ["model=tiny", "model.device=cpu", "scale=smoke", *(f"stages.grpo.{k}={v}" for k, v in sizes.items())]
    rows = gpu_check.run_case("torch", tmp_path, 4, small)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["device_used"] is None for row in rows)
    names = [check.name for check in gpu_check.check_rows("torch", rows, 4) if not check.passed]
    assert names == ["torch: on the GPU"] + [
        f"torch: {key} after the last step as after step 3" for key in ("device_used", "allocated")
    ]
    assert gpu_check.speed(rows)["tokens_a_second"] > 0


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)exited with 2: .*learner\.no_such"):
        gpu_check.run_case("torch", tmp_path, 4, ("learner.no_such=1",))


def test_the_probe_asks_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    figures = {"is_available": True, "synchronize": None, "mem_get_info": (30, 100), "memory_allocated": 40,
               "memory_reserved": 50, "max_memory_allocated": 45}  # fmt: skip
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    tracker = gpu_probe.MemoryTracker(str(tmp_path / "rows.jsonl")).open(None, {}, "run")  # type: ignore[arg-type]
    tracker.log(0, {"row": 0, "stage": "grpo", "step": 1, "loss": 0.5, "reward": 1.0, "seconds/update": 2.0})
    tracker.finish(0)
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {
        "stage": "grpo", "step": 1, "loss": 0.5, "seconds/update": 2.0, "device_used": 70, "allocated": 40,
        "reserved": 50, "most_allocated": 45,
    }  # fmt: skip


def test_without_a_gpu_it_says_so_exits_77_and_writes_nothing(tmp_path: Path) -> None:
    before = gpu_check.RESULT.read_bytes() if gpu_check.RESULT.exists() else None
    program = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import argparse, torch, gpu_check\n"
        "torch.cuda.is_available = lambda: False\n"
        "sys.exit(gpu_check.main(argparse.Namespace(only=None, steps=20, folder=None, trl_python=None)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == gpu_check.NO_GPU == 77
    assert "has no GPU" in done.stdout
    assert "nothing was checked, nothing was written" in done.stdout
    assert list(tmp_path.iterdir()) == []
    assert (gpu_check.RESULT.read_bytes() if gpu_check.RESULT.exists() else None) == before
