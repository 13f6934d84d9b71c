"""Reading text as its writer meant it: unicode digits, minus signs, spaces, and LaTeX wrappers."""

import re
import unicodedata

_MINUS = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe58\ufe63\uff0d"
_SUPERSCRIPT = dict(
    zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f", "0123456789+-n", strict=True)
)
_SUPERSCRIPT_RUN = re.compile("[" + "".join(_SUPERSCRIPT) + "]+")
_THIN_SPACE = re.compile("(?<=\\d)[\u00a0\u2009\u202f\u2007](?=\\d{3}(?!\\d))")
_WRAPPERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"), ("**", "**"), ("`", "`"))


def plain(text: str) -> str:
    """`text` in compatibility form, with ASCII digits and minus, and superscripts written as `^{...}`.

    Superscripts and vulgar fractions are written out first, for NFKC reads 10\u00b2 as 102 and 1\u00bd as 11/2.
    """
    if text.isascii():
        return text
    text = _THIN_SPACE.sub(",", text)
    text = _SUPERSCRIPT_RUN.sub(lambda m: "^{" + "".join(_SUPERSCRIPT[c] for c in m[0]) + "}", text)
    return unicodedata.normalize("NFKC", "".join(map(_ascii, text))).replace("\u2044", "/")


def _ascii(char: str) -> str:
    if char < "\x80":
        return char
    if char in _MINUS:
        return "-"
    if char in "\u066b\u066c":
        return "." if char == "\u066b" else ","
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    if unicodedata.category(char) == "No" and "\u2044" in (form := unicodedata.normalize("NFKC", char)):
        return f" {form}"
    return char


def unwrap(text: str) -> str:
    r"""`text` without the white space, `$`, `\(`, `\[`, `**` and backticks around it, and one final full stop."""
    text = text.strip()
    for _ in range(4):
        text = text.removesuffix(".").strip() if not text.endswith("..") else text
        for left, right in _WRAPPERS:
            inner = text[len(left) : len(text) - len(right)]
            closed = len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right)
            if closed and left not in inner and right not in inner:
                text = inner.strip()
                break
        else:
            return text
    return text


def shorten(text: object, limit: int = 60) -> str:
    """`text` for a note: its printable form, cut in the middle when long."""
    form = repr(text[: 2 * limit] if isinstance(text, str) else text)
    return form if len(form) <= limit else f"{form[: limit - 15]}...{form[-12:]}"


def last_box(text: str) -> tuple[str | None, int]:
    r"""The content of the last `\boxed{...}` and how many boxes there are; None where the last one never closes."""
    boxes = boxed(text)
    return (boxes[-1] if boxes else None), len(boxes)


_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{?)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxed(text: str) -> list[str | None]:
    r"""The contents of all outermost `\boxed{...}` and `\fbox{...}` in order, None for one that never closes.

    Braces are counted, escaped ones left alone; linear time.
    """
    return [None if span is None else text[slice(*span)] for span in _box_spans(text)]


def last_box_span(text: str) -> tuple[int, int] | None:
    r"""Where the content of the last `\boxed{...}` of all stands; None where there is none, or it never closes."""
    place = text.rfind("\\boxed{")
    span = _box_spans(text[place:])[0] if place >= 0 else None
    return None if span is None else (place + span[0], place + span[1])


def _box_spans(text: str) -> list[tuple[int, int] | None]:
    """Character ranges of the contents of all outermost boxes; see `boxed`."""
    found: list[tuple[int, int] | None] = []
    position = 0
    while (box := _BOX.search(text, position)) is not None:
        position = box.end()
        depth = 1 if box[1] else 0
        content: tuple[int, int] | None = None
        for brace in _BRACE.finditer(text, position) if depth else ():
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                content, position = (box.end(), brace.start()), brace.end()
                break
        found.append(content)
        if content is None:
            # Braces after an open box cannot be told apart, so no later box is trusted.
            break
    return found
