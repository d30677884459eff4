"""From a name to a Recipe: finds the file, merges what it extends and what is overridden, and knows where each value was written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import ValidationError

from distill.errors import RecipeError
from distill.recipe import Recipe, shown_value, what_is_wrong
from distill.recipe_identity import WHERE_WEIGHTS_ARE, differences, fingerprint, leaves
from distill.recipe_search import all_names, find_recipe, is_file, list_recipes, name_of, read_text, real_path, recipe_folders, refuse, shown_path
from distill.recipe_teachers import in_full
from distill.recipe_yaml import MAX_NESTING, Node, Problem, dotted, merge, nodes_along, parse, plain_values, printable, to_yaml, tree_of
from distill.suggestion import did_you_mean

__all__ = [
    "WHERE_WEIGHTS_ARE",
    "Draft",
    "Problem",
    "differences",
    "draft_as_if",
    "explain",
    "find_recipe",
    "fingerprint",
    "list_recipes",
    "load_recipe",
    "read_draft",
    "recipe_folders",
    "to_yaml",
]
MAX_EXTENDS, MAX_FILES = 10, 100
_NAME = "found_as"  # beside a recipe's fields, as a cached property is: it names runs, and is no part of what the recipe says or of being equal


class Draft(NamedTuple):
    """A recipe's values before they are checked: merged, each with its origin, and what is wrong so far."""

    name: str
    tree: Node
    problems: tuple[Problem, ...] = ()
    files: tuple[tuple[int, Path], ...] = ()  # that were read: 0 and the recipe itself, 1 and what it extends, 2 and what that extends, ...

    @property
    def values(self) -> dict[str, Any]:
        """Returns the merged values as written, without defaults and without losses that a null removed."""
        values = plain_values(self.tree)
        if isinstance(values.get("losses"), dict):
            values["losses"] = {label: entry for label, entry in values["losses"].items() if entry is not None}
        return values

    def origin(self, path: str | Sequence[str | int]) -> str:
        """Returns where the value at this path, or else the mapping around it, was written."""
        return nodes_along(self.tree, path.split(".") if isinstance(path, str) else path)[-1].origin

    def merged(self, values: dict[str, Any], origin: str) -> "Draft":
        """Returns a draft with these nested values on top; `origin` says where they come from."""
        return self._replace(tree=merge(self.tree, tree_of(values, origin)))

    def finish(self, extra_problems: Iterable[Problem] = ()) -> Recipe:
        """Returns the checked recipe, its chain in full; raises one RecipeError that lists every problem, the given ones included."""
        recipe, problems = None, list(self.problems)
        known = {problem.path for problem in problems}
        try:
            recipe = Recipe.model_validate(self.values)
            faults = []
        except ValidationError as error:
            faults = [Problem(dotted(path), message, self.origin(path)) for path, message in what_is_wrong(error)]
        # what could not be read is missing or null, and saying that too would only confuse
        problems += [fault for fault in (*self._idle_removals(), *faults) if fault.path not in known]
        for path, message, origin in extra_problems:  # found by others, in values as they were written
            problems.append(Problem(printable(path), message, origin or self.origin(path)))
        if recipe is None or problems:
            raise RecipeError("\n".join(dict.fromkeys(map(str, problems))))
        recipe = in_full(recipe)
        recipe.__dict__[_NAME] = self.name
        return recipe

    def _idle_removals(self) -> Iterator[Problem]:
        losses = self.tree.value.get("losses")
        for label, node in losses.value.items() if losses and isinstance(losses.value, dict) else ():
            # `ce:` with nothing after it is null too, and would silently be no loss at all
            if node.value is None and not node.is_replacing:
                message = f"null removes an inherited loss, but none is inherited; for its defaults write {printable(label)}: {{}}"
                yield Problem(dotted(("losses", label)), message, node.origin)


def read_draft(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Draft:
    """Returns what a recipe, the files it extends and the overrides say together; RecipeError where a file can't be read."""
    draft = _read(find_recipe(name_or_path))
    for override in overrides:
        draft = _override(draft, override)
    return draft


def draft_as_if(text: str, path: Path) -> Draft:
    """Returns what a file with this text would say if it lay there. Raises RecipeError where it could not be read there."""
    return _read(path, {real_path(path): text})


def _read(path: Path, texts: Mapping[Path, str] = MappingProxyType({})) -> Draft:
    reader = _Reader(path, texts)
    return Draft(name_of(path), reader.read(path), tuple(reader.problems), tuple(reader.files))


def draft_of(recipe: Recipe, overrides: Sequence[str] = ()) -> Draft:
    """Returns the draft that a recipe could have come from, with the overrides on top."""
    name = recipe.__dict__.get(_NAME, "recipe")
    draft = Draft(name, tree_of(recipe.model_dump(mode="json"), f"the recipe {printable(name)}"))
    for override in overrides:
        draft = _override(draft, override)
    return draft


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the checked recipe of this name, path or run folder, with the overrides, such as "train.epochs=1", on top.

    Raises one RecipeError that lists everything that is wrong with it, each with its file and line; names of losses, networks and sources are
    looked up by `train`, which knows the plug-ins. A recipe can't be changed; `recipe.model_dump()` is all of it as plain values.
    """
    return read_draft(name_or_path, overrides).finish()


def _override(draft: Draft, text: str) -> Draft:
    origin = f"override `{printable(text)}`"
    key, equals, value = text.removeprefix("~").partition("=")
    is_removal, path = text.startswith("~"), tuple(key.split("."))
    if not all(path) or bool(equals) is is_removal or len(path) > MAX_NESTING:
        return draft._replace(problems=(*draft.problems, Problem("", "is not of the form key=value, key.key=value or ~key", origin)))
    node, problems = None, [Problem(dotted(path), message, origin) for message in _obstacles(draft.tree, path, is_removal)]
    if not is_removal and not problems:
        node, problems = parse(value, lambda line: origin, path)
        if node is None and not problems:
            problems = [Problem(dotted(path), "has no value; write null for none", origin)]
    if problems:
        return draft._replace(problems=(*draft.problems, *problems))
    if is_removal:
        return draft._replace(tree=_without(draft.tree, path))
    assert node is not None  # or there would be a problem
    for part in reversed(path):
        node = Node({part: node}, origin)
    return draft._replace(tree=merge(draft.tree, node))


def _obstacles(tree: Node, path: tuple[str, ...], is_removal: bool) -> Iterator[str]:
    parents = nodes_along(tree, path[:-1])
    for depth, node in enumerate(parents):
        if not isinstance(node.value, dict | None):
            yield f"{dotted(path[:depth])} is {shown_value(plain_values(node))}, not a mapping: nothing can be set or removed inside it"
            return
    if is_removal and len(nodes_along(tree, path)) <= len(path):
        close = get_close_matches(path[len(parents) - 1], parents[-1].value or (), 1)
        hint = f"; did you mean '~{dotted((*path[: len(parents) - 1], *close))}'?" if close else ""
        yield f"is not written in the recipe, so it can't be removed{hint}"


def _without(node: Node, path: Sequence[str]) -> Node:
    first, *rest = path
    kept = {key: item for key, item in node.value.items() if key != first or rest}
    return node._replace(value={**kept, first: _without(kept[first], rest)} if rest else kept)


class _Reader:
    """Reads a recipe and what it extends, from that recipe's own folder and the recipe folders only."""

    def __init__(self, path: Path, texts: Mapping[Path, str]):
        """texts: what is read in place of these files, which need not be there."""
        self.texts = texts
        self.roots = [real_path(path).parent, *(real_path(folder) for folder in recipe_folders())]
        self.problems: list[Problem] = []
        self.files: list[tuple[int, Path]] = []

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> Node:
        """Returns the values of a file on top of those of the files that it extends; `chain` leads from the first file to this one."""
        path = real_path(path)
        self.files.append((len(chain), path))
        own = self._parsed(path)
        parents = own.value.pop("extends", None)
        tree = Node({}, own.origin)
        for name, origin in self._parents(parents):
            parent = self.find(name, path, origin)
            if parent in (*chain, path):
                refuse("extends", f"goes in a circle: {' -> '.join(map(shown_path, (*chain, path, parent)))}", origin)
            if len(chain) >= MAX_EXTENDS or len(self.files) > MAX_FILES:
                refuse("extends", f"goes through more than {MAX_EXTENDS} levels or {MAX_FILES} files", origin)
            tree = merge(tree, self.read(parent, (*chain, path)))
        return merge(tree, own)._replace(origin=own.origin)

    def _parsed(self, path: Path) -> Node:
        shown = shown_path(path)
        node, problems = parse(self.texts[path] if path in self.texts else read_text(path), lambda line: f"{shown}:{line}")
        # a parent's name that can't be read is null by now, which is not what is wrong with it
        if problems and (node is None or any(problem.path.partition(".")[0] == "extends" for problem in problems)):
            raise RecipeError("\n".join(map(str, problems)))
        if node is None:
            refuse("", "is empty; a recipe is a mapping (key: value)", shown)
        if not isinstance(node.value, dict):
            refuse("", f"a recipe must be a mapping (key: value), not {shown_value(plain_values(node))}", node.origin)
        self.problems += problems
        return node

    @staticmethod
    def _parents(node: Node | None) -> list[tuple[str, str]]:
        items = [] if node is None else node.value if isinstance(node.value, list) else [node]
        for item in items:
            if not isinstance(item.value, str) or not item.value:
                refuse("extends", f"must be a recipe's name or a list of names, got {shown_value(plain_values(item))}", item.origin)
        return [(item.value, item.origin) for item in items]

    def find(self, name: str, extending: Path, origin: str) -> Path:
        suffix = "" if name.endswith((".yaml", ".yml")) else ".yaml"
        places = [real_path(folder / (name + suffix)) for folder in (extending.parent, *recipe_folders())]
        # by real path, so that neither .. nor a symbolic link leads a stranger's recipe to other files
        allowed = [place for place in places if any(place.is_relative_to(root) for root in self.roots)]
        found = [place for place in allowed if place in self.texts or is_file(place)]
        is_outside = not allowed or any(map(is_file, places))
        if Path(name).is_absolute() or name.startswith("~") or (is_outside and not found):
            refuse("extends", f"{shown_value(name)} is outside this recipe's folder and the recipe folders", origin)
        if not found:
            refuse("extends", f"there is no recipe {shown_value(name)}{did_you_mean(name, all_names())}", origin)
        return found[0]


def explain(draft: Draft, recipe: Recipe, *, changed_only: bool = False) -> list[tuple[str, Any, str]]:
    """Returns (path, value, origin) of everything in the recipe, or of what is not as it is by default."""
    rows = []
    for path, value in leaves(recipe.model_dump(mode="json", exclude_defaults=changed_only)):
        place = _written_at(path, draft.tree.value.get("chain"))
        along = nodes_along(draft.tree, place)
        rows.append((dotted(path), value, along[-1].origin if len(along) > len(place) else "default"))
    return rows


def _written_at(path: tuple[str, ...], chain: Node | None) -> tuple[str, ...]:
    """Where a value stands in the recipe's files: the first network of a chain in `teacher`, and the others in nothing but the chain."""
    if chain is None or chain.value is None or path[0] != "teacher":
        return path
    depth = len(chain.value) - 1
    is_of_the_first = path[:depth] == ("teacher",) * depth and path[depth:] not in ((), ("model",))
    return path[depth - 1 :] if is_of_the_first else ("chain",)
