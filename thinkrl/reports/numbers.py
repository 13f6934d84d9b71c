"""Numbers for people."""

from math import isfinite


def number(value: float | None) -> str:
    """Four significant digits at most: `0.8125`, `1.04e-05`, `2026`; a dash where there is no number."""
    if value is None or not isfinite(value):
        return "–" if value is None or value != value else ("∞" if value > 0 else "-∞")
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share in percent, with one decimal."""
    return "–" if value is None or not isfinite(value) else f"{value:.1%}"


def change(value: float) -> str:
    """A difference of shares in points, with its sign."""
    return "–" if not isfinite(value) else f"{100 * value:+.1f}"


def duration(seconds: float | None) -> str:
    """`0.21 s`, `14 s`, `3:05 min`, `1.4 h`, `2.1 days`."""
    if seconds is None or not isfinite(seconds):
        return "–"
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    if seconds < 3600:
        whole = round(seconds)
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
