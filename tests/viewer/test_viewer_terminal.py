"""The terminal shows the same responses, by keys or printed, and nothing that a model wrote moves its cursor."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner
from viewed_runs import HOSTILE, Asked, Wrote, small_run, write_record, write_step

from thinkrl.cli.app import app
from thinkrl.viewer.finding import Query
from thinkrl.viewer.pages import Pages
from thinkrl.viewer.terminal import SHORT, TerminalView


def console() -> Console:
    return Console(file=io.StringIO(), width=150, highlight=False, force_terminal=False)


def said(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def walked(run: Path, keys: str, query: Query) -> list[str]:
    """What is shown before the first key and after each."""
    screen = console()
    TerminalView(Pages(run), query, screen).walk(iter(keys))
    return said(screen).split("q quit\n")[:-1]


def titles(run: Path, keys: str, query: Query) -> list[str]:
    """The group shown before the first key and after each."""
    return [
        " ".join(re.findall(r"(step \d+), prompt (\S+?),? ", shown + " ")[-1]) for shown in walked(run, keys, query)
    ]


def test_a_page_has_every_group_with_rewards_and_reasons(tmp_path: Path) -> None:
    screen = console()
    TerminalView(Pages(small_run(tmp_path / "run")), Query("0_rl", 2), screen).print_page()
    text = said(screen)
    assert "step 2, prompt sum1, 2 of 4 correct" in text
    assert "step 2, prompt sum2, 0 of 2 correct, flat" in text
    assert "user: What is 1 + 1?" in text
    assert "wrong  reward 0.5, advantage 0.25" in text
    assert "answer: 0.5, adds 0.5  3 is not 2" in text
    assert "truncated" in text
    assert "6 of 6 responses, page 1 of 1" in text


def test_keys_walk_through_groups_and_steps(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    assert titles(run, "nnpp", Query("0_rl", 1)) == [
        "step 1 sum1",
        "step 1 sum2",
        "step 1 sum2",
        "step 1 sum1",
        "step 1 sum1",
    ]
    assert titles(run, "][n]", Query("0_rl", 1)) == [
        "step 1 sum1",
        "step 2 sum1",
        "step 1 sum1",
        "step 1 sum2",
        "step 2 sum1",
    ]
    assert titles(run, "nnn", Query("0_rl")) == ["step 1 sum1", "step 1 sum2", "step 2 sum1", "step 2 sum2"]


def test_keys_filter_search_and_end(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    shown = walked(run, "ffF", Query("0_rl", 1))
    assert [re.findall(r"(\d+) of 6 responses", one)[0] for one in shown] == ["6", "2", "3", "2"]
    shown = walked(run, "/TRULX\x7fY\nw?", Query("0_rl", 1))
    assert "1 of 6 responses" in shown[-1]
    assert "no idea, truly" in shown[-1]
    assert len(walked(run, "nqn", Query("0_rl", 1))) == 2
    assert "0 of 6 responses" in walked(run, "/absent\n", Query("0_rl", 1))[-1]


def test_pages_follow_each_other(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    write_step(run, "0_rl", 1, [Asked(f"p{n}", "?", [Wrote("a"), Wrote("b")]) for n in range(30)])
    shown = titles(run, "n" * 29 + "p" * 5, Query("0_rl", 1))
    assert shown[:30] == [f"step 1 p{n}" for n in range(30)]
    assert shown[30:] == [f"step 1 p{n}" for n in (28, 27, 26, 25, 24)]


def test_long_texts_are_cut_until_all_is_asked_for(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    write_step(run, "0_rl", 1, [Asked("p", "?", [Wrote("word " * 1000 + "the end")])])
    short, whole = walked(run, "w", Query("0_rl", 1))
    assert f"{5007 - SHORT} more characters" in " ".join(short.split())
    assert "the end" not in short
    assert "the end" in " ".join(whole.split())


def test_what_models_wrote_moves_no_cursor(tmp_path: Path) -> None:
    run = write_record(tmp_path / "run")
    texts = ("\x1b]0;title\x07\x1b[2J\x9b31m\rgone\x08", "[bold red]not markup[/] [link=x]y[/link]", *HOSTILE)
    held = [Asked(f"{texts[0]}p", texts[0], [Wrote(text, note=text) for text in texts])]
    write_step(run, "0_rl", 1, held)
    screen = Console(file=io.StringIO(), width=200, highlight=False, force_terminal=True, color_system="truecolor")
    TerminalView(Pages(run), Query("0_rl", 1), screen, whole=True).print_page()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said(screen))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", plain)
    assert "[U+001B][2J" in plain
    assert "[bold red]not markup[/]" in plain
    assert "[U+202E]gnp.exe" in plain


def invoke(*args: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["view", *map(str, args)])
    return done.exit_code, done.output


def test_the_command(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    code, text = invoke(run, "--terminal")
    assert code == 0
    assert "0_rl  step 2" in text
    assert "step 1" not in text
    code, text = invoke(run, "--terminal", "--stage", "after", "--show", "correct")
    assert code == 0
    assert "2 of 4 responses" in text
    code, text = invoke(run, "--terminal", "--step", "all", "--find", "hm")
    assert (code, "2 of 12 responses" in text) == (0, True)
    code, text = invoke(run, "--export", tmp_path / "out", "--limit", 3)
    assert (code, text.split(":")[0]) == (0, "wrote 3 responses (of 16; --limit takes more)")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--stage", "x"], "--stage: no stage 'x'"),
        (["--step", "7"], "--step: no rollouts of step '7' in stage '0_rl'; steps kept: 1 to 2"),
        (["--step", "../1"], "--step: no rollouts"),
        (["--show", "nice"], "mark must be one of all, correct"),
        (["--order", "up"], "order must be one of stored"),
    ],
)
def test_mistakes_exit_2_in_words(tmp_path: Path, arguments: list[str], says: str) -> None:
    code, text = invoke(small_run(tmp_path / "run"), "--terminal", *arguments)
    assert code == 2
    assert says in " ".join(text.split())


def test_a_folder_that_is_no_run_or_kept_nothing(tmp_path: Path) -> None:
    assert invoke(tmp_path)[0] == 2
    assert invoke(tmp_path / "gone")[0] == 2
    code, text = invoke(write_record(tmp_path / "run"), "--terminal")
    assert (code, "has kept no responses yet" in " ".join(text.split())) == (2, True)


def test_viewing_loads_no_model_library(tmp_path: Path) -> None:
    import subprocess

    run = small_run(tmp_path / "run")
    program = (
        "import sys; from thinkrl.cli.app import app\n"
        f"app(['view', {str(run)!r}, '--terminal'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'datasets', 'wandb'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
