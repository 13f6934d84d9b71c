import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from config_samples import Bonus, CappedBonus, Grpo, Model, Root, Shape, Spec, Term

from thinkrl.config.build import build
from thinkrl.config.component import ConfigError, NewTokens, Sized
from thinkrl.config.compose import compose

BONUS = {"_target_": "config_samples.Bonus", "target_tokens": 3}


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Callable0:
    def __call__(self) -> None: ...


def refusal(annotation: Any, node: Any, path: str = "key") -> str:
    with pytest.raises(ConfigError) as caught:
        build(annotation, node, path=path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "node", "built"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float, 1e-5, 1e-5),
        (str, "3", "3"),
        (bool, True, True),
        (Path, "a/b", Path("a/b")),
        (int | None, None, None),
        (int | float, 3, 3),
        (float | int, 3, 3),
        (float | str, "x", "x"),
        (Annotated[int, Sized("steps")], 4, 4),
        (NewTokens | None, 4, 4),
        (Literal["a", 1], 1, 1),
        (Shape, "linear", Shape.LINEAR),
        (Shape, "COSINE", Shape.COSINE),
        (Colour, "blue", Colour.BLUE),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (Sequence[str], ["a"], ("a",)),
        (frozenset[str], ["a", "a"], frozenset({"a"})),
        (dict[str, tuple[int, ...]], {"a": [1]}, {"a": (1,)}),
        (Mapping[str, int | None], {"a": None, "b": 2}, {"a": None, "b": 2}),
        (Any, {"a": [1, BONUS]}, {"a": [1, Bonus(3)]}),
        (Spec, {"new_tokens": 5}, Spec(5)),
        (Term, BONUS, Bonus(3)),
        (float | Term, BONUS, Bonus(3)),
        (Bonus, {"_target_": "config_samples.CappedBonus", "target_tokens": 1}, CappedBonus(1)),
        (dict[str, Term], {"x": BONUS}, {"x": Bonus(3)}),
    ],
)
def test_values_that_fit_become_what_the_type_says(annotation: Any, node: Any, built: Any) -> None:
    found = build(annotation, node)
    assert found == built
    assert type(found) is type(built)


@pytest.mark.parametrize(
    ("annotation", "node", "says"),
    [
        (int, 3.0, "expected a whole number, got 3.0"),
        (int, True, "expected a whole number, got true"),
        (int, "3", "write 3 without quotes"),
        (float, "1e-5", "expected a number, got the text '1e-5'"),
        (float, "1e-5", "write 1e-5 without quotes"),
        (float, False, "expected a number, got false"),
        (str, 3, "write the text in quotes"),
        (str, None, "expected text, got null"),
        (bool, 1, "expected true or false, got 1"),
        (bool, "yes", "write true or false"),
        (Path, 1, "expected a path, got 1"),
        (int | None, "x", "expected int | null, got the text 'x'"),
        (Literal["step", "ramp"], "rmap", "did you mean ramp?"),
        (Literal[1, 2], True, "expected one of 1, 2, got true"),
        (Colour, "rde", "did you mean red?"),
        (Colour, None, "got null"),
        (tuple[int, ...], 3, "write a list: [a, b]"),
        (tuple[int, ...], [1, "x"], "key.1: expected a whole number"),
        (tuple[int, str], [1], "expected 2 values, got 1"),
        (tuple[str, ...], "abc", "got the text 'abc'"),
        (list[int], {"a": 1}, "got a mapping"),
        (dict[str, int], {"a": "x"}, "key.a: expected a whole number"),
        (dict[str, int], [1], "got the list [1]"),
        (dict[str, int], {1: 1}, "key.1: expected text, got 1"),
        (dict[str, Any], BONUS, "got a mapping"),
        (Spec, 3, "expected a component (Spec), got 3"),
        (Term, {"target_tokens": 3}, "there is no _target_"),
        (Term, {"_target_": "config_samples.Silent"}, "expected a Term, but Silent has no score"),
        (Spec, BONUS, "expected a Spec, but Bonus is not one"),
        (float | Term, {"_target_": "config_samples.Bonus", "target_tokns": 3}, "did you mean target_tokens?"),
        (float | Term, "x", "expected float | Term, got the text 'x'"),
        (Spec | Term, {"_target_": "config_samples.Bonus", "new_tokens": 3}, "(Bonus has: target_tokens, bonus, mode)"),
        (Spec | Term | None, {"_target_": "config_samples.Silent"}, "but Silent is none of these"),
        (float | Term, {"_target_": "config_samples.Bnous"}, "did you mean Bonus?"),
        (tuple[int, ...] | None, [1, "x"], "key.1: expected a whole number"),
        (dict[str, int] | int, {"a": "x"}, "key.a: expected a whole number"),
        (int, "???", "must be set: a whole number"),
        (Any, {"_target_": "config_samples.Bnous"}, "config_samples has no Bnous; did you mean Bonus?"),
        (Any, {"_target_": "config_samplse.Bonus"}, "there is no module config_samplse"),
        (Any, {"_target_": "thinkrl.confg.scale.Scale"}, "there is no module thinkrl.confg; did you mean config?"),
        (Any, {"_target_": "thinkrl.config.scael.Scale"}, "did you mean scale?"),
        (Any, {"_target_": "Bonus"}, "_target_ must be module.Class"),
        (Any, {"_target_": 3}, "_target_ must be module.Class, got 3"),
        (Any, {"_target_": "config_samples.Thawed"}, "is not a frozen dataclass"),
        (Any, {"_target_": "os.system", "command": "true"}, "is not a frozen dataclass"),
        (Any, {**BONUS, "_partial_": True}, "unknown key '_partial_'"),
        (Spec, {1: 2}, "key.1: unknown key 1"),
    ],
)
def test_values_that_do_not_fit_say_where_what_and_what_to_do(annotation: Any, node: Any, says: str) -> None:
    message = refusal(annotation, node)
    assert says in message
    assert "key" in message


def test_a_callable_protocol_needs_a_call_method() -> None:
    from typing import Protocol

    class Objective(Protocol):
        def __call__(self, inputs: int) -> int: ...

    assert "Bonus has no __call__" in refusal(Objective, BONUS)


def test_a_module_that_fails_to_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_parts.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "failing_parts.py").write_text("1 / 0\n")
    assert "No module named 'not_installed_anywhere'" in refusal(Any, {"_target_": "broken_parts.X"})
    assert "ZeroDivisionError" in refusal(Any, {"_target_": "failing_parts.X"})


def test_a_refusal_of_the_component_itself_carries_the_key_it_is_about() -> None:
    assert "key.bonus: must be 0 or more, got -1.0" in refusal(Term, {**BONUS, "bonus": -1})


def test_all_problems_come_in_one_message_each_with_who_set_it(project: Path) -> None:
    overrides = ["stages.grpo.stpes=1", "reward.bonus=-2", "model.size=x", "seed=null", "stages.cold_start.epochs=1.5"]
    composed = compose("sample", [*overrides, "~stages.cold_start.learning_rate"])
    with pytest.raises(ConfigError) as caught:
        build(Root, composed.tree, composed)
    message = str(caught.value)
    assert message.startswith("sample: 6 problems in the configuration")
    for key, override in {
        "stages.grpo.stpes": overrides[0],
        "reward.bonus": overrides[1],
        "model.size": overrides[2],
        "seed": overrides[3],
        "stages.cold_start.epochs": overrides[4],
    }.items():
        assert any(line.startswith(f"  {key}: ") and f"override {override}" in line for line in message.splitlines())
    assert "stages.cold_start.learning_rate: must be set: Sft needs it (set by conf/stage/sft.yaml)" in message


def test_keys_left_over_from_another_choice_name_who_chose(project: Path) -> None:
    (project / "mine.yaml").write_text("defaults: [/first/sample/paper, _self_]\nreward: {limit: 3}\n")
    composed = compose("mine.yaml")
    with pytest.raises(ConfigError, match=r"(?s)reward\.limit: unknown key.*mine\.yaml.*chosen by conf/reward/bonus"):
        build(Root, composed.tree, composed)


def test_a_whole_recipe_is_built(project: Path) -> None:
    composed = compose("sample")
    root = build(Root, composed.tree, composed)
    assert root.model == Model(900, "bfloat16")
    assert root.reward == Bonus(50)
    assert isinstance(root.stages["grpo"], Grpo)
    assert root.stages["grpo"].reward == Bonus(50, bonus=2.0)
    assert root.stages["grpo"].spec == Spec()


def test_types_that_no_configuration_can_have_are_a_programming_error() -> None:
    @dataclass(frozen=True)
    class Odd:
        key: "Undefined"  # type: ignore[name-defined]  # noqa: F821

    assert "cannot be resolved" in refusal(Odd, {"key": 1})
