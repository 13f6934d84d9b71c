"""docs/reproductions.md says what the results beside the recipes say."""

from pathlib import Path

from thinkrl.config.paths import recipes_dir
from thinkrl.reproduction.table import table


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "reproductions.md"
    assert page.read_text() == table(recipes_dir()), "run `thinkrl reproduce --table`"
