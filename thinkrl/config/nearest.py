"""Names near a mistyped one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is near."""
    known = list(names)
    lowered = {known_name.lower(): known_name for known_name in reversed(known)}
    found = get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return lowered[found[0]] if found else None


def suggestion(name: str, names: Iterable[str], shown: int = 12) -> str:
    """`did you mean X?` when a known name is near, else the known names themselves."""
    known = sorted(names)
    match = nearest(name, known)
    if match is not None:
        return f"did you mean {match}?"
    if not known:
        return "there are none to choose from"
    more = f" and {len(known) - shown} more" if len(known) > shown else ""
    return f"known: {', '.join(known[:shown])}{more}"
