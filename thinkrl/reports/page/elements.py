"""HTML that cannot be broken out of: text becomes markup in one place, and is escaped there.

What a report shows was written by models and by people's configurations; any of it may be HTML, script, or
characters that turn text around. `element` escapes all children that are not `Markup` already.
"""

import re
from html import escape

_VOID = {"meta", "link", "br", "hr", "img", "input", "rect", "line", "path", "circle"}
_UNSEEN = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
_CONTROL = re.compile(f"[{_UNSEEN}]")


class Markup(str):
    """Text that is HTML already; only this module and constants may make it from a string."""


def visible(text: str) -> str:
    """`text` with characters that are not seen, move a terminal's cursor or turn text around shown by their number."""
    return _CONTROL.sub(_shown, text)


def text(value: object) -> Markup:
    """`value` as text: markup escaped, and made `visible`."""
    return Markup(escape(visible(str(value)), quote=True))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """`<tag attributes>children</tag>`; None and False leave an attribute out, True gives it no value.

    An underscore in an attribute's name stands for a dash, one at its end for nothing (`class_`).
    """
    given = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    inside = join(*children)
    if tag in _VOID and not inside:
        return Markup(f"<{tag}{given}/>")
    return Markup(f"<{tag}{given}>{inside}</{tag}>")


def join(*children: object) -> Markup:
    """Children one after the other; lists are opened, None is left out."""
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        else:
            parts.append(child if isinstance(child, Markup) else text(child))
    return Markup("".join(parts))


def _shown(match: re.Match[str]) -> str:
    return f"[U+{ord(match[0]):04X}]"
