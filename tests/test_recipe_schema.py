"""The JSON schema of a recipe's file, held against recipes by a validator that is not ours; and the page that is made of it."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import recipes_page
from pydantic import BaseModel

from distill.errors import RecipeError
from distill.recipe import Recipe
from distill.recipe_files import load_recipe
from distill.recipe_losses import Schedule
from distill.recipe_schema import recipe_schema
from distill.recipe_yaml import parse, plain_values
from distill.resolve import Catalogue

ROOT = Path(__file__).resolve().parent.parent
FILES = {path.relative_to(ROOT / "recipes").as_posix(): path for path in sorted((ROOT / "recipes").rglob("*.yaml"))}
OWN = '''
from enum import Enum

from distill.losses.base import DistillLoss


class Kind(Enum):
    A = "a"


class Nearer(DistillLoss):
    """The student's logits come nearer."""

    def __init__(self, width: int, scale: float | None = None):
        super().__init__()

    def forward(self, student, teacher, batch): ...


class Odd(DistillLoss):
    def __init__(self, kind: Kind = Kind.A):
        super().__init__()

    def forward(self, student, teacher, batch): ...
'''


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def faults(schema):
    """faults(YAML text) -> where the independent validator sees something wrong."""
    jsonschema.Draft7Validator.check_schema(schema)
    return lambda text: faults_in(schema, text)


def faults_in(schema: dict[str, Any], text: str) -> set[str]:
    node, problems = parse(text, str)
    assert not problems
    return {".".join(map(str, error.absolute_path)) for error in jsonschema.Draft7Validator(schema).iter_errors(plain_values(node))}


def test_committed_schema_and_reference_are_what_is_written_now(capsys):
    assert recipes_page.main(["--check"]) == 0, capsys.readouterr().out


def test_check_of_the_page_says_what_is_stale_and_writes_nothing(tmp_path, monkeypatch, capsys):
    for name in ("PAGE", "SCHEMA"):
        path = tmp_path / getattr(recipes_page, name).name
        path.write_text(getattr(recipes_page, name).read_text(encoding="utf-8").replace("Highest learning rate", "How fast"), encoding="utf-8")
        monkeypatch.setattr(recipes_page, name, path)
    before = recipes_page.PAGE.read_text(encoding="utf-8")
    assert recipes_page.main(["--check"]) == 1
    assert "recipe.schema.json, recipes.md; run python docs/recipes_page.py" in capsys.readouterr().out
    assert recipes_page.PAGE.read_text(encoding="utf-8") == before
    assert recipes_page.main([]) == 0
    assert recipes_page.main(["--check"]) == 0
    recipes_page.PAGE.write_text("# Recipes\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"recipes\.md must hold the lines"):
        recipes_page.main([])


@pytest.mark.parametrize("name", FILES)
def test_every_shipped_file_fits_the_schema(name, faults):
    assert faults(FILES[name].read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    "text",
    [
        "extends: [base/sample, r18_alone]",
        "losses: {kd: null}",
        "losses: {kd: {weight: auto(0.5)}}",
        "losses: {kd: {weight: {schedule: warmup, end: 1, epochs: 2}, temperature: {schedule: linear, start: 8, end: 4}}}",
        "losses: {deep: {type: fitnet, layers: [layer4]}}",
        "losses: {kd: {type: dkd, alpha: 1.0}}",
        "losses: {of_a_plugin: {anything: [1, {a: b}]}}",
        "losses: {again: {type: of_a_plugin, anything: 1}}",
        "teacher: null",
        "data: {source: of_a_plugin}",
        "train: {lr: 1e-3, clip_norm: null}",
        "student: {mean: [0.5, 0.5, 0.5], arguments: {width: 2}}",
        "teachers: [{model: resnet50, weight: 2}, {model: resnet101, cache: {use: off}}]",
    ],
)
def test_what_a_recipe_may_say_fits(text, faults):
    assert faults(text) == set()


WRONG = {
    "trian: {}": "",
    "extends: 3": "extends",
    "seed: true": "seed",
    "seed: -1": "seed",
    "run_name: ../away": "run_name",
    "tracking: [tensorboard, tensorboard]": "tracking",
    "train: {epoch: 3}": "train",
    "train: {lr: fast}": "train.lr",
    "train: {lr: 0}": "train.lr",
    "train: {optimizer: sdg}": "train.optimizer",
    "student: {mean: [0.5, 0.5]}": "student.mean",
    "student: null": "student",
    "data: {augment: {scale: [0.0, 1]}}": "data.augment.scale.0",
    "data: {augment: {flip: 2}}": "data.augment.flip",
    "teacher: {cache: {format: fp8}}": "teacher",
    "teachers: [{weight: 2}]": "teachers",
    "losses: {2nd: {}}": "losses",
    "losses: {kd: 3}": "losses.kd",
    "losses: {kd: {temprature: 3}}": "losses.kd",
    "losses: {kd: {temperature: warm}}": "losses.kd.temperature",
    "losses: {kd: {weight: -1}}": "losses.kd.weight",
    "losses: {kd: {weight: auto(x)}}": "losses.kd.weight",
    "losses: {kd: {weight: {schedule: lin}}}": "losses.kd.weight",
    "losses: {x: {type: kd, temprature: 3}}": "losses.x",
    "losses: {kd: {type: dkd, temprature: 3}}": "losses.kd",
}


@pytest.mark.parametrize("text, where", WRONG.items())
def test_what_is_wrong_in_a_file_is_flagged_there(text, where, faults):
    assert faults(text) == {where}


@pytest.mark.parametrize("text", [text for text in WRONG if "temprature" not in text and "warm}" not in text])  # arguments are for who knows the loss
def test_what_the_schema_flags_is_refused_by_us_too(text):
    Path("mine.yaml").write_text(f"extends: r50_to_r18\n{text}\n" if "extends" not in text else text, encoding="utf-8")
    with pytest.raises(RecipeError):
        load_recipe("mine.yaml")


def test_ones_own_losses_are_in_a_schema_that_is_made_with_them(distill, monkeypatch):
    Path("own.py").write_text(textwrap.dedent(OWN), encoding="utf-8")
    code, out, err = distill("recipes", "schema", "--plugin", "own.py", "-o", "recipe.schema.json")
    monkeypatch.delitem(sys.modules, "distill_plugin_own")
    assert (code, err) == (0, "")
    assert "# yaml-language-server: $schema=recipe.schema.json" in out
    made = json.loads(Path("recipe.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(made)
    assert faults_in(made, "losses: {nearer: {width: 2, scale: {schedule: linear, start: 1, end: 2}}}") == set()
    assert faults_in(made, "losses: {nearer: {width: wide, scale: null}}") == {"losses.nearer.width"}
    assert faults_in(made, "losses: {odd: {kind: a}}") == set()
    assert faults_in(made, "losses: {odd: {knid: a}}") == {"losses.odd"}
    assert made["$defs"]["loss_nearer"]["description"] == "The student's logits come nearer."


def test_schema_is_printed_or_written_and_never_over_a_file_that_is_there(distill):
    assert json.loads(distill("recipes", "schema")[1]) == recipe_schema(Catalogue())
    Path("there.json").write_text("mine", encoding="utf-8")
    code, out, err = distill("recipes", "schema", "-o", "there.json")
    assert (code, out) == (2, "")
    assert "there.json is there already" in err
    assert Path("there.json").read_text() == "mine"
    assert distill("recipes", "schema", "-o", "there.json", "--force")[0] == 0
    assert distill("recipes", "schema", "-o", "no/there.json")[0] == 2


def fields(model: type[BaseModel], seen: set[type]) -> Iterator[tuple[str, Any]]:
    """Every key of a model and of those inside it."""
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        yield f"{model.__name__}.{name}", field
        yield from inside(field.annotation, seen)


def inside(annotation: Any, seen: set[type]) -> Iterator[tuple[str, Any]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, seen)
    for part in get_args(annotation):
        yield from inside(part, seen)


def test_every_key_of_a_recipe_has_a_description():
    found = dict(fields(Recipe, set()))
    assert {"Recipe.seed", "Cache.top_k", "OneOfSeveral.weight", "LossEntry.weight", "Schedule.epochs"} <= set(found)
    assert {name.partition(".")[0] for name in found} >= {"Recipe", "Train", "Data", "Augment", "Student", "Teacher", Schedule.__name__}
    assert not [name for name, field in found.items() if not field.description]


def test_reference_has_a_row_for_every_key():
    text = recipes_page.PAGE.read_text(encoding="utf-8").partition(recipes_page.BEGIN)[2]
    for name in (name.rpartition(".")[2] for name, _ in fields(Recipe, set())):
        assert f".{name}` |" in text or f"| `{name}` |" in text, name
    assert "| `train.lr` | number above 0 | must be given | Highest learning rate. |" in text
    assert "| `data.augment.hue` | number from 0 to 0.5 | `0.0` |" in text
    assert "| `losses.LABEL.weight` | number 0 or more, or text such as `auto(0.5)`, or [schedule](#a-schedule) | `1.0` |" in text
    assert not [row for row in text.splitlines() if row.startswith("|") and row.replace("\\|", "").count("|") != 5]
