"""Reading the unit behind a number."""

import re

CURRENCY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "₩": "won"}

_SHORT = {
    "meter": ("m",), "centimeter": ("cm",), "millimeter": ("mm",), "kilometer": ("km",), "inch": ("in",),
    "foot": ("ft",), "yard": ("yd",), "mile": ("mi",), "gram": ("g",), "kilogram": ("kg",), "milligram": ("mg",),
    "pound": ("lb", "lbs", "gbp"), "ounce": ("oz",), "second": ("s", "sec", "secs"), "millisecond": ("ms",),
    "minute": ("min", "mins"), "hour": ("h", "hr", "hrs"), "liter": ("l",), "milliliter": ("ml",),
    "degree": ("°", "deg"), "degree celsius": ("°c",), "degree fahrenheit": ("°f",), "dollar": ("usd",),
    "euro": ("eur",), "kilometer/hour": ("kmh", "kph"), "mile/hour": ("mph",), "hertz": ("hz",),
    "kilohertz": ("khz",), "megahertz": ("mhz",), "gigahertz": ("ghz",), "kilowatt": ("kw",), "kilovolt": ("kv",),
    "kilojoule": ("kj",), "kilonewton": ("kn",), "kilopascal": ("kpa",), "pascal": ("pa",), "kilobyte": ("kb",),
    "megabyte": ("mb",), "gigabyte": ("gb",), "pixel": ("px",),
    "": ("st", "nd", "rd", "th"),
}  # fmt: skip
_LONG = {
    "meter": ("metre",), "centimeter": ("centimetre",), "millimeter": ("millimetre",), "kilometer": ("kilometre",),
    "liter": ("litre",), "foot": ("feet",), "inch": ("inches", "inche"),
}  # fmt: skip
# Letters that may touch the number; any other letter there, as in 5x, 5i or 5e, is part of the mathematics.
_ATTACHED = {spelling: name for name, spellings in _SHORT.items() for spelling in spellings}
_CANONICAL = _ATTACHED | {spelling: name for name, spellings in _LONG.items() for spelling in spellings}
# Words that change what the number says.
_NOT_UNITS = re.compile(
    r"or|and|not|to|no|than|more|less|about|over|under|is|if|but|plus|minus|times|dozens?|half|halves|quarters?"
    r"|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|hundredth|thousandth|millionth)s?|squared|cubed|factorial|mod|modulo|choose|negative|otherwise|power|root"
)
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_PART = re.compile(r"(°[CF]?|[^\W\d_]+\.?)(?:\s*\^?\s*\{?\s*(-?[1-9])\s*\}?)?")
_BETWEEN = re.compile(r"\s*(?:/|\bper\b|\\cdot|·|\*)\s*|\s+")


def read_unit(rest: str) -> str | None:
    """The unit that `rest`, what follows a number, is: singular, lower case; empty for none, None when it is no unit.

    Known abbreviations may touch the number; other words need a space before them, three letters, and must
    not be words like `or`, `thirds` or `more`. At most three words.
    """
    attached = rest[:1] not in ("", " ", "\t", "\n")
    text = rest.strip().strip("{}").strip()
    if not text:
        return ""
    if text in CURRENCY:
        return CURRENCY[text]
    parts = [_PART.fullmatch(part) for part in _BETWEEN.split(text)]
    if len(parts) > 3 or any(part is None for part in parts):
        return None
    words = [(part[1].rstrip(".").lower(), part[2] or "") for part in parts if part is not None]
    unknown = [word for word, _ in words if word not in _ATTACHED]
    if unknown and (
        attached or any(_NOT_UNITS.fullmatch(word) or (len(word) < 3 and word not in _POWERS) for word in unknown)
    ):
        return None
    if len(words) > 1 and words[0][0] in _POWERS and not words[1][1]:
        words = [(words[1][0], _POWERS[words[0][0]]), *words[2:]]
    return "/".join(_canonical(word) + power for word, power in words)


def _canonical(word: str) -> str:
    short = word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
    return _CANONICAL.get(word, _CANONICAL.get(short, short))
