"""Names of hardware, and the processor measured."""

import json

import pytest

from thinkrl.config.component import ConfigError
from thinkrl.planning.hardware import GIB, TABLE, describe_gpu, find_hardware

DEVICES = json.loads(TABLE.read_text())["devices"]


@pytest.mark.parametrize(
    ("text", "count", "memory", "tflops", "bandwidth"),
    [
        ("8xh100-80gb", 8, 80, 989, 3350),
        ("h100", 1, 80, 989, 3350),
        ("1xA100-40GB", 1, 40, 312, 1555),
        ("2xa100", 2, 80, 312, 2039),
        ("2xh200", 2, 141, 989, 4800),
        ("4xl40s", 4, 48, 362, 864),
        ("mi300x", 1, 192, 1307.4, 5300),
    ],
)
def test_a_name_gives_count_memory_and_published_rates(text, count, memory, tflops, bandwidth) -> None:
    found = find_hardware(text)
    assert (found.count, found.memory, found.flops, found.bandwidth) == (
        count,
        memory * GIB,
        pytest.approx(tflops * 1e12),
        pytest.approx(bandwidth * 1e9),
    )
    assert found.gpu
    assert found.source


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_the_table_is_whole(name: str) -> None:
    row = DEVICES[name]
    assert len(row["memory"]) == len(row["bandwidth"])
    assert row["source"]
    for memory in row["memory"]:
        assert find_hardware(f"3x{name}-{memory}gb").memory == memory * GIB
        assert describe_gpu(3, row["shown"], memory * GIB) == f"3x{name}-{memory}gb"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("h1000", "did you mean h100"),
        ("8xh100-70gb", "there are: h100-80gb, h100-94gb"),
        ("gpu of mine", "there is no 'gpuofmine'|there is no 'gpu of mine'"),
        ("0xh100", "must be at least 1, got 0"),
        ("8*h100", "written 8xh100-80gb"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find_hardware(text)


@pytest.mark.parametrize(
    ("name", "gib", "found"),
    [
        ("NVIDIA H100 80GB HBM3", 79.6, "8xh100-80gb"),
        ("NVIDIA H100 PCIe", 79.6, "8xh100pcie-80gb"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "8xa100-40gb"),
        ("NVIDIA GeForce RTX 4090", 23.6, "8xrtx4090-24gb"),
        ("NVIDIA RTX 6000 Ada Generation", 47.4, "8xrtx6000ada-48gb"),
        ("NVIDIA L40S", 44.5, "8xl40s-48gb"),
        ("Tesla V100-SXM2-16GB", 15.8, "8xv100-16gb"),
        ("AMD Instinct MI300X", 191.5, "8xmi300x-192gb"),
    ],
)
def test_what_a_driver_says_is_found_in_the_table(name: str, gib: float, found: str) -> None:
    assert describe_gpu(8, name, int(gib * GIB)) == found


def test_a_gpu_that_is_not_in_the_table_must_be_named() -> None:
    with pytest.raises(ConfigError, match="NVIDIA K80 is not among the known GPUs"):
        describe_gpu(1, "NVIDIA K80", 12 * GIB)


def test_rates_of_other_precisions_and_older_gpus() -> None:
    assert find_hardware("h100", dtype="float32").flops == pytest.approx(989e12 / 16)
    assert not find_hardware("t4").bfloat16
    assert find_hardware("t4").flops < 65e12


def test_the_processor_is_the_default_and_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinkrl.planning.hardware._MEASURED_SECONDS", 0.01)
    measured = find_hardware(None)
    assert not measured.gpu
    assert "measured here" in measured.source
    assert 1e9 < measured.flops < 1e14
    assert 1e8 < measured.bandwidth < 1e12
    assumed = find_hardware("cpu", measure=False)
    assert "assumed" in assumed.source
    assert assumed.flops == assumed.flops // 30e9 * 30e9
