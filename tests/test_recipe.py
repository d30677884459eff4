"""The schema of a recipe: what it takes, what it refuses, and how it says so."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from distill import recipe
from distill.recipe import Augment, Data, LossEntry, Network, OneOfSeveral, Recipe, Student, Teacher, Train, what_is_wrong

SMALLEST = {"student": {"model": "resnet18"}, "losses": {"ce": {}}, "data": {}, "train": {"epochs": 10, "lr": 0.1}}
ROOT = Path(__file__).parents[1]


def values_with(path: str, value: Any) -> dict:
    """The smallest recipe with one value more."""
    values = copy.deepcopy(SMALLEST)
    *parents, key = path.split(".")
    inner = values
    for parent in parents:
        inner = inner.setdefault(parent, {"model": "resnet50", "recipe": "r50"} if parent == "teacher" else {})
    inner[key] = value
    return values


def faults(values: Any) -> dict[str, str]:
    """Path -> message of everything wrong with the values."""
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(values)
    return {".".join(map(str, path)): message for path, message in what_is_wrong(caught.value)}


def test_smallest_recipe_is_filled_with_the_documented_defaults():
    built = Recipe.model_validate(SMALLEST)
    assert (built.seed, built.run_name, built.runs_dir, built.teacher, built.control, built.description) == (
        0,
        None,
        "runs",
        None,
        False,
        "",
    )
    assert built.student == Student(model="resnet18", norm="batch", stem="imagenet", arguments={}, features={}, new_head=False)
    assert built.losses["ce"].weight == 1.0
    assert built.data == Data(source="sample", global_batch_size=128, val_fraction=0.1, view_seed=0, views=0)
    assert built.data.augment == Augment(crop="padded", padding=2, scale=(0.35, 1.0), ratio=(0.75, 1.3333), flip=0.5)
    expected = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "betas": (0.9, 0.999), "weight_decay": 5e-4, "schedule": "cosine"}
    expected |= {"warmup_epochs": 0, "milestones": [0.3333, 0.6667, 0.8889], "gamma": 0.1, "final_lr_fraction": 0, "accumulation": 1}
    expected |= {
        "precision": "auto",
        "channels_last": True,
        "log_every": 20,
        "log_gradients_every": 0,
        "max_steps": None,
        "clip_norm": None,
        "ema_decay": None,
        "unused": "error",
        "checkpoint_every_minutes": 5.0,
        "checkpoint_every_steps": None,
        "keep_checkpoints": 2,
    }
    assert (built.time_limit, built.tracking, built.deterministic, built.student.frozen) == (None, [], False, [])
    assert built.fast == "auto"
    assert built.train.model_dump() == {"epochs": 10, "lr": 0.1, **expected}


def test_sections_are_frozen():
    built = Recipe.model_validate(SMALLEST)
    with pytest.raises(ValidationError, match="frozen"):
        built.train.lr = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        built.losses["ce"].weight = 2.0


@pytest.mark.parametrize("model", [Recipe, Network, Student, Teacher, OneOfSeveral, LossEntry, Data, Augment, Train])
def test_every_key_has_a_one_line_description(model: type[BaseModel]):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name
        assert field.description.endswith("."), name


def test_schema_can_be_written_as_json():
    assert Recipe.model_json_schema()["$defs"]["Train"]["properties"]["lr"]["exclusiveMinimum"] == 0


GOOD = [
    ("train.lr", "1e-3"),
    ("train.epochs", 11.0),
    ("train.warmup_epochs", 9.5),
    ("train.clip_norm", None),
    ("train.milestones", []),
    ("seed", 2**63 - 1),
    ("run_name", "a.b-c_1"),
    ("run_name", "x" * 100),
    ("student.mean", [0, 0.5, 1]),
    ("student.arguments", {"a": [1, {"b": None}], "c": True}),
    ("data.augment.scale", [1, 1]),
    ("data.image_size", 8),
    ("teacher.weights", "runs/r50"),
    ("teacher.claimed_top1", 1),
    ("tracking", ["mlflow", "tensorboard", "trackio", "wandb"]),
    ("losses.my_kd2", {"type": "kd", "temperature": 4, "layers": ["layer3"]}),
]


@pytest.mark.parametrize("path, value", GOOD)
def test_sensible_value_is_taken(path: str, value: Any):
    Recipe.model_validate(values_with(path, value))


def test_number_written_as_text_becomes_a_number():
    assert Recipe.model_validate(values_with("train.lr", "1e-3")).train.lr == 0.001


INFINITE = [float("nan"), float("inf"), float("-inf"), "nan", "inf"]
FRACTIONS = ("train.lr", "losses.ce.weight", "data.augment.flip", "teacher.claimed_top1")
NUMBERS = (*FRACTIONS, "seed", "train.epochs", "train.max_steps", "data.workers")
BAD = [
    *((path, value, "finite") for path in FRACTIONS for value in INFINITE),
    *((path, True, "must be a number") for path in NUMBERS),
    ("student.arguments.rate", float("inf"), "must be a finite number"),
    ("losses.ce.temperature", float("nan"), "must be a finite number"),
    ("data.arguments.x", {"y": [float("nan")]}, "must be a finite number"),
    ("data.arguments.x", {1: 2}, "keys"),
    ("data.arguments.x", {1, 2}, "must be text, a number"),
    ("seed", -1, "must be 0 or more, got -1"),
    ("seed", 2**63, "must be less than"),
    ("seed", "abc", "must be a whole number, got 'abc'"),
    ("seed", 1.5, "must be a whole number, got 1.5"),
    ("seed", None, "must be a whole number, got null"),
    ("train.lr", "abc", "must be a number, got 'abc'"),
    ("train.lr", 0, "must be more than 0, got 0"),
    ("train.lr", 10**400, "must be a number"),
    ("train.lr", [1], "must be a number, got [1]"),
    ("train.epochs", 0, "must be 1 or more"),
    ("train.max_steps", 0, "must be 1 or more"),
    ("train.momentum", 1, "must be less than 1"),
    ("train.nesterov", 1, "must be true or false, got 1"),
    ("train.betas", [0.9], "must be a list of 2 numbers, got [0.9]"),
    ("train.weight_decay", -1, "must be 0 or more"),
    ("train.optimizer", "adam", "must be one of 'sgd' or 'adamw', got 'adam'"),
    ("train.precision", "half", "must be one of 'auto', 'fp32'"),
    ("train.schedule", None, "must be one of 'cosine'"),
    ("train.warmup_epochs", 10, "must be less than train.epochs (10), got 10"),
    ("train.milestones", [0.5, 0.2], "increasing"),
    ("train.milestones", [0.5, 0.5], "twice"),
    ("train.milestones", 0.5, "must be a list"),
    ("train.gamma", 0, "must be more than 0"),
    ("train.final_lr_fraction", 1.1, "must be 1 or less"),
    ("train.clip_norm", 0, "must be more than 0"),
    ("train.ema_decay", 1, "must be less than 1"),
    ("train.accumulation", 0, "must be 1 or more"),
    ("train.channels_last", "yes", "must be true or false"),
    ("train.log_every", 0, "must be 1 or more"),
    ("data.image_size", 7, "must be 8 or more"),
    ("data.global_batch_size", 0, "must be 1 or more"),
    ("data.val_fraction", 0, "must be more than 0"),
    ("data.view_seed", -1, "must be 0 or more"),
    ("data.views", -1, "must be 0 or more"),
    ("data.workers", -1, "must be 0 or more"),
    ("data.source", "", "must not be empty"),
    ("data.augment", None, "must be a mapping"),
    ("data.augment.crop", "centre", "must be one of 'none', 'padded' or 'random_resized'"),
    ("data.augment.padding", 0.5, "must be a whole number"),
    ("data.augment.scale", [0.5, 0.3], "increasing"),
    ("data.augment.ratio", 3, "must be a list of 2 numbers"),
    ("student.model", 18, "must be text"),
    ("student.norm", "layer", "must be one of 'batch'"),
    ("student.stem", "cifar", "must be one of 'imagenet' or 'small'"),
    ("student.mean", [1, 2], "must be a list of 3 numbers, got [1, 2]"),
    ("student.std", 1, "must be a list of 3 numbers"),
    ("student.new_head", None, "must be true or false"),
    ("teacher.claimed_top1", 80, "must be 1 or less, got 80"),
    ("teacher.recipe", None, "must name the recipe that trains the teacher because teacher.weights is 'train'"),
    ("chain", ["resnet50", "resnet18"], "must name three networks at least"),
    ("chain", "resnet50", "must be a list"),
    ("chain", ["resnet101", "resnet50", "resnet18"], "needs a teacher section, which says how resnet101 is trained"),
    ("teachers", [{"model": "resnet50", "weights": "w"}], "must name two networks at least"),
    ("teachers", {"model": "resnet50"}, "must be a list"),
    ("method", "self", "must be one of 'distill'"),
    ("method", "ema_teacher", "needs train.ema_decay, such as 0.99"),
    ("answers", "median", "must be one of 'mean', 'weighted' or 'sampled', got 'median'"),
    ("answers", "sampled", "the recipe has no list of teachers"),
    ("losses", {}, "must hold at least 1 entry"),
    ("losses.ce", 3, "must be a mapping"),
    ("losses.a-b", {}, "letters, digits and _"),
    ("losses.2a", {}, "letters, digits and _"),
    ("losses.ce.weight", -1, "must be 0 or more"),
    ("losses.ce.type", 3, "must be text"),
    ("data", None, "must be a mapping (key: value), got null"),
    *(("run_name", name, "1 to 100 letters") for name in ("../x", "a..b", "/x", ".x", "-x", "a b", "", "x" * 101, "a\n", "ä", "~a", "a\0")),
    ("run_name", 3, "must be text"),
]


@pytest.mark.parametrize("path, value, message", BAD)
def test_senseless_value_is_refused_in_plain_words(path: str, value: Any, message: str):
    found = faults(values_with(path, value))
    assert list(found) == [path]
    assert message in found[path]
    assert not [jargon for jargon in ("pydantic", "http", "Input should", "Value error", "instance of") if jargon in found[path]]


def test_fault_inside_a_list_names_its_place():
    assert faults(values_with("student.std", [1, 0, True])) == {
        "student.std.1": "must be more than 0, got 0",
        "student.std.2": "must be a number, not true or false, got true",
    }


def test_missing_sections_are_all_named():
    assert faults({}) == dict.fromkeys(("student", "losses", "data", "train"), "must be given")


HINTS = [
    ("train.epoch", "did you mean 'epochs'?"),
    ("trian", "did you mean 'train'?"),
    ("lr", "did you mean 'train.lr'?"),
    ("new_head", "did you mean 'student.new_head' or 'peer.new_head'?"),
    ("data.augment.padings", "did you mean 'padding'?"),
    ("teacher.chek", "did you mean 'check'?"),
    ("data.zzzz", "known here: source, root, image_size"),
]


@pytest.mark.parametrize("path, hint", HINTS)
def test_unknown_key_gets_the_nearest_known_one(path: str, hint: str):
    found = faults(values_with(path, 1))
    assert found[path].startswith("unknown key; ")
    assert hint in found[path]


def test_key_with_a_dot_is_explained():
    assert "nested" in faults({**SMALLEST, "train.epochs": 3})["train.epochs"]


def test_long_value_is_cut_in_a_message():
    assert len(faults(values_with("seed", "x" * 10_000))["seed"]) < 100


def test_loss_keeps_its_own_arguments_and_is_named_by_label_or_type():
    losses = Recipe.model_validate(values_with("losses.soft", {"type": "kd", "temperature": 4.0, "layers": ("a", "b")})).losses
    assert losses["soft"].model_extra == {"temperature": 4.0, "layers": ["a", "b"]}
    assert losses["soft"].name("soft") == "kd"
    assert losses["ce"].name("ce") == "ce"


def test_teacher_with_weights_needs_no_recipe():
    built = Recipe.model_validate({**SMALLEST, "teacher": {"model": "resnet50", "weights": "best.safetensors"}})
    assert (built.teacher.check, built.teacher.recipe, built.teacher.overrides) == (True, None, {})


def test_defaults_are_not_shared_between_recipes():
    first, second = Recipe.model_validate(SMALLEST), Recipe.model_validate(SMALLEST)
    first.student.arguments["x"] = 1
    first.train.milestones.append(0.95)
    assert second.student.arguments == {}
    assert len(second.train.milestones) == 3


def test_reading_recipes_does_not_import_torch():
    code = "import sys, distill.recipe, distill.recipe_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_shown_value_reads_like_yaml():
    assert [recipe.shown_value(value) for value in (None, True, 1.0, "a")] == ["null", "true", "1.0", "'a'"]
