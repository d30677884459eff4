"""2,000 recipes that nobody would write: each is a recipe or one clear refusal, and a recipe comes back from its own file as it was."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st

from distill.build.check import find_problems
from distill.errors import RecipeError
from distill.recipe import Recipe
from distill.recipe_files import list_recipes, load_recipe, read_draft, to_yaml
from distill.resolve import Catalogue

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")  # its notes do not belong into the checkout
# derandomize: the same 2,000 each time, so that a change which fails here fails for everybody
FUZZ = settings(max_examples=500, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

CATALOGUE = Catalogue()
RECIPES = list_recipes()
TEXTS = [path.read_text(encoding="utf-8") for path in RECIPES.values()]
VALUES = [read_draft(path).values for path in RECIPES.values()]


def read(name: str, overrides: Sequence[str] = ()) -> None:
    """Fails unless this gives a recipe that its own file gives again, or a RecipeError that a terminal can show."""
    try:
        draft = read_draft(name, overrides)
        recipe = draft.finish(find_problems(draft.values, CATALOGUE))
    except RecipeError as error:
        message = str(error)
    else:
        Path("again.yaml").write_text(to_yaml(recipe), encoding="utf-8")
        assert load_recipe("again.yaml") == recipe
        message = "it is a recipe"
    assert message
    assert message.replace("\n", "").isprintable()


def read_text(text: str) -> None:
    Path("mine.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    read("mine.yaml")


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The way to everything inside of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in items for found in [(*path, key), *paths(item, (*path, key))]]


def at(value: Any, path: Sequence[str | int]) -> Any:
    for step in path:
        value = value[step]
    return value


USUAL: dict[str, list[Any]] = {}  # what the shipped recipes say under each key
for one in VALUES:
    for path in paths(one):
        USUAL.setdefault(str(path[-1]), []).append(at(one, path))
KNOWN_PATHS = sorted({".".join(map(str, path)) for values in VALUES for path in paths(values)})
KEYS = [*Recipe.model_fields, "extends", "type", "weight", "temperature", "layers", "schedule", "start", "end", "epochs", "arguments", "overrides"]
KEYS += ["model", "lr", "plugin", "plugins", "x", "a.b", "", "<<", "__init__", "self", "0", "null", "kd", "ce", "é"]
ODD_NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.0, -0.0, 1e-300, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 0.5]
ODD_TEXTS = [
    "",
    " ",
    "0",
    "true",
    "null",
    "~",
    "nan",
    "1e400",
    "auto",
    "auto(1)",
    "auto(1e999)",
    "auto(-1)",
    "kd",
    "os.system",
    "../../x",
    "/etc/passwd",
]
ODD_TEXTS += [
    "timm/",
    "timm/resnet18",
    "torchvision/alexnet",
    "timm/hf-hub:a/b",
    "layer1",
    "a.b",
    "{a: b}",
    "<<",
    "é\u2028\ufeff",
    "x" * 300,
    "\x1b[31m",
]
SCHEDULES = [{"schedule": kind, "start": start, "end": end} for kind in ("linear", "cosine") for start in (0, 1e308) for end in (1, 10**400)]
SCHEDULES += [{"schedule": "warmup", "end": 1, "epochs": epochs} for epochs in (0.5, 1e308, 10**400)]
SCHEDULES += [{"schedule": "stop_at", "start": 1, "epochs": 1}, {"schedule": []}]
PIECES = [
    *"a1{}[],'\"|>%#\té~:?-&*!",
    ": ",
    "- ",
    "\n",
    "  ",
    "&a ",
    "*a",
    "!!int ",
    "!!python/name:os.system ",
    "<<: ",
    "\\U",
    "---\n",
    "...\n",
    "\0",
    "\r",
]
TOPS = [f"{key}: " for key in (*Recipe.model_fields, "extends")]

# no subnormal numbers: training turns them off, for the whole process
scalars = [
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.integers(),
    st.floats(allow_subnormal=False),
    st.text(max_size=8),
]
odd = st.recursive(
    st.one_of(*scalars, st.sampled_from(SCHEDULES)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
).map(copy.deepcopy)  # or an accident inside a sampled value would stay in the list that it was sampled from


def usual(key: str | int) -> st.SearchStrategy[Any]:
    """What recipes say there, which passes more checks than what is only odd."""
    return st.sampled_from([*USUAL.get(str(key), [None]), *SCHEDULES]).map(copy.deepcopy)


@st.composite
def mutated_values(draw: st.DrawFn) -> dict[str, Any]:
    """A real recipe after one to three accidents."""
    values = copy.deepcopy(draw(st.sampled_from(VALUES)))
    for _ in range(draw(st.integers(1, 3))):
        *way, key = draw(st.sampled_from(paths(values) or [("seed",)]))
        place = at(values, way)
        old = place.pop(key) if isinstance(place, dict) and key in place else None
        accident = draw(st.sampled_from(["odd", "odd", "usual", "usual", "usual", "rename", "list", "nest", "add", "remove"]))
        if not isinstance(place, dict):
            place[key] = draw(odd)
        elif accident == "rename":
            place[draw(st.sampled_from(KEYS))] = old
        elif accident == "add":
            place |= {key: old, draw(st.sampled_from(KEYS)): draw(odd)}
        elif accident == "nest":
            place[key] = {draw(st.sampled_from(KEYS)): old}
        elif accident != "remove":
            place[key] = [old] if accident == "list" else draw(odd if accident == "odd" else usual(key))
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


@st.composite
def override(draw: st.DrawFn) -> str:
    path = draw(st.sampled_from(KNOWN_PATHS) | st.lists(st.sampled_from(KEYS), max_size=3).map(".".join))
    kind = draw(st.sampled_from(["usual", "usual", "usual", "odd", "text", "removal"]))
    if kind == "removal":
        return f"~{path}"
    if kind == "text":
        return f"{path}={draw(st.sampled_from(ODD_TEXTS) | st.text(max_size=6))}"
    return f"{path}={json.dumps(draw(odd if kind == 'odd' else usual(path.rpartition('.')[2])), ensure_ascii=False)}"


random_text = st.lists(st.sampled_from([*PIECES, *TOPS, "\n", "\n  ", "r50_to_r18", "1e400", "9" * 5000]) | st.text(max_size=3), max_size=30)


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
def test_random_text_is_read_or_refused(pieces):
    read_text("".join(pieces))


@FUZZ
@given(st.sampled_from(sorted(RECIPES)), st.lists(override(), min_size=1, max_size=2))
def test_random_overrides_are_applied_or_refused(name, changes):
    read(name, changes)
