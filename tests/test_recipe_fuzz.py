"""2,000 recipes that nobody would write: each is a recipe or one clear refusal, and a recipe comes back from its own file as it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.build.check import find_problems
from distill.errors import RecipeError
from distill.recipe import Recipe
from distill.recipe_files import list_recipes, load_recipe, read_draft, to_yaml
from distill.resolve import Catalogue

CATALOGUE = Catalogue()
FILES = sorted(list_recipes().values())
TEXTS = [path.read_text(encoding="utf-8") for path in FILES]
VALUES = [read_draft(path).values for path in FILES]
# derandomize: the same 2,000 each time, so that a change which fails here fails for everybody
FUZZ = settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.0, -0.0, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 0.5]
ODD_TEXTS = ["", " ", "0", "true", "null", "~", "nan", "1e400", "auto", "auto(1)", "auto(1e999)", "auto(-1)", "kd", "os.system", "../../x", "/etc/passwd"]
ODD_TEXTS += ["timm/", "timm/resnet18", "torchvision/alexnet", "timm/hf-hub:a/b", "layer1", "a.b", "{a: b}", "<<", "é\u2028\ufeff", "x" * 300, "\x1b[31m"]
KEYS = [*Recipe.model_fields, "extends", "type", "weight", "temperature", "layers", "schedule", "start", "end", "epochs", "arguments", "overrides"]
KEYS += ["model", "lr", "plugin", "plugins", "x", "a.b", "", "<<", "__init__", "self", "0", "null", "kd", "ce", "é"]
SCHEDULES = [{"schedule": kind, "start": start, "end": end} for kind in ("linear", "cosine") for start in (0, 1e308) for end in (1, 10**400)]
SCHEDULES += [{"schedule": "warmup", "end": 1, "epochs": 10**400}, {"schedule": "stop_at", "start": 1, "epochs": 1}, {"schedule": []}]

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(ODD_NUMBERS), st.sampled_from(ODD_TEXTS), st.integers(), st.floats(), st.text(max_size=8)
)
odd = st.recursive(
    st.one_of(scalars, st.sampled_from(SCHEDULES)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def read(name: str, overrides: Sequence[str] = ()) -> Recipe | None:
    """The recipe; None where it is refused as a recipe should be."""
    try:
        draft = read_draft(name, overrides)
        recipe = draft.finish(find_problems(draft.values, CATALOGUE))
    except RecipeError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(line.isprintable() for line in str(error).split("\n")), lines
        return None
    Path("again.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe("again.yaml") == recipe
    return recipe


def read_text(text: str) -> Recipe | None:
    Path("mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    return read("mine.yaml")


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The way to everything inside of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in [(*path, key), *paths(item, (*path, key))]]


@st.composite
def mutated_values(draw: st.DrawFn) -> dict[str, Any]:
    """A real recipe after one to four accidents."""
    values = json.loads(json.dumps(draw(st.sampled_from(VALUES))))
    for _ in range(draw(st.integers(1, 4))):
        *way, key = draw(st.sampled_from(paths(values) or [("seed",)]))
        place = values
        for step in way:
            place = place[step]
        old = place.pop(key) if isinstance(place, dict) and key in place else None
        accident = draw(st.sampled_from(["replace", "replace", "replace", "rename", "list", "nest", "add", "remove"]))
        if not isinstance(place, dict):
            place[key] = draw(odd)
        elif accident == "rename":
            place[draw(st.sampled_from(KEYS))] = old
        elif accident == "add":
            place |= {key: old, draw(st.sampled_from(KEYS)): draw(odd)}
        elif accident != "remove":
            place[key] = {"replace": draw(odd), "list": [old], "nest": {draw(st.sampled_from(KEYS)): old}}[accident]
    return values


@st.composite
def mutated_text(draw: st.DrawFn) -> str:
    """A real recipe's text after one to four slips of the keyboard."""
    lines = draw(st.sampled_from(TEXTS)).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(lines) - 1))
        line, slip = lines[place], draw(st.integers(0, 5))
        cut = draw(st.integers(0, len(line)))
        piece = draw(st.sampled_from(PIECES) | st.text(max_size=4))
        lines[place] = [line[:cut] + piece + line[cut:], line[:cut], "  " + line, line.lstrip(), f"{line}\n{line}", piece][slip]
    return "\n".join(lines)


PIECES = [*"a1{}[],'\"|>%#\té~:?-&*!", ": ", "- ", "\n", "  ", "&a ", "*a", "!!int ", "!!python/name:os.system ", "<<: ", "\\U", "---\n", "...\n", "\0", "\r"]
TOPS = [f"{key}: " for key in (*Recipe.model_fields, "extends")]
random_text = st.lists(st.sampled_from([*PIECES, *TOPS, "\n", "\n  ", "r50_to_r18", "1e400", "9" * 5000]) | st.text(max_size=3), max_size=30).map("".join)
KNOWN_PATHS = sorted({".".join(map(str, path)) for values in VALUES for path in paths(values)})
override_values = odd.map(lambda value: json.dumps(value, ensure_ascii=False)) | st.sampled_from(ODD_TEXTS) | st.text(max_size=6)
overrides = st.builds(
    "{}{}={}".format, st.sampled_from(KNOWN_PATHS) | st.lists(st.sampled_from(KEYS), max_size=3).map(".".join), st.just(""), override_values
) | st.builds("~{}".format, st.sampled_from(KNOWN_PATHS) | st.text(max_size=6))


@FUZZ
@given(mutated_values())
def test_mutated_recipe_is_read_or_refused(values):
    read_text(json.dumps(values))


@FUZZ
@given(mutated_text())
def test_mistyped_recipe_is_read_or_refused(text):
    read_text(text)


@FUZZ
@given(random_text)
def test_random_text_is_read_or_refused(text):
    read_text(text)


@FUZZ
@given(st.sampled_from(sorted(list_recipes())), st.lists(overrides, min_size=1, max_size=4))
def test_random_overrides_are_applied_or_refused(name, changes):
    read(name, changes)
