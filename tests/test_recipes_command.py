"""`distill recipes list | show | copy | diff | validate`: what is printed, written and refused, with the exit code of each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.errors import RecipeError
from distill.recipe_comments import top_comment
from distill.recipe_copy import copy_recipe
from distill.recipe_files import list_recipes, load_recipe, read_draft
from distill.run_folders import claim_again

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = list_recipes()
OWN = """\
# accelerate launch distill/run.py --recipe own
# Paper: Somebody et al., 2024, arXiv 2401.00001,
#   table 3
# Reproduced: no
# Measured: 71.2 +- 0.3 (n = 3)
#
# Pictures must be there: see docs/data.md
extends: r18_alone
description: made for this test
train: {epochs: 7}
"""


@pytest.fixture
def own() -> str:
    return write("recipes/own.yaml", OWN)


def write(path: str, text: str | bytes) -> str:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def check_refusal(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert not [part for part in parts if part not in err], err


def rows(out: str) -> dict[str, str]:
    return {line.split()[0]: line for line in out.splitlines() if line.strip()}


# list


def test_list_has_every_recipe_with_its_description_folder_by_folder(distill, own):
    code, out, err = distill("recipes", "list")
    assert (code, err) == (0, "")
    found = rows(out)
    assert set(SHIPPED) | {"own"} <= set(found)
    assert found["own"].split(maxsplit=1)[1] == "made for this test"
    assert found["losses/kd"].split(maxsplit=1)[1] == load_recipe("losses/kd").description
    headings = [line for line in out.splitlines() if line.endswith(":")]
    assert headings[0] == "recipes:"
    assert f"{ROOT}/recipes/losses:" in headings
    assert "base/sample" in out
    assert "  base/sample" not in out  # in no folder's list


def test_list_of_a_word_looks_into_names_and_descriptions(distill, own):
    assert set(rows(distill("recipes", "list", "MADE FOR")[1])) == {"recipes:", "own"}
    assert {"losses/dkd"} == set(rows(distill("recipes", "list", "losses/dk")[1])) - {f"{ROOT}/recipes/losses:"}
    check_refusal(distill("recipes", "list", "r50_to_r81"), "no recipe has 'r50_to_r81' in its name or description; did you mean 'r50_to_r18'?")
    check_refusal(distill("recipes", "list", "xyzzy"), "distill recipes list says which there are")


def test_list_as_json_gives_what_the_top_of_the_file_says_by_name(distill, own):
    found = {row["name"]: row for row in json.loads(distill("recipes", "list", "--json")[1])}
    assert set(found) == {*SHIPPED, "own"}
    assert found["own"] == {
        "name": "own",
        "file": str(Path("recipes/own.yaml").absolute()),
        "description": "made for this test",
        "command": "accelerate launch distill/run.py --recipe own",
        "paper": "Somebody et al., 2024, arXiv 2401.00001, table 3",
        "reproduced": "no",
        "measured": "71.2 +- 0.3 (n = 3)",
    }


def test_a_recipe_that_can_not_be_read_does_not_hide_the_others(distill):
    write("recipes/broken.yaml", "extends: nothing_of_that_name\n")
    write("recipes/latin.yaml", b"description: caf\xe9\n")
    found = rows(distill("recipes", "list")[1])
    assert "can't be read: recipes/broken.yaml:1: extends: there is no recipe 'nothing_of_that_name'" in found["broken"]
    assert "can't be read: recipes/latin.yaml:1: is not UTF-8" in found["latin"]
    assert "losses/kd" in found


def test_description_is_inherited_where_the_file_gives_none(distill):
    write("recipes/heir.yaml", "extends: r18_alone\n")
    assert rows(distill("recipes", "list")[1])["heir"].split(maxsplit=1)[1] == load_recipe("r18_alone").description


def test_the_top_of_a_file_ends_with_its_comment():
    comment = top_comment("# yaml-language-server: $schema=x.json\n# a note\n# Time: 9 minutes\n#   on a GPU\nseed: 1\n# Paper: not this\n")
    assert (comment.command, comment.facts, comment.notes) == ("", {"Time": "9 minutes on a GPU"}, ("a note",))


@pytest.mark.parametrize("words", [["list"], ["show", "r50_to_r18"], ["diff", "r50_to_r18", "r50_to_r18"], ["copy", "r50_to_r18"]])
def test_looking_at_recipes_imports_no_torch(words):
    code = "import sys, distill.cli as cli\nassert cli.main(['recipes', *sys.argv[1:]]) == 0\nassert 'torch' not in sys.modules, 'imports torch'"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert done.returncode == 0, done.stderr


# show


def test_show_has_the_comment_the_files_and_every_value_with_its_origin(distill, own):
    code, out, err = distill("recipes", "show", "own", "train.lr=0.5", "~train.warmup_epochs")
    assert (code, err) == (0, "")
    said, _, values = out.partition("\n\n")
    lines = said.splitlines()
    assert lines[0] == "accelerate launch distill/run.py --recipe own"
    assert "Pictures must be there: see docs/data.md" in lines
    assert "Paper:      Somebody et al., 2024, arXiv 2401.00001, table 3" in lines
    sample, alone = f"{ROOT}/recipes/base/sample.yaml", f"{ROOT}/recipes/r18_alone.yaml"
    assert lines[-3:] == ["file: recipes/own.yaml", f"  extends {alone}", f"    extends {sample}"]
    found = {line.split()[0]: line.split(maxsplit=2)[1:] for line in values.splitlines()}
    assert found["train.epochs"] == ["7", "recipes/own.yaml:10"]
    assert found["train.lr"] == ["0.5", "override `train.lr=0.5`"]
    assert found["train.warmup_epochs"] == ["0.0", "default"]
    assert found["teacher"] == ["null", "default"]
    assert found["control"] == ["false", "default"]


def test_show_changed_leaves_out_what_is_as_it_is_by_default(distill, own):
    found = rows(distill("recipes", "show", "own", "--changed", "train.momentum=0.9", "train.gamma=0.5")[1])
    assert "train.epochs" in found
    assert "train.gamma" in found
    assert "losses.ce" in found  # all of it is as by default, but that it is there is not
    assert not {"train.momentum", "train.betas", "seed"} & set(found)


def test_show_prints_the_values_that_a_dry_run_prints(distill):
    shown = distill("recipes", "show", "losses/kd", "seed=3")[1].partition("\n\n")[2]
    assert shown == distill("train", "--recipe", "losses/kd", "seed=3", "--dry-run")[1]


def test_show_as_yaml_is_the_same_recipe(distill, own):
    Path("whole.yaml").write_text(distill("recipes", "show", "methods/chain", "--yaml", "seed=4")[1], encoding="utf-8")
    assert load_recipe("whole.yaml") == load_recipe("methods/chain", ["seed=4"])
    assert "extends" not in Path("whole.yaml").read_text()


def test_show_as_json_has_everything(distill, own):
    found = json.loads(distill("recipes", "show", "own", "--json", "seed=3")[1])
    assert (found["name"], found["paper"]) == ("own", "Somebody et al., 2024, arXiv 2401.00001, table 3")
    assert [Path(file).name for file in found["files"]] == ["own.yaml", "r18_alone.yaml", "sample.yaml"]
    assert {"path": "seed", "value": 3, "origin": "override `seed=3`"} in found["values"]
    assert {"path": "time_limit", "value": None, "origin": "default"} in found["values"]


def test_show_of_a_run_is_the_recipe_that_it_was_made_with(distill, own):
    write("runs/own-seed0/recipe.resolved.yaml", distill("recipes", "show", "own", "--yaml")[1])
    found = rows(distill("recipes", "show", "runs/own-seed0", "--changed")[1])
    assert "runs/own-seed0/recipe.resolved.yaml:" in found["train.epochs"]
    assert "seed" not in found


@pytest.mark.parametrize(
    "name, parts",
    [
        ("r50_to_r81", ["did you mean 'r50_to_r18'?"]),
        ("dkd", ["did you mean 'losses/dkd'?"]),
        ("xyzzy", ["there is no recipe or file 'xyzzy' (distill recipes list says which there are)"]),
        ("nowhere.yaml", ["there is no recipe or file 'nowhere.yaml'"]),
        ("folder", ["there is no recipe or file 'folder', and this folder is no run's: it has no recipe.resolved.yaml"]),
        ("latin.yaml", ["latin.yaml:2: is not UTF-8 (byte 0xe9 at line 2)"]),
        ("list.yaml", ["list.yaml:1: a recipe must be a mapping (key: value), not ['seed']"]),
        ("empty.yaml", ["empty.yaml: is empty"]),
        ("wrong.yaml", ["wrong.yaml:2: train.epoch: unknown key; did you mean 'epochs'?", "wrong.yaml:3: seed: must be a whole number, got 'x'"]),
        ("base/sample", ["'base/sample' is a part that recipes extend, not a recipe"]),
    ],
)
@pytest.mark.parametrize("command", [["show"], ["diff", "r50_to_r18"]])
def test_a_recipe_that_is_none_is_refused(distill, command, name, parts):
    Path("folder").mkdir()
    write("latin.yaml", b"seed: 1\ndescription: caf\xe9\n")
    write("list.yaml", "- seed\n")
    write("empty.yaml", "")
    write("wrong.yaml", "extends: r18_alone\ntrain: {epoch: 3}\nseed: x\n")
    check_refusal(distill("recipes", *command, name), *parts)


# copy


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("name", SHIPPED)
def test_copy_of_every_shipped_recipe_says_the_same(name, is_whole):
    target, parents = copy_recipe(name, whole=is_whole)
    assert target == Path(f"{name.rpartition('/')[2]}.yaml")
    assert load_recipe(target) == load_recipe(name)
    text = target.read_text(encoding="utf-8")
    assert bool(parents) is ("\nextends:" in text) is (not is_whole and "\nextends:" in SHIPPED[name].read_text(encoding="utf-8"))


def test_copy_keeps_the_text_and_names_itself_in_the_command(distill):
    code, out, err = distill("recipes", "copy", "losses/kd", "mine.yaml")
    assert (code, err) == (0, "")
    assert out == f"wrote mine.yaml, which extends {ROOT}/recipes/base/losses.yaml\n"
    first, second, *rest = Path("mine.yaml").read_text(encoding="utf-8").splitlines()
    old, *others = SHIPPED["losses/kd"].read_text(encoding="utf-8").splitlines()
    assert first == old.replace("--recipe losses/kd", "--recipe mine.yaml")
    assert second == "# Copied from losses/kd: a time or a result below is that recipe's."
    assert rest == others


def test_copy_into_a_folder_has_the_recipes_own_name(distill):
    Path("sub").mkdir()
    assert distill("recipes", "copy", "losses/kd", "sub")[0] == 0
    assert [str(path) for path in Path().rglob("*.yaml")] == ["sub/kd.yaml"]


def test_copy_of_a_run_is_its_recipe(distill):
    write("runs/a-seed0/recipe.resolved.yaml", distill("recipes", "show", "r18_alone", "--yaml", "train.epochs=9")[1])
    assert distill("recipes", "copy", "runs/a-seed0")[0] == 0
    assert load_recipe("a-seed0.yaml").train.epochs == 9


def test_copy_writes_over_nothing_unless_it_is_told_to(distill):
    write("kd.yaml", "mine")
    check_refusal(distill("recipes", "copy", "losses/kd"), "kd.yaml is there already", "--force")
    assert Path("kd.yaml").read_text() == "mine"
    assert distill("recipes", "copy", "losses/kd", "--force")[0] == 0
    assert load_recipe("kd.yaml") == load_recipe("losses/kd")
    Path("link.yaml").symlink_to("nowhere")
    check_refusal(distill("recipes", "copy", "losses/kd", "link.yaml"), "link.yaml is there already")


def test_copy_of_what_lies_beside_its_parent_names_the_parent_as_it_is_found_from_everywhere():
    write("recipes/study/common.yaml", "extends: r18_alone\nseed: 5\n")
    write("recipes/study/more.yaml", "train: {epochs: 8}\n")
    write("recipes/study/one.yaml", "# one\nextends: [common, 'more', r18_alone]  # both\ntrain: {lr: 0.5}\n")
    target, _ = copy_recipe("study/one")
    assert "extends: [study/common, study/more, r18_alone]  # both\n" in target.read_text()
    assert load_recipe(target) == load_recipe("study/one")


def test_copy_that_would_extend_another_recipe_of_the_same_name_is_not_written(distill):
    write("r50_to_r18.yaml", "extends: r18_alone\nseed: 9\n")
    check_refusal(distill("recipes", "copy", "r50_to_r34", "mine.yaml"), "would not say the same: it would extend r50_to_r18.yaml", "--whole")
    assert not Path("mine.yaml").exists()
    assert distill("recipes", "copy", "r50_to_r34", "mine.yaml", "--whole")[0] == 0
    assert load_recipe("mine.yaml") == load_recipe("r50_to_r34")


def test_copy_that_would_extend_itself_is_not_written(distill):
    before = write("r50_to_r18.yaml", "extends: r18_alone\nlosses: {kd: {temperature: 2}}\n")
    check_refusal(distill("recipes", "copy", "r50_to_r34", before, "--force"), "would not say the same", "goes in a circle")
    assert "temperature: 2" in Path(before).read_text()


def test_copy_from_a_folder_that_is_not_reached_from_the_copy_is_not_written(distill):
    write("there/common.yaml", "extends: r18_alone\n")
    write("there/mine.yaml", "extends: common\n")
    check_refusal(distill("recipes", "copy", "there/mine.yaml"), "there is no recipe 'common'", "--whole")
    assert distill("recipes", "copy", "there/mine.yaml", "--whole")[0] == 0
    assert load_recipe("mine.yaml") == load_recipe("there/mine.yaml")


@pytest.mark.parametrize(
    "file, parts",
    [
        ("no/such/x.yaml", ["no/such/x.yaml: there is no folder no/such; make it first (mkdir -p no/such)"]),
        ("mine", ["mine: a recipe's file ends in .yaml, or it is not found; take mine.yaml"]),
        ("folder.yaml/kd.yaml", ["folder.yaml/kd.yaml is a folder"]),
    ],
)
def test_copy_to_a_place_that_is_none_is_refused(distill, file, parts):
    Path("folder.yaml/kd.yaml/kd.yaml").mkdir(parents=True)
    check_refusal(distill("recipes", "copy", "losses/kd", file if "kd" not in file else "folder.yaml"), *parts)


def test_copy_that_can_not_be_written_says_why_and_leaves_nothing(distill, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")  # a test that runs as root can't take the permission away

    monkeypatch.setattr(Path, "replace", refuse)
    check_refusal(distill("recipes", "copy", "losses/kd"), "kd.yaml can't be written: Permission denied")
    assert not list(Path().iterdir())


# diff


def test_diff_has_the_values_that_differ_and_ends_with_1(distill, own):
    code, out, err = distill("recipes", "diff", "r18_alone", "own")
    assert (code, err) == (1, "")
    heading, *lines = out.splitlines()
    assert heading.split() == ["r18_alone", "own"]
    assert [line.split()[0] for line in lines] == ["description", "train.epochs"]
    assert lines[1].split()[1:] == [str(load_recipe("r18_alone").train.epochs), "7"]


def test_diff_of_equal_recipes_prints_nothing_and_ends_with_0(distill, own):
    write("same.yaml", OWN + "seed: 0\n")  # the default, written down
    assert distill("recipes", "diff", "own", "same.yaml") == (0, "", "")
    assert distill("recipes", "diff", "own", "same.yaml", "--json") == (0, "[]\n", "")


def test_diff_says_where_one_side_has_no_such_key(distill):
    write("more.yaml", "extends: r18_alone\nlosses: {ce: {weight: 2}, kd: {temperature: 3}}\nteacher: {model: resnet50, recipe: r50_alone}\n")
    code, out, _ = distill("recipes", "diff", "r18_alone", "more.yaml")
    found = {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}
    assert code == 1
    assert found["losses.kd.temperature"] == ["-", "3"]
    assert found["teacher"] == ["null", "-"]
    as_json = json.loads(distill("recipes", "diff", "r18_alone", "more.yaml", "--json")[1])
    assert {"path": "losses.kd.temperature", "b": 3} in as_json
    assert {"path": "losses.ce.weight", "a": 1.0, "b": 2.0} in as_json


# validate


def test_validate_says_which_are_right(distill, own):
    assert distill("recipes", "validate", "own", "r50_to_r18", "own") == (0, "own: right\nr50_to_r18: right\n", "")


def test_validate_gives_all_that_is_wrong_with_all_of_them_at_once(distill, own):
    write("a.yaml", "extends: r50_to_r18\nlosses:\n  kdd: {}\n  kd: {temprature: 3}\ntrain: {epoch: 3}\n")
    write("b.yaml", "extends: r18_alone\nstudent: {model: resnet81}\ndata:\n  source: sampel\n")
    write("c.yaml", "extends: r18_alon\n")
    code, out, err = distill("recipes", "validate", "a.yaml", "own", "b.yaml", "c.yaml", "nowhere.yaml")
    assert (code, out) == (2, "own: right\n")
    for part in (
        "a.yaml:3: losses.kdd: unknown loss 'kdd'; did you mean 'kd'?",
        "a.yaml:4: losses.kd.temprature: unknown argument; did you mean 'temperature'?",
        "a.yaml:5: train.epoch: unknown key; did you mean 'epochs'?",
        "b.yaml:2: student.model: ",
        "b.yaml:4: data.source: unknown data source 'sampel'; did you mean 'sample'?",
        "c.yaml:1: extends: there is no recipe 'r18_alon'; did you mean 'r18_alone'?",
        "there is no recipe or file 'nowhere.yaml'",
    ):
        assert part in err
    assert err.count("error:") == 1


@pytest.mark.parametrize(
    "teacher", ["teacher: {recipe: r50_alnoe}", "teacher: null\nteachers: [{model: resnet34, weights: random}, {model: resnet50, recipe: r50_alnoe}]"]
)
def test_recipe_that_trains_the_teacher_is_looked_at_too(distill, teacher):
    write("mine.yaml", f"extends: r50_to_r18\n{teacher}\n")
    message = "the recipe that trains the teacher (recipe): there is no recipe or file 'r50_alnoe'; did you mean 'r50_alone'?"
    check_refusal(distill("recipes", "validate", "mine.yaml"), message)
    check_refusal(distill("train", "--recipe", "mine.yaml", "--dry-run"), message)
    check_refusal(distill("compare", "mine.yaml", "--losses", "kd", "--seeds", "2", "--plan"), message)


def test_value_that_is_wrong_for_the_teacher_is_found_before_anything_is_trained(distill):
    write("mine.yaml", "extends: r50_to_r18\nteacher: {overrides: {train: {optimizer: adamm}}}\n")
    check_refusal(distill("recipes", "validate", "mine.yaml"), "train.optimizer")


def test_validate_knows_ones_own_losses(distill):
    write("own.py", "from distill.losses.base import DistillLoss\nclass Nearer(DistillLoss):\n    def forward(self, student, teacher, batch): ...\n")
    write("mine.yaml", "extends: r50_to_r18\nlosses: {nearer: {}}\n")
    check_refusal(distill("recipes", "validate", "mine.yaml"), "mine.yaml:2: losses.nearer: unknown loss 'nearer'")
    assert distill("recipes", "validate", "mine.yaml", "--plugin", "own.py") == (0, "mine.yaml: right\n", "")
    del sys.modules["distill_plugin_own"]


def test_every_shipped_recipe_is_right(distill):
    code, out, err = distill("recipes", "validate", *SHIPPED)
    assert code == 0, err
    assert len(out.splitlines()) == len(SHIPPED)


def test_a_draft_knows_the_files_that_it_came_from(own):
    assert [(depth, path.name) for depth, path in read_draft("own").files] == [(0, "own.yaml"), (1, "r18_alone.yaml"), (2, "sample.yaml")]


@pytest.mark.parametrize(
    "text, reason",
    [("seed: [\n", "runs/a/recipe.resolved.yaml:2: not valid YAML"), (None, "there is no recipe or file 'runs/a/recipe.resolved.yaml'")],
    ids=["broken", "missing"],
)
def test_a_run_whose_recipe_can_not_be_read_is_refused_with_the_reason(text, reason):
    write("runs/a/metrics.jsonl", "{}\n")
    if text is not None:
        write("runs/a/recipe.resolved.yaml", text)
    with pytest.raises(RecipeError, match=rf"its recipe can't be read: {reason}"):
        claim_again(Path("runs"), "a", load_recipe("r18_alone"), is_fixed=True)
