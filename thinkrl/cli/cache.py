"""`thinkrl cache`: what finished stages are kept for reuse, and removing those that are not needed."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thinkrl.stages.cache_entries import CacheEntry
    from thinkrl.stages.reuse import StageCache

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="List and remove stages kept for reuse.")

LIST_EXAMPLES = """Example:

thinkrl cache list"""
PRUNE_EXAMPLES = """Examples:

thinkrl cache prune --older-than 30

thinkrl cache prune --dry-run"""

_DAY = 86_400.0


@app.command("list", epilog=LIST_EXAMPLES)
def list_cache() -> None:
    """List the kept stages, least recently used first, with what removing them would free."""
    from rich.console import Console
    from rich.table import Table

    from thinkrl.stages.cache_entries import cache_entries
    from thinkrl.tracking.errors import readable_bytes

    cache, console = _cache(), Console(highlight=False)
    entries = cache_entries(cache)
    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "steps", "last used", "size", "own", "entry"):
        table.add_column(heading, justify="right" if heading in ("steps", "size", "own") else "left", no_wrap=True)
    for entry in entries:
        sizes = (readable_bytes(entry.size), readable_bytes(entry.freed))
        table.add_row(_named(entry), str(entry.rows), _ago(entry.used), *sizes, entry.name[:12])
    if entries:
        console.print(table)
    size, freed = sum(entry.size for entry in entries), sum(entry.freed for entry in entries)
    console.print(f"{len(entries)} stages in {cache.root}", soft_wrap=True)
    console.print(
        f"{readable_bytes(size)}, of which {readable_bytes(freed)} are the cache's own and the rest is shared with runs"
    )


@app.command("prune", epilog=PRUNE_EXAMPLES)
def prune_cache(
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="Only what was not used for so many days."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove kept stages; runs keep their own files, and what a run is at work on stays."""
    from thinkrl.stages.cache_entries import prune
    from thinkrl.tracking.errors import readable_bytes

    removed, busy = prune(_cache(), None if older_than is None else older_than * _DAY, dry_run)
    for entry in removed:
        typer.echo(f"{entry.name[:12]}  {_named(entry)}, last used {_ago(entry.used)}, {readable_bytes(entry.size)}")
    freed = readable_bytes(sum(entry.freed for entry in removed))
    typer.echo(f"{'would remove' if dry_run else 'removed'} {len(removed)} stages, {freed} freed")
    if busy:
        typer.echo(f"{busy} left: runs are at work on them")


def _cache() -> "StageCache":
    from thinkrl.stages.reuse import StageCache, cache_root

    return StageCache(cache_root() / "stages")


def _named(entry: "CacheEntry") -> str:
    return "(left by a killed write)" if entry.leftover else entry.stage or "(no steps)"


def _ago(moment: float) -> str:
    days = (time.time() - moment) / _DAY
    return f"{days:.0f} days ago" if days >= 2 else f"{days * 24:.0f} h ago" if days * 24 >= 1 else "within the hour"
