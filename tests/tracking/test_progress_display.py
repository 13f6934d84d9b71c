import io
import time

import pytest
from rich.console import Console

from thinkrl.tracking.progress import ProgressDisplay


class _Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def _plain(width: int = 200) -> tuple[ProgressDisplay, io.StringIO]:
    out = io.StringIO()
    return ProgressDisplay(Console(file=out, width=width, force_terminal=False)), out


def test_without_a_terminal_each_step_is_one_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    display, out = _plain()
    display.stage("grpo", 2, 4, 60)
    clock.now += 10
    values = {"step": 1, "reward": 0.51234, "accuracy": 0.25, "response_length": 142.4, "time/tokens_per_second": 812.3}
    display.step({**values, "clip_fraction": 0.1})
    display.message("[not markup] checkpoint")
    display.close()
    assert out.getvalue().splitlines() == [
        "grpo 3/4  0/60",
        # 59 steps of 10 seconds are left here; one more stage of equal length takes 600
        "grpo 3/4  1/60  reward 0.512  left 9:50, all 19:50  accuracy 25.0%  length 142  tokens/s 812",
        "[not markup] checkpoint",
    ]
    assert "\x1b" not in out.getvalue()


def test_a_plain_line_is_never_wrapped_or_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    _Clock(monkeypatch)
    display, out = _plain(width=20)
    display.stage("rejection_sampling", 0, 9, 1000)
    display.step({"step": 1, "reward": 1.0, "accuracy": 1.0, "loss": 0.5})
    assert len(out.getvalue().splitlines()) == 2
    assert "loss 0.5000" in out.getvalue()


def test_time_left_starts_from_the_resumed_step_and_uses_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    display = ProgressDisplay(Console(file=io.StringIO()), weights=[1, 2, 4])
    assert display.seconds_left() == (None, None)
    display.stage("grpo", 1, 3, 100, done=40)
    assert display.seconds_left() == (None, None)
    clock.now += 5
    display.step({"step": 41})
    assert display.seconds_left() == (59 * 5.0, 59 * 5.0 + 500.0 * 4 / 2)
    clock.now += 3
    assert display.seconds_left()[0] == 59 * 5.0 - 3, "the clock runs on between steps"


def test_a_stage_without_steps_or_values_is_no_error() -> None:
    display, out = _plain()
    display.step({"step": 1})
    display.stage("evaluate", 0, 1, 0)
    display.step({"reward": "text", "accuracy": float("nan")})
    display.close()
    display.close()
    assert "evaluate 1/1  1/0" in out.getvalue()


@pytest.mark.parametrize("width", [1, 5, 20, 40, 79, 200])
def test_on_a_terminal_the_line_fits_the_width(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, height=5, force_terminal=True, legacy_windows=False)
    with ProgressDisplay(console) as display:
        display.stage("grpo", 0, 3, 60)
        for step in range(1, 4):
            display.step({"step": step, "reward": 0.5, "accuracy": 0.1, "response_length": 10, "loss": 1.0})
        line = display._line(width)
        rendered = console.render_lines(line, pad=False)
        assert len(rendered) == 1, "one line, cut with an ellipsis at worst"
        display.message("a message")
    if width >= 79:
        assert "grpo 1/3" in line.plain
        assert "reward 0.500" in line.plain
    assert ("loss" in line.plain) == (width == 200), "what matters least goes first"


def test_a_stage_that_ended_keeps_its_last_line_on_a_terminal() -> None:
    out = io.StringIO()
    with ProgressDisplay(Console(file=out, width=100, force_terminal=True)) as display:
        display.stage("sft", 0, 2, 1)
        display.step({"step": 1, "loss": 0.25})
        before = len(out.getvalue())
        display.stage("grpo", 1, 2, 5)
    after = out.getvalue()[before:]
    assert after.count("sft 1/2") == 1
    assert "━━━ 1/1  loss 0.2500" in after
    assert after.index("sft 1/2") < after.index("grpo 2/2")
