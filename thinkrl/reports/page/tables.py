"""Tables that become one card a row where the page is narrow."""

from collections.abc import Sequence
from dataclasses import dataclass

from thinkrl.reports.page.elements import Markup, element


@dataclass(frozen=True)
class Column:
    """A heading; numeric columns are set to the right."""

    title: str
    numeric: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[object]], cards: bool = True) -> Markup:
    """A table with a heading for each column; cells are text or Markup, and carry their heading for narrow pages.

    cards: false for a table that is narrow enough for any page.
    """
    headings = [element("th", c.title, scope="col", class_="n" if c.numeric else None) for c in columns]
    body = [element("tr", [_cell(cell, column) for column, cell in zip(columns, row, strict=True)]) for row in rows]
    made = element(
        "table", element("thead", element("tr", headings)), element("tbody", body), class_="cards" if cards else None
    )
    return element("div", made, class_="scroll")  # where a table is wider than the page, it alone is scrolled


def _cell(cell: object, column: Column) -> Markup:
    # One child, so that a card lays label and value side by side; nothing stays nothing.
    inside = element("div", cell) if cell is not None and cell != "" else ""
    return element("td", inside, class_="n" if column.numeric else None, data_label=column.title)
