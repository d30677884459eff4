"""Recipes that ship, each kind of them: it is valid, builds, and takes two steps on made-up pictures with a random teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.recipe_files import list_recipes, load_recipe

SMALL = ["data.source=synthetic", "data.root=null", "data.image_size=64", "data.global_batch_size=4", "train.max_steps=2", "train.log_every=1"]
SMALL += ["data.arguments={num_classes: 4, num_train: 16, num_val: 8, num_test: 8}", "data.val_fraction=0.1", "control=false"]
EXPECTED = {"r50_to_r18", "r50_to_r34", "r101_to_r18", "r101_to_r34", "r18_alone", "r50_alone", "smoke", "imagenet/r50_to_r18"}
EXPECTED |= {"imagenette/r50_to_r18", "imagenette/r18_alone", "imagenette/r50_alone", "methods/chain", "methods/two_teachers"}
EXPECTED |= {"methods/ema_teacher", "methods/mutual"}
# Recipes of papers: every loss on one pair, and every schedule. The others differ from these in numbers and networks only, which
# test_recipe_provenance.py holds them to, and would take longer than all else here.
PAPERS = ("imagenet/", "cifar100/")
OF_PAPERS = {name for name in list_recipes() if name.startswith(("imagenet/r34_to_r18", "cifar100/resnet56_to_resnet20"))}
OF_PAPERS |= {"imagenet/r50_to_r18", "imagenet/r50_to_r18_patient", "imagenet/r50_to_r18_88ep"}
OF_PAPERS |= {"cifar100/resnet32x4_to_resnet8x4_wkd_f", "cifar100/resnet8x4_alone"}
RUN = sorted(OF_PAPERS | {name for name in list_recipes() if not name.startswith(PAPERS)})


def test_the_promised_recipes_ship():
    assert set(list_recipes()) >= EXPECTED


@pytest.mark.parametrize("name", RUN)
def test_shipped_recipe_takes_two_steps(name, distill):
    recipe = load_recipe(name)
    size = ["data.image_size=32"] if recipe.data.source == "cifar100" else []  # its networks keep their maps twice as wide as others
    overrides = [*SMALL, *size, "run_name=two-steps"] + (["teacher.weights=random", "teacher.check=false"] if recipe.teacher else [])
    if recipe.teachers:
        overrides.append("teachers=" + json.dumps([{"model": one.model, "weight": one.weight, "weights": "random"} for one in recipe.teachers]))
    code, _out, err = distill("train", "--recipe", name, *overrides)
    assert code == 0, err
    summary = json.loads(Path("runs/two-steps/summary.json").read_text())
    assert ("teacher" in summary) == (recipe.teacher is not None or recipe.teachers is not None)
    assert ("alone" in summary) == name.endswith("alone")
    assert ("distilled" in summary) == (not name.endswith("alone"))
    lines = [json.loads(line) for line in Path("runs/two-steps/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "train"] == [1, 2]


def test_main_recipe_is_what_its_name_says():
    recipe = load_recipe("r50_to_r18")
    assert (recipe.teacher.model, recipe.student.model, recipe.control) == ("resnet50", "resnet18", True)
    assert {"ce", "kd"} == set(recipe.losses)
