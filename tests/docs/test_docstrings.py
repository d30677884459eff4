"""What the code says of itself: every public name has a docstring, and those of the public surface give shapes, errors and source."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

from distill.loss_cards import loss_card
from distill.resolve import Catalogue

ROOT = Path(__file__).resolve().parents[2]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted((ROOT / "distill").rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}
CATALOGUE = Catalogue()

# Each function is what a command does, and cli_options.py has the words that the command line shows of it.
WITHOUT = {"distill.commands"}
OF_TORCH = {"forward", "train"}  # torch's Module says what these are; a class's docstring says what its forward takes and gives
SHAPE = re.compile(r"\[[^\]]*\]|\bscalar\b")
PAPER = re.compile(r"\b(19|20)\d\d\b")
PLACE = re.compile(r"arXiv \d{4}\.\d{4,5}|\b(ICCV|CVPR|ICLR|ECCV|NeurIPS|ICML|AAAI|KDD|WACV|IJCAI)\b")


class Place(NamedTuple):
    """A public function, class or method."""

    module: str
    name: str
    node: ast.FunctionDef | ast.ClassDef
    owner: ast.ClassDef | None


def strict_modules() -> list[str]:
    """The public surface: what mypy holds to the strict settings."""
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["overrides"]
    (patterns,) = [one["module"] for one in overrides if one.get("disallow_untyped_defs")]
    return [name for name in MODULES if any(fnmatch(name, pattern) or name == pattern.removesuffix(".*") for pattern in patterns)]


def places(module: str) -> Iterator[Place]:
    for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield Place(module, node.name, node, None)
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                yield Place(module, f"{node.name}.{method.name}", method, node)


def method_of(cls: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((node for node in cls.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


ALL = [place for module in MODULES if module not in WITHOUT for place in places(module)]
CLASSES = {place.name: place.node for place in ALL if isinstance(place.node, ast.ClassDef)}
PUBLIC = [place for place in ALL if place.module in strict_modules()]


def says(place: Place) -> str:
    """Its docstring; of a method without one, that of the method which it overrides."""
    said = ast.get_docstring(place.node) or ""
    bases = [base.id for base in place.owner.bases if isinstance(base, ast.Name)] if place.owner is not None and not said else []
    for base in bases:
        if base in CLASSES and (method := method_of(CLASSES[base], place.node.name)) is not None:
            said = said or says(Place("", "", method, CLASSES[base]))
    return said


def tensors_in(place: Place) -> bool:
    """Whether it takes or gives a Tensor itself, and not in something of ours."""
    if not isinstance(place.node, ast.FunctionDef):
        return False
    hints = [argument.annotation for argument in (*place.node.args.args, *place.node.args.kwonlyargs)] + [place.node.returns]
    return any(re.fullmatch(r"(tuple\[)?Tensor\b.*", ast.unparse(hint)) for hint in hints if hint is not None)


def raised(node: ast.AST) -> set[str]:
    """Our errors that its own lines raise."""
    calls = [one.exc for one in ast.walk(node) if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call)]
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    return names & {"DistillError", "RecipeError", "DataError", "DivergedError", "StoppedError"}


def shown(found: list[Place]) -> list[str]:
    return [f"{place.module}: {place.name}" for place in found]


def test_every_module_begins_with_what_it_is_for():
    assert [name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_the_public_surface_has_what_the_package_exports():
    source = ast.parse(MODULES["distill"].read_text(encoding="utf-8"))
    (exported,) = [ast.literal_eval(node.value) for node in source.body if isinstance(node, ast.Assign) and node.targets[0].id == "_PLACES"]
    assert set(exported.values()) - {"distill.job"} <= set(strict_modules())  # of the job, `train` alone is for others


def test_every_public_function_and_class_says_what_it_is():
    assert shown([place for place in ALL if place.owner is None and not says(place)]) == []


def test_every_public_method_of_the_public_surface_says_what_it_is():
    assert shown([place for place in PUBLIC if place.node.name not in OF_TORCH and not says(place)]) == []


def test_public_functions_of_tensors_give_their_shapes():
    functions = [place for place in PUBLIC if tensors_in(place) and place.owner is None]
    assert len(functions) > 40
    assert shown([place for place in functions if not SHAPE.search(says(place))]) == []


def test_public_functions_name_the_errors_that_they_raise():
    raising = [(place, raised(place.node)) for place in PUBLIC if isinstance(place.node, ast.FunctionDef)]
    assert sum(bool(errors) for _, errors in raising) > 20
    assert shown([place for place, errors in raising if not all(error in said_of(place) for error in errors)]) == []


def said_of(place: Place) -> str:
    """A method's errors may stand in its class's docstring."""
    return says(place) + (ast.get_docstring(place.owner) or "" if place.owner is not None else "")


def test_constructors_name_the_errors_that_they_raise():
    found = []
    for place in PUBLIC:
        init = method_of(place.node, "__init__") if isinstance(place.node, ast.ClassDef) else None
        if init is not None and not all(error in f"{ast.get_docstring(init)} {ast.get_docstring(place.node)}" for error in raised(init)):
            found.append(place)
    assert shown(found) == []


@pytest.mark.parametrize("name", [name for name in CATALOGUE.names("losses") if name != "ce"])
def test_every_loss_names_the_year_and_the_place_of_its_paper(name):
    paper = loss_card(name, CATALOGUE.get("losses", name)).paper
    assert PAPER.search(paper)
    assert PLACE.search(paper)


@pytest.mark.parametrize("name", CATALOGUE.names("losses"))
def test_every_loss_says_how_it_reduces_over_the_batch(name):
    card = loss_card(name, CATALOGUE.get("losses", name))
    assert re.search(r"\bmeans?\b|\b1 / \(?N\b|/ N\b", card.equation)


@pytest.mark.parametrize("name", CATALOGUE.names("losses"))
def test_every_loss_with_a_temperature_says_where_it_stands_in_the_equation(name):
    card = loss_card(name, CATALOGUE.get("losses", name))
    if "temperature" in {argument.name for argument in card.arguments}:
        assert re.search(r"\bT\b|T\^2|temperature", f"{card.equation} {card.notes}")


def test_a_function_without_a_docstring_would_be_found():
    node = ast.parse("def bare(x: Tensor) -> Tensor:\n    raise RecipeError('no')").body[0]
    place = Place("m", "bare", node, None)
    assert (says(place), tensors_in(place), raised(node)) == ("", True, {"RecipeError"})
