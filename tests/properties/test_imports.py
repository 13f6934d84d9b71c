"""The rooms import downwards, without a circle (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "thinkrl"

BELOW = {
    "config": set(),
    "rollouts": set(),
    "grading": {"rollouts", "config"},
    "tracking": {"rollouts", "config"},
    "sandbox": {"config"},
    "parallel": {"tracking", "config"},
    "data": {"tracking", "rollouts", "config"},
    "tasks": {"data", "grading", "rollouts", "config"},
    "models": {"config"},
    "kernels": set(),
    "sampling": {"kernels", "models", "parallel", "rollouts", "config"},
    "rewards": {"grading", "rollouts", "config"},
    "algorithms": {"sampling", "rollouts", "config"},
    "learning": {"kernels", "algorithms", "sampling", "models", "parallel", "rollouts", "config"},
    "environments": {"sandbox", "judges", "sampling", "models", "data", "tasks", "rollouts", "config"},
    "benchmarks": {"environments", "sampling", "models", "data", "grading", "rollouts", "config"},
}
BELOW["companions"] = {"probes", "algorithms", "rewards", "learning", "sampling", "models", "rollouts", "config"}
BELOW["judges"] = {"sampling", "models", "data", "grading", "rollouts", "tracking", "config"}
BELOW["companions"] |= {"judges", "environments", "grading"}
BELOW["companions"] |= {"data", "grading"}
BELOW["probes"] = {"algorithms", "sampling", "models", "rollouts", "config"}
BELOW["reproduction"] = {"benchmarks", "tracking", "rollouts", "config"}
BELOW["reports"] = {"reproduction", *BELOW["reproduction"]}
BELOW["viewer"] = {"reports", "tracking", "rollouts", "config"}
BELOW["search"] = {"environments", "sampling", "models", "data", "grading", "rollouts", "config"}
BELOW["tabular"] = {"rollouts", "config"}
BELOW["stages"] = {*BELOW, "tracking"}
BELOW["planning"] = {"stages", *BELOW["stages"]}
BELOW["sweeps"] = {"stages", *BELOW["stages"]}
BELOW["cli"] = {*BELOW}


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("thinkrl.")}


def test_every_room_has_a_place() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(BELOW)


@pytest.mark.parametrize("room", sorted(BELOW))
def test_imports_run_downwards(room: str) -> None:
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for name in imports(path):
            other = name.split(".")[1]
            if other in BELOW and other != room:
                assert other in BELOW[room], f"{path.name} in {room}/ imports {name}"


@pytest.mark.parametrize("room", ["rewards", "algorithms"])
def test_rewards_and_algorithms_know_contracts_only(room: str) -> None:
    allowed = ("thinkrl.sampling.sampler",)
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for name in imports(path):
            if name.startswith(("thinkrl.sampling.", "thinkrl.learning.")):
                assert name.startswith(allowed), f"{path.name} in {room}/ imports {name}"


def test_files_import_each_other_without_a_circle() -> None:
    modules = {
        ".".join(["thinkrl", *path.relative_to(PACKAGE).with_suffix("").parts]): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }
    edges = {name: imports(path) & modules.keys() for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(modules):
        visit(name, ())
