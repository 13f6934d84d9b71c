import os
import resource
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from thinkrl import __version__
from thinkrl.cli.app import app

HEAVY = ("torch", "transformers", "hydra", "omegaconf", "datasets", "wandb", "numpy")
GROUPS = {group.name: group.typer_instance for group in app.registered_groups}
COMMANDS = tuple(command.name for command in app.registered_commands) + tuple(GROUPS)
"""Every command, from the application itself."""
SPOKEN = [
    *((command.name,) for command in app.registered_commands),
    *((name, command.name) for name, group in GROUPS.items() for command in group.registered_commands),
]
"""What is written behind `thinkrl` for each command and each command of a group."""


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def processor_seconds(*arguments: str) -> float:
    """Processor time of a process: what a quiet machine waits, whatever else this one does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "import sys; from thinkrl.cli.app import main; sys.argv[0] = 'thinkrl'; main()"
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_in_under_half_a_second() -> None:
    assert min(processor_seconds("--help") for _ in range(3)) < 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"], ["rn"], ["run", "no-such-recipe"]])
def test_what_needs_no_model_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from thinkrl.cli.app import app\n"
        f"CliRunner().invoke(app, {arguments!r}); print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("words", SPOKEN, ids=" ".join)
def test_every_command_explains_itself_with_an_example(words: tuple[str, ...]) -> None:
    code, text = invoke(*words, "--help")
    assert code == 0
    assert "Example" in text
    assert f"thinkrl {' '.join(words)}" in text


def test_the_list_of_commands_is_the_applications() -> None:
    assert {"run", "score", "reproduce", "plan", "report", "cache", "models"} <= set(COMMANDS)
    assert len(COMMANDS) == len(set(COMMANDS))


def test_the_help_lists_every_command() -> None:
    code, text = invoke("--help")
    assert code == 0
    assert all(command in text for command in COMMANDS)


def test_a_mistyped_command_suggests_the_nearest() -> None:
    code, text = invoke("rn")
    assert (code, "Did you mean 'run'?" in text) == (2, True)
    code, text = invoke("evaluat")
    assert (code, "Did you mean 'evaluate'?" in text) == (2, True)


def test_version() -> None:
    assert invoke("--version") == (0, f"thinkrl {__version__}\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("thinkrl run quic", "quickstart"),
        ("thinkrl show quic", "quickstart"),
        ("thinkrl run quickstart mod", "model="),
        ("thinkrl run quickstart scale=s", "scale=smoke"),
        ("thinkrl evaluate --model ti", "tiny"),
        ("thinkrl list rec", "recipes"),
        ("thinkrl do", "doctor"),
    ],
)
def test_completion_knows_recipes_groups_and_models(words: str, expected: str) -> None:
    position = str(len(words.split()) - 1)
    environment = {"_THINKRL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
    program = "import sys; sys.argv = ['thinkrl']; from thinkrl.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | environment, check=False
    )
    assert expected in done.stdout.split()
