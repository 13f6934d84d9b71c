"""Scores to read: a table where it fits the width, else a block for each response."""

from collections import Counter
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from thinkrl.stages.scoring import Number, Scored, ScoredResponse

if TYPE_CHECKING:
    from rich.console import Console

_NONE = "-"
_STYLES = {"correct": "green", "wrong": "red", "ungradable": "yellow", "timeout": "yellow"}


def print_scores(console: "Console", scored: Scored, title: str, *, with_advantage: bool) -> None:
    """Prints every response with its terms and notes, and a summary."""
    table = _table(scored, title, with_advantage)
    needed = Measurement.get(console, console.options.update(width=10_000), table).minimum
    if needed <= console.width:
        console.print(table)
        for response in scored.responses:
            if response.notes:
                console.print(Text(_name(response)))
                _print_notes(console, response.notes)
    else:
        console.print(Text(title, style="italic"))
        for response in scored.responses:
            _print_block(console, response, with_advantage)
    console.print(Text(_summary(scored, with_advantage)))


def _table(scored: Scored, title: str, with_advantage: bool) -> Table:
    first = scored.responses[0]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("response", overflow="fold", min_width=8)
    table.add_column("verdict", no_wrap=True)
    for name, weight in first.weights.items():
        table.add_column(
            Text(f"{name}\n× {weight:.4g}"), justify="right", overflow="fold", min_width=min(len(name), 12)
        )
    table.add_column("reward", justify="right", no_wrap=True)
    if with_advantage:
        table.add_column("advantage", justify="right", no_wrap=True)
    for response in scored.responses:
        cells = [Text(_name(response)), _verdict(response), *(Text(_shown(value)) for value in response.terms.values())]
        cells.append(Text(_shown(response.reward), style="bold"))
        if with_advantage:
            cells.append(Text(_advantage(response.advantage)))
        table.add_row(*cells)
    return table


def _print_block(console: "Console", response: ScoredResponse, with_advantage: bool) -> None:
    """Response, verdict, reward and advantage, then each term with its note."""
    head = Text.assemble((_name(response), "bold"), "  ", _verdict(response), f"  reward {_shown(response.reward)}")
    if with_advantage:
        head.append(f"  advantage {_advantage(response.advantage)}")
    console.print(head)
    for name, value in response.terms.items():
        said = "; ".join(note.removeprefix(f"{name}: ") for note in _notes_of(response, name))
        line = Text(f"{name} {_shown(value)} × {response.weights[name]:.4g}")
        line.append(f"  {printable(said)}" if said else "", style="dim")
        _print_indented(console, line)
    _print_notes(console, [note for note in response.notes if not _is_of_a_term(response, note)])


def _print_notes(console: "Console", notes: list[str]) -> None:
    for note in notes:
        _print_indented(console, Text(printable(note), style="dim"))


def _print_indented(console: "Console", text: Text) -> None:
    console.print(Padding(text, (0, 0, 0, 2), expand=False))


def _notes_of(response: ScoredResponse, term: str) -> list[str]:
    return [note for note in response.notes if note.startswith(f"{term}: ")]


def _is_of_a_term(response: ScoredResponse, note: str) -> bool:
    return any(note.startswith(f"{term}: ") for term in response.terms)


def _summary(scored: Scored, with_advantage: bool) -> str:
    n = len(scored.responses)
    sizes = Counter(str(response.prompt_id) for response in scored.responses)
    parts = [f"{_count(n, 'response')} to {_count(len(sizes), 'prompt')}"]
    verdicts = Counter(response.verdict for response in scored.responses if response.verdict)
    parts += [f"{count} {verdict}" for verdict, count in verdicts.items()]
    rewards = [response.reward for response in scored.responses if response.reward is not None]
    if rewards:
        parts.append(f"mean reward {sum(rewards) / len(rewards):.4g}")
    if len(rewards) < n:
        parts.append(f"{n - len(rewards)} without a reward")
    flat = round(scored.metrics.get("advantage/flat_groups", 0.0) * len(sizes))
    if with_advantage and flat:
        parts.append(f"{_count(flat, 'prompt')} with equal rewards only")
    return "; ".join(parts)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _name(response: ScoredResponse) -> str:
    prompt, name = str(response.prompt_id), str(response.response_id)
    return printable(name if name.startswith(prompt) else f"{name} of {prompt}")


def _verdict(response: ScoredResponse) -> Text:
    return Text(response.verdict or _NONE, style=_STYLES.get(response.verdict or "", ""))


def _advantage(value: Number | list[Number]) -> str:
    """A number, or the range of those of the tokens."""
    if not isinstance(value, list):
        return _shown(value)
    known = [number for number in value if number is not None]
    return f"{min(known):.3g}..{max(known):.3g}" if known else _NONE


def _shown(value: Number) -> str:
    return _NONE if value is None else f"{value:.4g}"


def printable(text: str) -> str:
    """`text` on one line, with what a terminal would not show, or would obey, written as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
