"""The same in a terminal: group after group, walked through by keys, or a page printed where nobody can press any."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from thinkrl.reports.numbers import number
from thinkrl.reports.page.elements import visible
from thinkrl.reports.samples import marked
from thinkrl.viewer.facts import MARKS
from thinkrl.viewer.finding import Query
from thinkrl.viewer.pages import Pages

SHORT = 1_200
"""Characters of a text that are shown unless all is asked for."""
KEYS = "n next  p previous  ] [ step  f F filter  / search  w whole texts  q quit"
_STYLES = {"think": "dim", "answer": "bold green", "text": ""}
_VERDICTS = {"correct": "green", "wrong": "red"}
_ENTER = ("\n", "\r")
_ERASE = ("\x7f", "\b")

Group = tuple[dict[str, Any], list[dict[str, Any]]]
"""What is known of a group, and its rows of the list."""


class TerminalView:
    """One run on a console. `query` is where the reader is."""

    def __init__(self, pages: Pages, query: Query, console: Console, *, whole: bool = False) -> None:
        self._pages = pages
        self._console = console
        self._whole = whole
        self.query = query
        self._place = 0
        """Which group of the page is shown."""

    def print_page(self) -> None:
        """Prints every group of the page."""
        listing = self._listing()
        self._heading(listing)
        for group, rows in _groups(listing):
            self._group(group, rows)

    def walk(self, keys: Iterator[str]) -> None:
        """Shows a group, and another one for each key, until `q` or the last key."""
        listing, asked = self._listing(), self.query
        while True:
            if self.query != asked:
                listing, asked = self._listing(), self.query
            groups = _groups(listing)
            self._place = max(0, min(self._place, len(groups) - 1))
            self._heading(listing)
            if groups:
                self._group(*groups[self._place])
            self._console.print(Text(f"group {self._place + 1} of {len(groups)} on this page   {KEYS}", style="dim"))
            key = next(keys, "q")
            if key == "q":
                return
            self._press(key, keys, len(groups), listing["pages"])

    def _press(self, key: str, keys: Iterator[str], count: int, pages: int) -> None:
        if key in ("n", " "):
            if self._place + 1 < count:
                self._place += 1
            elif self.query.page + 1 < pages:
                self._ask(page=self.query.page + 1)
        elif key == "p":
            if self._place > 0:
                self._place -= 1
            elif self.query.page > 0:
                self._ask(page=self.query.page - 1)
                self._place = sys.maxsize
        elif key in "][":
            self._move_step(1 if key == "]" else -1)
        elif key in "fF":
            names = list(MARKS)
            self._ask(page=0, mark=names[(names.index(self.query.mark) + (1 if key == "f" else -1)) % len(names)])
        elif key == "/":
            self._ask(page=0, text=self._line(keys))
        elif key == "w":
            self._whole = not self._whole

    def _ask(self, **changes: Any) -> None:
        self.query = replace(self.query, **changes)
        self._place = 0

    def _move_step(self, by: int) -> None:
        steps = self._pages.run.steps(self.query.stage)
        here = steps.index(self.query.step) if self.query.step in steps else len(steps) - 1
        if 0 <= here + by < len(steps):
            self._ask(page=0, step=steps[here + by], group="")

    def _line(self, keys: Iterator[str]) -> str:
        """What is typed up to Enter."""
        typed = ""
        self._console.print("search: ", end="")
        for key in keys:
            if key in _ENTER:
                break
            typed = typed[:-1] if key in _ERASE else typed + key
            self._console.print(Text("\b \b" if key in _ERASE else visible(key)), end="")
        self._console.print()
        return typed[:200]

    def _listing(self) -> dict[str, Any]:
        """The page that is asked for, read to the end."""
        while True:
            listing = self._pages.listing(self.query)
            if listing["searched"] >= listing["of"]:
                return listing

    def _heading(self, listing: dict[str, Any]) -> None:
        query = self.query
        parts = [query.stage, "all steps" if query.step is None else f"step {query.step}", MARKS[query.mark]]
        parts += [f"{name} {value}" for name, value in (("prompt", query.prompt), ("group", query.group)) if value]
        parts += [f"with {query.text!r}"] if query.text else []
        counted = f"{listing['total']} of {listing['of']} responses, page {query.page + 1} of {listing['pages']}"
        self._console.print(Rule(Text(visible("  ".join([*parts, counted]))), align="left"))
        for problem in listing["problems"]:
            self._console.print(Text(visible(problem), style="red"))

    def _group(self, group: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        numbers = sorted(row["row"] for row in rows)
        held = {one["row"]: one for one in self._pages.responses(rows[0]["stage"], rows[0]["step"], numbers)}
        first = held[rows[0]["row"]]
        title = [f"step {first['step']}", f"prompt {first['prompt_id']}"]
        if group.get("correct") is not None:
            title.append(f"{group['correct']} of {group['size']} correct")
        title += ["flat"] if group.get("flat") else []
        self._console.print(Text(visible("\n" + ", ".join(title)), style="bold"))
        for turn in first["messages"]:
            self._console.print(Padding(self._text(f"{turn['role']}: {turn['content']}", plain=True), (0, 0, 0, 2)))
        for row in rows:
            self._response(held[row["row"]])

    def _response(self, one: dict[str, Any]) -> None:
        line = Text("\n")
        line.append(visible(one["verdict"] or "not judged"), style=_VERDICTS.get(one["verdict"], "yellow"))
        facts = [f"reward {number(_float(one['reward']))}", f"advantage {number(_float(one['advantage']))}"]
        facts += [f"{len(one['token_ends'])} tokens"] if one["token_ends"] else []
        facts += ["truncated"] if one["finish_reason"] == "length" else []
        line.append(visible(f"  {', '.join(facts)}  row {one['row']}"))
        self._console.print(line)
        self._console.print(Padding(self._text(one["text"]), (0, 0, 0, 2)))
        for part in one["parts"]:
            value, added = number(_float(part["value"])), number(_float(part["contribution"]))
            said = f"{part['name']}: {value}, adds {added}{'  ' + part['note'] if part['note'] else ''}"
            self._console.print(Padding(Text(visible(said), style="cyan"), (0, 0, 0, 2)))

    def _text(self, text: str, *, plain: bool = False) -> Text:
        """A text with thinking and answer marked; nothing in it can move the cursor or colour anything."""
        kept = text if self._whole else text[:SHORT]
        shown = Text()
        for kind, piece in (("text", kept),) if plain else marked(kept):
            shown.append(visible(piece), style=_STYLES[kind])
        if len(kept) < len(text):
            shown.append(f" … {len(text) - len(kept)} more characters", style="yellow")
        return shown


def key_presses() -> Iterator[str]:
    """Keys as they are pressed, without waiting for Enter; the terminal is as it was when this ends."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        while key := os.read(descriptor, 4).decode(errors="ignore"):
            yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _groups(listing: dict[str, Any]) -> list[Group]:
    """The rows of a page by group, as long as rows of one follow each other."""
    found: list[Group] = []
    last = ""
    for row in listing["rows"]:
        name = f"{row['step']} {row['group_id']}"
        if name != last:
            found.append((listing["groups"].get(name, {}), []))
        found[-1][1].append(row)
        last = name
    return found


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
