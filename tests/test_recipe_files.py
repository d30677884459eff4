"""From a name to a Recipe: finding, extending, overriding, and saying what is wrong and where."""

import random
from pathlib import Path
from typing import Any

import pytest

from distill import recipe_search
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
    monkeypatch.setattr(recipe_search, "__file__", str(tmp_path / "site" / "distill" / "recipe_search.py"))
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


UNKNOWN = ["imagenet/r50_to_r81", "r50_to_r18", "nothing", "", "a\0b", "x" * 5000, "../x", "no.yaml", "/", "~", "recipes"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_name_is_refused_with_where_to_look(name: str):
    with pytest.raises(RecipeError, match=r"there is no recipe or file .* \(distill recipes list says which there are\)"):
        find_recipe(name)


def test_unknown_name_gets_the_nearest_recipe():
    with pytest.raises(RecipeError, match="did you mean 'imagenet/r50_to_r18'"):
        find_recipe("r50_to_r18")


def test_last_part_of_a_name_is_enough_for_the_hint():
    write("recipes/losses/kd.yaml", BASE)
    with pytest.raises(RecipeError, match="did you mean 'losses/kd'"):
        find_recipe("kd")
    with pytest.raises(RecipeError, match="did you mean 'losses/kd'"):
        find_recipe("kdd.yaml")


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
    with pytest.raises(RecipeError, match=r"circle: c.yaml -> c.yaml"):
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


NO_NAMES = [("3", "got 3"), ("{a: b}", "got {'a': 'b'}"), ("[a, [b]]", "got ['b']"), ("''", "got ''"), ("", "got null")]


@pytest.mark.parametrize("value, words", NO_NAMES)
def test_extends_takes_names_only(value: str, words: str):
    assert refusal(f"extends: {value}") == f"mine.yaml:1: extends: must be a recipe's name or a list of names, {words}"


def test_unknown_parent_gets_the_nearest_name():
    assert refusal("seed: 1\nextends: base/comon") == "mine.yaml:2: extends: there is no recipe 'base/comon'; did you mean 'base/common'?"


@pytest.mark.parametrize("name", ["x" * 5000, "loop", "a/" * 3000])
def test_parent_that_no_file_can_be_is_not_found(name: str):
    Path("loop.yaml").symlink_to("loop.yaml")
    assert "extends: there is no recipe" in refusal(f"extends: {name}")


def test_loss_without_a_value_is_not_silently_dropped():
    message = refusal("extends: base/common\nlosses:\n  kd: null\n  mse:\n")
    assert message.startswith("mine.yaml:4: losses.mse: null removes an inherited loss, but none is inherited")


# reading YAML

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40))
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
    (BASE + "? !!str [a]\n: b\n", "mine.yaml:10: ?: a key must be text"),
    (BASE + "x: &a {lr: 1}\ny: {<<: *a}", "mine.yaml:11: y.<<: merge keys are not supported: use extends"),
    (BASE + "seed: !!python/object/apply:os.system [id]", "mine.yaml:10: seed: the tag tag:yaml.org,2002:python/object/"),
    (BASE + "seed: !mine 3", "mine.yaml:10: seed: the tag !mine is not allowed"),
    (BASE + "seed: !!set {a}", "set is not allowed"),
    (BASE + "seed: !!binary aGk=", "binary is not allowed"),
    (BASE + "seed: !!int 0x10", "seed: '0x10' can't be read as int"),
    (BASE + 'run_name: "a\\0"', "can't be read as text"),
    (BASE + 'run_name: "\\N"', "can't be read as text"),
    (BASE + 'run_name: "\\ud800"', "can't be read as text"),
    (BASE + 'run_name: "\\U99999999"', "not valid YAML"),
    (BASE + "seed: " + "9" * 5000, "not valid YAML"),
    (BASE + "seed: [1,", "mine.yaml:10: not valid YAML"),
    ("seed: 1\n\tx: 2", "mine.yaml:2: not valid YAML: "),
    ("seed: 1\n\tx: 2", "found character '\\t' that cannot start any token; indent with spaces, not tabs"),
    ("a: &x 1\nb: &x 2", "mine.yaml:2: not valid YAML: found duplicate anchor 'x'"),
    ("a: [" + "1," * 20_000 + "]", "more than 20000 keys and values"),
    ("a: 1\x00", "the character '\\x00' is not allowed"),
    ("a: 1\n---\nb: 2", "not valid YAML"),
    ("a: *b", "mine.yaml:1: not valid YAML: found undefined alias 'b'"),
    ("x: &a [1]\ny: [" + "*a, " * 101 + "]", "more than 100 aliases"),
    (BOMB, "more than 20000 values"),
    ("a: &a [*a]", "levels of nesting"),
    ("[" * 100_000, "more than 30 levels of nesting"),
    ("a: " * 3, "not valid YAML"),
    ("#" * (2**20 + 1), "mine.yaml: is larger than 1 MiB"),
]


@pytest.mark.parametrize("content, words", BROKEN, ids=range(len(BROKEN)))
def test_broken_file_is_refused_with_its_place(content: str | bytes, words: str):
    assert words in refusal(content)


def test_numbers_and_words_are_read_as_people_expect():
    written = "{a: 1e-3, b: -1E5, c: 1_000, d: 010, e: .5, f: 2., g: no, h: 12:30, i: 2024-01-02, j: ~, k: true, l: 1e, m: +3, n: ''}"
    expected = {"a": 0.001, "b": -1e5, "c": 1000, "d": 10, "e": 0.5, "f": 2.0, "g": "no", "h": "12:30", "i": "2024-01-02", "j": None}
    read = overridden(f"data.arguments={written}").data.arguments
    assert read == expected | {"k": True, "l": "1e", "m": 3, "n": ""}
    assert {key: type(value) for key, value in read.items() if key in "cdk"} == {"c": int, "d": int, "k": bool}


def test_alias_repeats_a_value():
    assert overridden("data.arguments={a: &x [1, 2], b: *x}").data.arguments == {"a": [1, 2], "b": [1, 2]}


def test_unreadable_file_is_refused(monkeypatch: pytest.MonkeyPatch):
    def deny(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(RecipeError, match=r"r50_to_r18.yaml: can't be read: Permission denied"):
        load_recipe("imagenet/r50_to_r18")


# overriding


def test_override_sets_what_it_says():
    losses = ["losses.kd.note=a=b=c", "losses.mse={weight: 1e-2}", "losses.ce=null"]
    built = overridden("train.epochs=3", *losses, "train.milestones=[0.1]", "~train.lr", "train.lr=2")
    assert built.losses["kd"].model_extra == {"temperature": 2, "note": "a=b=c"}
    assert (list(built.losses), built.losses["mse"].weight) == (["kd", "mse"], 0.01)
    assert (built.train.epochs, built.train.milestones, built.train.lr) == (3, [0.1], 2.0)


def test_overrides_apply_in_order_and_fill_what_was_null():
    assert overridden("seed=1", "seed=2").seed == 2
    built = overridden("teacher=null", "teacher.model=resnet50", "teacher.weights=w", "~losses", "losses={ce: {}}")
    assert (built.teacher.model, list(built.losses)) == ("resnet50", ["ce"])


OVERRIDES = [
    ("foo", "override `foo`: is not of the form key=value"),
    ("", "is not of the form"),
    ("=3", "override `=3`: is not of the form"),
    ("a..b=1", "override `a..b=1`: is not of the form"),
    (".seed=1", "is not of the form"),
    ("~", "is not of the form"),
    ("~seed=1", "is not of the form"),
    ("a." * 100 + "b=1", "is not of the form"),
    ("seed=", "override `seed=`: seed: has no value; write null for none"),
    ("seed=# 1", "seed: has no value"),
    ("seed.x=1", "override `seed.x=1`: seed: must be a whole number, got {'x': 1}"),
    ("train.lr.x=1", "override `train.lr.x=1`: train.lr.x: train.lr is 0.1, not a mapping"),
    ("~train.lr.x", "train.lr is 0.1, not a mapping"),
    ("train.milestones.0=1", "train.milestones is [0.2, 0.5], not a mapping"),
    ("~train.epoch", "train.epoch: is not written in the recipe, so it can't be removed; did you mean '~train.epochs'?"),
    ("~seed", "seed: is not written in the recipe"),
    ("~student", "student: must be given"),
    ("train.epochz=3", "override `train.epochz=3`: train.epochz: unknown key; did you mean 'epochs'?"),
    ("train.epochs=[1", "override `train.epochs=[1`: train.epochs: not valid YAML"),
    ("train.epochs=!!python/name:os.x", "train.epochs: the tag tag:yaml.org,2002:python/name:os.x is not allowed"),
    ("losses.kd={a: 1, a: 2}", "losses.kd.a: given twice"),
    ("losses.mse=null", "losses.mse: null removes an inherited loss, but none is inherited"),
    ("losses=null", "losses: must be a mapping"),
    ("train.lr=null", "train.lr: must be a number, got null"),
    ("run_name=a\udcff", "is not allowed"),
    ("x\x1b[31m=1", "unknown key"),
]


@pytest.mark.parametrize("override, words", OVERRIDES, ids=range(len(OVERRIDES)))
def test_senseless_override_is_refused(override: str, words: str):
    message = refusal(None, override)
    assert words in message
    assert message.isprintable()


# finishing


def test_all_problems_are_told_at_once_each_with_its_place():
    write("mine.yaml", "extends: base/common\nlosses:\n  kd: {weight: -1, temprature: 2}\ntrian: 3\nseed: 1\nseed: 2\n")
    draft = read_draft("mine.yaml", ["foo", "train.lr=abc", "data.augment={crop: x}"])
    extra = [Problem("losses.kd.temprature", "unknown; did you mean 'temperature'?"), Problem("train", "too long", "the other layer")]
    with pytest.raises(RecipeError) as caught:
        draft.finish([*extra, extra[0]])
    crops = "'none', 'padded' or 'random_resized'"
    assert sorted(str(caught.value).splitlines()) == sorted(
        [
            "mine.yaml:6: seed: given twice, on lines 5 and 6",
            "override `foo`: is not of the form key=value, key.key=value or ~key",
            "mine.yaml:3: losses.kd.weight: must be 0 or more, got -1",
            "mine.yaml:4: trian: unknown key; did you mean 'train'?",
            "override `train.lr=abc`: train.lr: must be a number, got 'abc'",
            f"override `data.augment={{crop: x}}`: data.augment.crop: must be one of {crops}, got 'x'",
            "mine.yaml:3: losses.kd.temprature: unknown; did you mean 'temperature'?",
            "the other layer: train: too long",
        ]
    )


def test_problem_of_another_layer_alone_stops_the_recipe():
    with pytest.raises(RecipeError, match=r"^recipes/base/common.yaml:1: student.model: not known$"):
        read_draft("imagenet/r50_to_r18").finish([Problem("student.model", "not known")])


def test_missing_value_is_reported_at_the_mapping_around_it():
    assert refusal(BASE.replace("  epochs: 10\n", "")) == "mine.yaml:6: train.epochs: must be given"
    assert "mine.yaml:1: student: must be given" in refusal("seed: 1")


def test_merged_values_lie_on_top_and_leave_the_first_draft_alone():
    draft = read_draft("imagenet/r50_to_r18")
    derived = draft.merged({"train": {"epochs": 2}, "losses": {"kd": None}, "student": {"std": (1, 1, 0)}}, "teacher.overrides")
    assert (derived.values["train"], list(derived.values["losses"])) == ({"epochs": 2, "lr": 0.1, "milestones": [0.2, 0.5]}, ["ce"])
    assert (derived.origin("train.epochs"), derived.origin("train.lr")) == ("teacher.overrides", "recipes/base/common.yaml:8")
    assert draft.finish().train.epochs == 10
    with pytest.raises(RecipeError, match=r"^teacher.overrides: student.std.2: must be more than 0, got 0$"):
        derived.finish()


def test_explain_names_every_value_with_its_origin():
    draft = read_draft("imagenet/r50_to_r18", ["train.milestones=[0.9]", "teacher=null"])
    rows = {path: (value, origin) for path, value, origin in explain(draft, draft.finish())}
    assert rows["losses.kd.temperature"] == (2, "recipes/imagenet/r50_to_r18.yaml:3")
    assert rows["losses.kd.weight"] == (2.0, "recipes/base/common.yaml:4")
    assert rows["train.milestones"] == ([0.9], "override `train.milestones=[0.9]`")
    assert rows["teacher"] == (None, "override `teacher=null`")
    assert rows["data.augment.flip"] == (0.5, "default")
    assert len(rows) == 15 + 10 + 5 + 28 + 24  # top level, student, losses, data, train


def test_resolved_recipe_loads_to_an_equal_one():
    awkward = ["1e3", "no", "yes", "12:30", "2024-01-02", "010", "0x10", "null", "~", "<<", "=", ".inf", "1_0", "'\"", "é☃"]
    awkward += ["", "a\nb", "\u2028", "\ufeff", "# x", "- a", "a: b", " a ", "\t", "\r"]
    teacher = "teacher={model: resnet50, recipe: r50, overrides: {train: {lr: 1e-9}}, claimed_top1: 0.8}"
    draft = read_draft("imagenet/r50_to_r18", [teacher])
    odd = {text or "empty": text for text in awkward}
    odd |= {"list": awkward, "nested": {"a": [{"b": 1e300}, [], {}]}, "same": [awkward, awkward]}
    built = draft.merged({"data": {"arguments": odd}, "losses": {"kd": {"x": [1, 1.0, True, None]}}}, "test").finish()
    again = load_recipe(write("again.yaml", to_yaml(built)))
    assert again == built
    assert again.data.arguments == odd
    assert fingerprint(again) == fingerprint(built)


def test_fingerprint_changes_with_what_decides_the_result_only():
    teacher = "teacher={model: resnet50, recipe: r50}"
    first = fingerprint(overridden(teacher))
    assert len(first) == 64
    aside = ["description=x", "run_name=x", "runs_dir=x", "control=true", "data.workers=3", "train.log_every=7"]
    aside += ["teacher.check=false", "teacher.claimed_top1=0.5", "tracking=[tensorboard, mlflow]"]
    assert {fingerprint(overridden(teacher, override)) for override in aside} == {first}
    deciding = ["seed=1", "train.lr=0.2", "losses.kd.temperature=3", "losses.ce.weight=2", "data.view_seed=1"]
    deciding += ["teacher.model=x", "~teacher", "student.norm=group"]
    assert len({fingerprint(overridden(teacher, override)) for override in deciding} | {first}) == len(deciding) + 1


# whatever comes


def random_value(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.randrange(9 if depth < 4 else 7)
    if kind == 7:
        return [random_value(dice, depth + 1) for _ in range(dice.randrange(4))]
    if kind == 8:
        keys = [*Recipe.model_fields, "kd", "model", "epochs", "lr", "weight", "x.y", "", "é"]
        return {dice.choice(keys): random_value(dice, depth + 1) for _ in range(dice.randrange(5))}
    return [None, True, dice.randrange(-9, 10**6), 10 ** dice.randrange(500), dice.uniform(-1e9, 1e9), float("nan"), "abc"][kind]


@pytest.mark.parametrize("seed", range(150))
def test_random_values_end_in_a_recipe_error(seed: int):
    dice = random.Random(seed)
    top = {key: random_value(dice) for key in dice.sample(list(Recipe.model_fields), 5)}
    draft = read_draft("imagenet/r50_to_r18", [f"{dice.choice(list(top))}.x={random_value(dice)}"]).merged(top | {"zzz": 1}, "random")
    with pytest.raises(RecipeError, match="zzz: unknown key"):
        draft.finish()


@pytest.mark.parametrize("seed", range(150))
def test_random_text_ends_in_a_recipe_error(seed: int):
    dice = random.Random(seed)
    pieces = [*"a1{}[],'\"|>%#\té~", ": ", "- ", "\n", "  ", "&a ", "*a", "!!int ", "!x ", "\\U", "? ", "<<", "---\n"]
    text = "".join(dice.choice(pieces) for _ in range(dice.randrange(40)))
    assert refusal(f"losses: {text}" if seed % 2 else text)
    assert refusal(None, "zzz=1", f"{dice.choice(['', 'train.lr=', '~'])}{text}")
