"""`thinkrl plan` at the command line."""

import io
import json

import pytest
from rich.console import Console
from test_cli_start import invoke

from thinkrl.cli.plan import count, duration, gib, print_plan
from thinkrl.config.build import build
from thinkrl.config.compose import compose
from thinkrl.planning.hardware import find_hardware
from thinkrl.planning.plan import make_plan
from thinkrl.stages.experiment import Experiment


def test_a_plan_says_what_fits_and_what_was_assumed() -> None:
    code, text = invoke("plan", "quickstart", "model=qwen2_5_7b", "--hardware", "8xh100-80gb")
    assert code == 0
    for said in (
        "Qwen/Qwen2.5-7B (7.62 B, bfloat16)",
        "on 8 x NVIDIA H100 80 GB",
        "optimizer moments",
        "grpo does not fit",
        "would fit with: learner=deepspeed learner.processes=8 learner.zero_stage=",
        "uses 1 of 8 devices",
        "Assumed: 989 TFLOP/s of bfloat16 products and 3350 GB/s a device (NVIDIA H100 datasheet (SXM))",
    ):
        assert said in text


def test_json_holds_every_stage() -> None:
    code, text = invoke("plan", "quickstart", "scale=smoke", "--hardware", "cpu", "--no-measure", "--json")
    assert code == 0
    made = json.loads(text)
    assert made["fits"]
    assert len(made["stages"]) == 7
    assert made["peak_stage"] in made["stages"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quickstart", "--hardware", "8xh1000"], "did you mean h100?"),
        (["quickstart", "--stage", "gpro"], "did you mean grpo?"),
        (["quikstart"], "did you mean quickstart?"),
        (["quickstart", "model={_target_:thinkrl.models.pretrained.PretrainedModel,source:no/one}"], "cannot size"),
    ],
)
def test_mistakes_exit_2(arguments: list[str], says: str) -> None:
    code, text = invoke("plan", *arguments, "--no-measure")
    assert code == 2
    assert says in text
    assert "Traceback" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_tables_fit_the_terminal_and_lose_no_number(width: int) -> None:
    composed = compose("quickstart", ["model=qwen2_5_7b"], ())
    made = make_plan(build(Experiment, composed.tree, composed), find_hardware("8xh100-80gb"))
    file = io.StringIO()
    print_plan(made, made.largest, Console(file=file, width=width, no_color=True))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for stage in made.stages:
        row = next(line for line in lines if line.startswith(f"{stage.name} "))
        assert gib(stage.memory.peak) in row
        assert duration(stage.time.stage) in row
    for part in made.largest.memory.at_peak:
        assert any(part.name in line and gib(part.bytes) in line for line in lines)


@pytest.mark.parametrize(
    ("size", "text"), [(470 << 20, "470 MiB"), (1 << 30, "1.0 GiB"), (int(162.9 * 2**30), "162.9 GiB")]
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert gib(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.012, "0.012 s"), (9.2, "9.2 s"), (14.4, "14 s"), (185, "3:05 min"), (5040, "1.4 h"), (200_000, "2.3 days")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(704, "704"), (2816, "2816"), (17_600, "17.6k"), (1_300_000, "1.3M")])
def test_counts_for_people(number: float, text: str) -> None:
    assert count(number) == text
