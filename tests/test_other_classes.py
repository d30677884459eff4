"""A teacher that knows other classes than the data, through the whole job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.build.models import make_model
from distill.errors import RecipeError
from distill.models.zoo import create_model
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue

NAMES = ["wave3", "sea", "wave0", "wave2", "wave1", "lake"]
TINY = ["data.source=synthetic", "data.arguments={num_train: 16, num_val: 16, num_test: 16}", "teacher.model=timm/test_resnet", "control=false"]
TINY += ["student.model=timm/test_resnet", "teacher.check=false"]


@pytest.fixture
def weights() -> str:
    """Of a network with six classes, four of which are the data's, in another order."""
    torch.manual_seed(0)
    save_file(create_model("timm/test_resnet", num_classes=6).state_dict(), "six.safetensors")
    return "teacher.weights=six.safetensors"


def test_the_teacher_answers_for_the_datas_classes_in_the_datas_order(distill, weights):
    words = ["--recipe", "smoke", *TINY, weights, f"teacher.classes={json.dumps(NAMES)}"]
    code, _, err = distill("train", *words)
    assert code == 0, err
    assert "its classifier is cut to these 4 classes, by name" in err
    summary = json.loads(Path("runs/smoke-seed0/summary.json").read_text())
    assert "test_top1" in summary["teacher"]  # it can be scored: it answers for these classes
    recipe = load_recipe("smoke", [*TINY, weights, f"teacher.classes={json.dumps(NAMES)}"])
    classes = [f"wave{number}" for number in range(4)]
    cut, report = make_model(recipe.teacher, "teacher", classes, Catalogue(), image_size=32, seed=0, weights="six.safetensors")
    assert report.num_classes_kept == 4
    whole = create_model("timm/test_resnet", num_classes=6)
    whole.load_state_dict(load_file("six.safetensors"))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(cut.eval()(images), whole.eval()(images)[:, [2, 4, 3, 0]])
    code, _, err = distill("eval", "runs/smoke-seed0", "--role", "teacher")
    assert code == 0, err


def test_names_come_from_a_file_or_from_the_run_that_was_trained(distill, weights):
    Path("names.txt").write_text("\n".join(NAMES) + "\n")
    assert distill("train", "--recipe", "smoke", *TINY, weights, "teacher.classes=names.txt", "--dry-run")[0] == 0
    assert distill("train", "--recipe", "smoke", *TINY, weights, "teacher.classes=names.txt")[0] == 0
    words = ["teacher.weights=runs/smoke-seed0", "data.arguments={num_train: 16, num_val: 16, num_test: 16, num_classes: 3}"]
    code, _, err = distill("train", "--recipe", "smoke", *TINY, *words)
    assert code == 0, err
    assert "cut to these 3 classes, by name" in err


def test_a_teacher_that_does_not_know_a_class_is_refused_before_anything_is_trained(distill, weights):
    code, _, err = distill("train", "--recipe", "smoke", *TINY, weights, f"teacher.classes={json.dumps(['wave0', 'wave1', 'wave 2'])}")
    assert code == 2
    assert "of the data's 4 classes it does not know 2: wave2, wave3" in err
    code, _, err = distill(
        "train", "--recipe", "smoke", *TINY, weights, f"teacher.classes={json.dumps([*NAMES[1:], 'swell'])}", "teacher.class_map={wave3: swell}"
    )
    assert code == 0, err


@pytest.mark.parametrize(
    "words, message",
    [
        (["teacher.classes=nowhere.txt"], "a list of names, imagenet-1k, data, or a file with a name a line"),
        (["teacher.classes=[wave0, wave1]"], "does not know 2: wave2, wave3"),
        (["teacher.num_classes=6", "teacher.classes=[a, b]", "teacher.class_map={a: b}"], "leave out one of them"),
        (["teacher.classes=data"], "the file's head has 6 classes, the data has 4"),
        ([], "the file's head has 6 classes, the data has 4; teacher.classes names the weights' classes"),
        ([f"teacher.classes={json.dumps([*NAMES, 'more'])}"], "6 classes"),
    ],
)
def test_what_does_not_fit_is_said(distill, weights, words, message):
    code, _, err = distill("train", "--recipe", "smoke", *TINY, weights, *words)
    assert code in (2, 3)
    assert message in err


def test_numbers_are_no_names():
    """Data without names for its classes: as many as the teacher's are believed to be in order, others can't be matched."""
    entry = load_recipe("smoke", [*TINY, "teacher.weights=random", "teacher.classes=[a, b, c, d]"]).teacher
    same, _ = make_model(entry, "teacher", ["0", "1", "2", "3"], Catalogue(), image_size=32, seed=0, weights=None)
    assert same(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    for classes in (["0", "1"], ["0", "1", "2", "d"]):
        with pytest.raises(RecipeError, match="does not know"):
            make_model(entry, "teacher", classes, Catalogue(), image_size=32, seed=0, weights=None)
