"""Live progress: one line that fits the terminal, or one plain line a step where there is none."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

_SHOWN = (
    ("reward", "reward", "{:.3f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("loss", "loss", "{:.4f}"),
    ("response_length", "length", "{:.0f}"),
    ("time/tokens_per_second", "tokens/s", "{:.0f}"),
)
"""Names of values in a row, what the line calls them, and how they are printed; the first matter most."""

_BAR_WIDTH = 16
_BAR_FITS = 60
"""Narrowest terminal, in cells, that gets a bar."""
_MEMORY = 0.8
"""Weight of the past in the moving average of seconds a step: about the last five steps."""


@dataclass
class _Stage:
    name: str
    index: int
    count: int
    steps: int
    done: int
    step_seconds: float | None = None


class ProgressDisplay:
    """Shows stage, step, headline values and time left.

    console: where to write; standard output by default.
    weights: how long each stage of the pipeline takes, relative to the others; equal by default.
    """

    def __init__(self, console: Console | None = None, weights: Sequence[float] | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._weights = weights
        self._stage: _Stage | None = None
        self._values: dict[str, Any] = {}
        self._live: Live | None = None
        self._last_step = time.monotonic()

    def stage(self, name: str, index: int, count: int, steps: int, done: int = 0) -> None:
        """Begins stage number `index` (from 0) of `count`, of which `done` of `steps` steps were done before."""
        ended = self._line(self.console.width)
        self._stage = _Stage(name, index, count, steps, done)
        self._values = {}
        self._last_step = time.monotonic()
        if not self.console.is_terminal:
            self._print(self._line(None))
            return
        if self._live is None:
            # The terminal is written by this object alone: worker processes that are forked while
            # the display refreshes must never need its lock, so standard output is not redirected.
            self._live = Live(
                _Line(self), console=self.console, refresh_per_second=2, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        else:
            self._print(ended)  # stays above the new stage's line
        self._live.refresh()

    def step(self, values: Mapping[str, Any]) -> None:
        """Shows a completed step: `step` (steps done) and the row's values."""
        if self._stage is None:
            return
        now = time.monotonic()
        done = int(values.get("step", self._stage.done + 1))
        if done > self._stage.done:
            each = (now - self._last_step) / (done - self._stage.done)
            past = self._stage.step_seconds
            self._stage.step_seconds = each if past is None else _MEMORY * past + (1 - _MEMORY) * each
        self._last_step = now
        self._stage.done = done
        self._values = dict(values)
        if self._live is None:
            self._print(self._line(None))
        else:
            self._live.refresh()

    def message(self, text: str) -> None:
        """Prints a line above the display."""
        self.console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Leaves the last line standing and gives the terminal back; calling it twice does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seconds_left(self) -> tuple[float | None, float | None]:
        """Estimated seconds left for the stage and for the pipeline; None while unknown."""
        stage = self._stage
        if stage is None or stage.step_seconds is None:
            return None, None
        since = 0.0 if stage.done >= stage.steps else time.monotonic() - self._last_step
        left = max(0.0, stage.step_seconds * (stage.steps - stage.done) - since)
        weights = self._weights or [1.0] * stage.count
        whole = stage.step_seconds * stage.steps
        return left, left + whole * sum(weights[stage.index + 1 :]) / weights[stage.index]

    def _line(self, width: int | None) -> Text:
        """The line in at most `width` cells: what matters least is left out first."""
        stage = self._stage
        if stage is None:
            return Text()
        share = min(1.0, stage.done / stage.steps) if stage.steps else 1.0
        filled = round(share * _BAR_WIDTH)
        bar = " " + "━" * filled + "╌" * (_BAR_WIDTH - filled) if (width or 0) >= _BAR_FITS else ""
        parts = [f"{stage.name} {stage.index + 1}/{stage.count} {bar} {stage.done}/{stage.steps}"]
        for key, label, form in _SHOWN:
            value = self._values.get(key)
            if isinstance(value, int | float):
                parts.append(f"{label} {form.format(value)}")
        stage_left, run_left = self.seconds_left()
        if stage_left is not None and run_left is not None and stage.done < stage.steps:
            all_left = "" if stage.index + 1 == stage.count else f", all {_clock(run_left)}"
            parts.insert(2, f"left {_clock(stage_left)}{all_left}")
        if width is not None:
            parts = _fit(parts, width)
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")

    def _print(self, line: Text) -> None:
        self.console.print(line, soft_wrap=True)


@dataclass(frozen=True)
class _Line:
    display: ProgressDisplay

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.display._line(options.max_width)


def _fit(parts: Sequence[str], width: int) -> list[str]:
    kept = list(parts)
    while len(kept) > 1 and len("  ".join(kept)) > width:
        kept.pop()
    return kept


def _clock(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
