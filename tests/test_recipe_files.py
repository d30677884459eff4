"""From a name to a Recipe: finding, extending, overriding, and saying what is wrong and where."""

import random
from pathlib import Path
from typing import Any

import pytest

from distill import recipe_files
from distill.errors import RecipeError
from distill.recipe import Recipe
from distill.recipe_files import Problem, explain, find_recipe, fingerprint, list_recipes, load_recipe, read_draft, to_yaml

BASE = """\
student: {model: resnet18}
losses:
  ce: {}
  kd: {temperature: 4, weight: 2}
data: {}
train:
  epochs: 10
  lr: 1e-1
  milestones: [0.2, 0.5]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one part and one recipe that extends it; the checkout's own recipes are out of sight."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipe_files, "__file__", str(tmp_path / "site" / "distill" / "recipe_files.py"))
    write("recipes/base/common.yaml", BASE)
    write("recipes/imagenet/r50_to_r18.yaml", "extends: base/common\nlosses:\n  kd: {temperature: 2}\n")
    return tmp_path


def write(path: str, content: str | bytes) -> Path:
    """Writes a file below the working folder."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def refusal(content: str | bytes | None = None, *overrides: str) -> str:
    """What is said of a file with this content, or of the recipe with these overrides."""
    if content is not None:
        write("mine.yaml", content)
    with pytest.raises(RecipeError) as caught:
        load_recipe("imagenet/r50_to_r18" if content is None else "mine.yaml", overrides)
    return str(caught.value)


def overridden(*overrides: str) -> Recipe:
    return load_recipe("imagenet/r50_to_r18", overrides)


# finding


def test_recipe_is_found_by_name_path_and_run_folder():
    write("runs/first/recipe.resolved.yaml", to_yaml(overridden("seed=7")))
    assert load_recipe("imagenet/r50_to_r18") == load_recipe("recipes/imagenet/r50_to_r18.yaml") == overridden()
    assert load_recipe("runs/first").seed == 7
    assert [read_draft(name).name for name in ("imagenet/r50_to_r18", "runs/first")] == ["imagenet/r50_to_r18", "first"]
    assert read_draft(write("x/mine.yml", BASE)).name == "mine"


def test_own_folder_comes_before_the_checkout_and_the_installed_package():
    shipped, checkout = write("site/distill/recipes/a.yaml", BASE), write("site/recipes/a.yaml", BASE)
    assert find_recipe("a") == shipped.absolute()  # without a pyproject.toml the folder beside the package is somebody else's
    write("site/pyproject.toml", "")
    assert find_recipe("a") == checkout.absolute()
    own = write("recipes/a.yaml", BASE)
    assert find_recipe("a") == own.absolute()


def test_recipes_are_listed_without_parts_and_without_other_files():
    write("site/distill/recipes/b.yaml", BASE)
    write("recipes/notes.txt", "")
    assert list(list_recipes()) == ["b", "imagenet/r50_to_r18"]


@pytest.mark.parametrize("name", ["imagenet/r50_to_r81", "r50_to_r18", "nothing", "", "a\0b", "x" * 5000, "../x", "no.yaml", "/", "~", "recipes"])
def test_unknown_name_is_refused_with_what_exists(name: str):
    with pytest.raises(RecipeError, match=r"there is no recipe or file .*recipes: imagenet/r50_to_r18"):
        find_recipe(name)


def test_unknown_name_gets_the_nearest_recipe():
    with pytest.raises(RecipeError, match="did you mean 'imagenet/r50_to_r18'"):
        find_recipe("r50_to_r18")


def test_part_is_not_a_recipe():
    with pytest.raises(RecipeError, match="'base/common' is a part that recipes extend"):
        find_recipe("base/common")


# extending


def test_mappings_are_merged_lists_replaced_and_null_removes_a_loss():
    write("mine.yaml", "extends: imagenet/r50_to_r18\nlosses: {ce: null}\ntrain: {milestones: [0.9]}\n")
    built = load_recipe("mine.yaml")
    assert list(built.losses) == ["kd"]
    assert built.losses["kd"].weight == 2
    assert built.losses["kd"].model_extra == {"temperature": 2}
    assert (built.train.milestones, built.train.epochs, built.train.lr) == ([0.9], 10, 0.1)


def test_later_parent_wins_over_earlier_and_file_over_both():
    write("a.yaml", "seed: 1\ndescription: a\nrun_name: a")
    write("b.yaml", "seed: 2\ndescription: b")
    write("mine.yaml", "extends: [base/common, a, b.yaml]\nseed: 3\n")
    built = load_recipe("mine.yaml")
    assert (built.seed, built.description, built.run_name) == (3, "b", "a")


def test_parent_may_be_named_from_the_extending_files_folder_with_dots_inside_the_recipe_folder():
    write("recipes/deep/x.yaml", "extends: ../base/common")
    assert load_recipe("deep/x").train.epochs == 10


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "../secret.yaml", "~/secret", "recipes/../../secret", "link"])
def test_extends_does_not_leave_the_recipes_folders(name: str):
    secret = write("secret.yaml", BASE)
    Path("home").mkdir()
    Path("home/link.yaml").symlink_to(secret.absolute())
    write("home/mine.yaml", f"extends: {name}")
    with pytest.raises(RecipeError, match=r"^home/mine.yaml:1: extends: '.*' is outside this recipe's folder"):
        load_recipe("home/mine.yaml")


def test_circle_is_shown():
    write("a.yaml", "extends: b")
    write("b.yaml", "\nextends: [base/common, a]")
    with pytest.raises(RecipeError, match=r"^b.yaml:2: extends: goes in a circle: a.yaml -> b.yaml -> a.yaml$"):
        load_recipe("a.yaml")
    write("c.yaml", "extends: c")
    with pytest.raises(RecipeError, match="circle: c.yaml -> c.yaml"):
        load_recipe("c.yaml")


def test_ten_levels_are_read_and_eleven_refused():
    for level in range(1, 12):
        write(f"level{level}.yaml", f"extends: level{level - 1}")
    write("level0.yaml", BASE)
    assert load_recipe("level10.yaml").train.epochs == 10
    with pytest.raises(RecipeError, match="more than 10 levels"):
        load_recipe("level11.yaml")


def test_many_parents_at_many_levels_are_refused():
    for level in range(1, 9):
        write(f"level{level}.yaml", f"extends: [{', '.join([f'level{level - 1}'] * 9)}]")
    write("level0.yaml", BASE)
    with pytest.raises(RecipeError, match="100 files"):
        load_recipe("level8.yaml")


@pytest.mark.parametrize("value, words", [("3", "got 3"), ("{a: b}", "got {'a': 'b'}"), ("[a, [b]]", "got ['b']"), ("''", "got ''"), ("", "got null")])
def test_extends_takes_names_only(value: str, words: str):
    assert refusal(f"extends: {value}") == f"mine.yaml:1: extends: must be a recipe's name or a list of names, {words}"


def test_unknown_parent_gets_the_nearest_name():
    assert refusal("seed: 1\nextends: base/comon") == "mine.yaml:2: extends: there is no recipe 'base/comon'; did you mean 'base/common'?"


def test_loss_without_a_value_is_not_silently_dropped():
    message = refusal("extends: base/common\nlosses:\n  kd: null\n  mse:\n")
    assert message.startswith("mine.yaml:4: losses.mse: null removes an inherited loss, but none is inherited")


# reading YAML

BROKEN = [
    (b"description: caf\xe9", "mine.yaml:1: is not UTF-8 (byte 0xe9 at line 1)"),
    (b"seed: 1\n\nx: \xff", "mine.yaml:3: is not UTF-8 (byte 0xff at line 3)"),
    ("", "mine.yaml: is empty"),
    ("# nothing\n", "mine.yaml: is empty"),
    ("---\nnull\n", "mine.yaml:2: a recipe must be a mapping (key: value), not null"),
    ("- a\n- b\n", "a recipe must be a mapping (key: value), not ['a', 'b']"),
    ("seed: 1\nseed: 2\n" + BASE, "mine.yaml:2: seed: given twice, on lines 1 and 2"),
    (BASE + "  epochs: 3\n", "mine.yaml:10: train.epochs: given twice, on lines 7 and 10"),
    (BASE + "1: 2\n", "mine.yaml:10: 1: a key must be text"),
    (BASE + "? [a]\n: b\n", "mine.yaml:10: ?: a key must be text"),
    (BASE + "x: &a {lr: 1}\ny: {<<: *a}", "mine.yaml:11: y.<<: merge keys are not supported: use extends"),
    (BASE + "seed: !!python/object/apply:os.system [id]", "mine.yaml:10: seed: the tag tag:yaml.org,2002:python/object/apply:os.system is not"),
    (BASE + "seed: !mine 3", "mine.yaml:10: seed: the tag !mine is not allowed"),
    (BASE + "seed: !!set {a}", "set is not allowed"),
    (BASE + "seed: !!binary aGk=", "binary is not allowed"),
    (BASE + "seed: !!int 0x10", "seed: '0x10' can't be read as int"),
    (BASE + 'run_name: "a\\0"', "can't be read as text"),
    (BASE + 'run_name: "\\ud800"', "can't be read as text"),
    (BASE + 'run_name: "\\U99999999"', "not valid YAML"),
    (BASE + "seed: " + "9" * 5000, "not valid YAML"),
    (BASE + "seed: [1,", "mine.yaml:10: not valid YAML"),
    ("seed: 1\n\tx: 2", "mine.yaml:2: not valid YAML: found character '\\t' that cannot start any token; indent with spaces, not tabs"),
    ("a: 1\x00", "the character '\\x00' is not allowed"),
    ("a: 1\n---\nb: 2", "not valid YAML"),
    ("a: *b", "mine.yaml:1: not valid YAML: found undefined alias 'b'"),
    ("x: &a [1]\ny: [" + "*a, " * 101 + "]", "more than 100 aliases"),
    ("a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmnopq", "bcdefghijklmnopqr", strict=True)), "20000 values"),
    ("a: &a [*a]", "levels of nesting"),
    ("[" * 100_000, "more than 30 levels of nesting"),
    ("a: " * 3, "not valid YAML"),
    ("#" * (2**20 + 1), "mine.yaml: is larger than 1 MiB"),
]


@pytest.mark.parametrize("content, words", BROKEN, ids=range(len(BROKEN)))
def test_broken_file_is_refused_with_its_place(content: str | bytes, words: str):
    assert words in refusal(content)
