from pathlib import Path

import pytest

from thinkrl.config import paths
from thinkrl.config.component import ConfigError
from thinkrl.config.nearest import nearest, suggestion
from thinkrl.config.paths import conf_dir, find_recipe, label, list_recipes


def test_recipes_are_listed_with_laptop_as_the_plain_id(project: Path) -> None:
    found = [(recipe.family, recipe.id) for recipe in list_recipes()]
    assert found == [("first", "sample"), ("first", "sample/paper"), ("second", "single")]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sample", "first/sample/laptop.yaml"),
        ("first/sample", "first/sample/laptop.yaml"),
        ("sample/laptop", "first/sample/laptop.yaml"),
        ("sample/paper", "first/sample/paper.yaml"),
        ("first/sample/paper", "first/sample/paper.yaml"),
        ("single", "second/single.yaml"),
        ("recipes/second/single.yaml", "second/single.yaml"),
        ("recipes/first/sample", "first/sample/laptop.yaml"),
    ],
)
def test_a_recipe_is_found_by_every_name_it_has(project: Path, name: str, file: str) -> None:
    assert find_recipe(name).path == project / "recipes" / file


def test_only_a_paper_form_answers_to_the_plain_name(project: Path) -> None:
    (project / "recipes/first/sample/laptop.yaml").unlink()
    found = find_recipe("sample")
    assert (found.id, found.path.name) == ("sample/paper", "paper.yaml")


@pytest.mark.parametrize(("typo", "hint"), [("sampel", "sample"), ("singel", "single"), ("Sample", "sample")])
def test_an_unknown_recipe_names_the_nearest(project: Path, typo: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"no recipe '{typo}': did you mean {hint}\?"):
        find_recipe(typo)


def test_a_missing_file_names_the_nearest_beside_it(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean single\.yaml\?"):
        find_recipe("recipes/second/singel.yaml")


def test_user_folders_come_first_and_must_exist(project: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "single.yaml").write_text("name: mine\n")
    assert find_recipe("single", [mine]).path == mine / "single.yaml"
    with pytest.raises(ConfigError, match="is not a folder"):
        list_recipes([tmp_path / "nowhere"])


def test_labels_name_the_shipped_folders_and_else_the_place_from_here(project: Path) -> None:
    assert label(project / "conf/reward/bonus.yaml") == "conf/reward/bonus.yaml"
    assert label(project / "recipes/second/single.yaml") == "recipes/second/single.yaml"
    assert label(project / "my/own.yaml") == "my/own.yaml"
    assert label(Path("/elsewhere/own.yaml")) == "/elsewhere/own.yaml"


def test_an_installed_package_reads_its_own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "thinkrl"
    package.mkdir(parents=True)
    monkeypatch.setattr(paths, "_PACKAGE", package)
    assert conf_dir() == tmp_path / "site-packages" / "conf"
    (package / "_conf").mkdir()
    assert conf_dir() == package / "_conf"


def test_nearest_prefers_close_names_and_gives_up_on_far_ones() -> None:
    assert nearest("stpes", ["steps", "epochs"]) == "steps"
    assert nearest("STEPS", ["steps"]) == "steps"
    assert nearest("zzz", ["steps", "epochs"]) is None
    assert suggestion("zzz", ["b", "a"]) == "known: a, b"
    assert suggestion("zzz", [f"key{i:02}" for i in range(14)]).endswith("key11 and 2 more")
