"""From a name to a Recipe: finds the file, merges what it extends and what is overridden, and knows where each value was written."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, NoReturn

import yaml
from pydantic import ValidationError
from yaml.composer import ComposerError

from distill.errors import RecipeError
from distill.recipe import Recipe, shown_value, what_is_wrong
from distill.suggestion import did_you_mean

RESOLVED = "recipe.resolved.yaml"
MAX_BYTES, MAX_ALIASES, MAX_NESTING, MAX_VALUES, MAX_EXTENDS, MAX_FILES = 2**20, 100, 30, 20_000, 10, 100
_NAME = re.compile(r"\w[\w.-]{0,99}(/\w[\w.-]{0,99})*", re.ASCII)
_TAG = "tag:yaml.org,2002:"
# YAML 1.2's plain values, which is what people expect: 1e-3 is a number, while `no`, 12:30 and dates are text
_SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (re.compile(r"(~|null|Null|NULL|)\Z"), lambda text: None),
    "bool": (re.compile(r"([Tt]rue|TRUE|[Ff]alse|FALSE)\Z"), lambda text: text.lower() == "true"),
    "int": (re.compile(r"[-+]?[0-9]+(_[0-9]+)*\Z"), int),
    "float": (
        re.compile(r"([-+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
        lambda text: float(text.lower().replace(".i", "i").replace(".n", "n")),
    ),
    "str": (re.compile(r"[^\0\x85\ud800-\udfff]*\Z"), str),  # escapes can write what no file name, or no YAML file, keeps
}
_WILDCARD = {None: [(_TAG + kind, _SCALARS[kind][0]) for kind in ("null", "bool", "int", "float")]}


class Problem(NamedTuple):
    """One thing wrong with a recipe; an empty origin is filled in from the path."""

    path: str
    message: str
    origin: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.origin, self.path, self.message) if part)


class Node(NamedTuple):
    """A value, where it was written, and whether it took the place of an inherited one."""

    value: Any  # a scalar, a list of Nodes or a dict of Nodes
    origin: str
    is_replacing: bool = False


class _Loader(yaml.SafeLoader):
    """YAML reduced to plain data, within limits that keep a small file from becoming a huge value."""

    yaml_implicit_resolvers: ClassVar = _WILDCARD

    def __init__(self, text: str, place: Callable[[int], str]):
        super().__init__(text)
        self.place, self.problems = place, []
        self.nodes, self.aliases, self.nesting, self.values = 0, 0, 0, 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        self.aliases += self.check_event(yaml.AliasEvent)
        self.nodes, self.nesting = self.nodes + 1, self.nesting + 1
        self._limit(self.nodes, MAX_VALUES, "keys and values", self.peek_event())
        self._limit(self.aliases, MAX_ALIASES, "aliases", self.peek_event())
        self._limit(self.nesting, MAX_NESTING, "levels of nesting", self.peek_event())
        node = super().compose_node(parent, index)
        self.nesting -= 1
        return node

    @staticmethod
    def _limit(count: int, most: int, what: str, where: Any) -> None:
        if count > most:
            raise ComposerError(None, None, f"more than {most} {what}", where.start_mark)

    def tree(self, node: yaml.Node, path: tuple[str, ...]) -> Node:
        self.values += 1
        self._limit(self.values, MAX_VALUES, "values (aliases count each time)", node)
        self._limit(len(path), 2 * MAX_NESTING, "levels of nesting (an alias inside itself?)", node)
        kind, origin = node.tag.removeprefix(_TAG), self.place(node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return Node(self._mapping(node, path), origin)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return Node([self.tree(item, (*path, str(i))) for i, item in enumerate(node.value)], origin)
        if not isinstance(node, yaml.ScalarNode) or kind not in _SCALARS:
            wrong = f"the tag {_printable(node.tag[:80])} is not allowed: a recipe is plain data"
        elif not _SCALARS[kind][0].match(node.value):
            wrong = f"{shown_value(node.value)} can't be read as {kind.replace('str', 'text')}"
        else:
            return Node(_SCALARS[kind][1](node.value), origin)
        self.problems.append(Problem(_dotted(path), wrong, origin))
        return Node(None, origin)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Node]:
        values: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            here = (*path, key if isinstance(key, str) else "?")
            wrong = ""
            if not isinstance(key, str) or key_node.tag != _TAG + "str" or not _SCALARS["str"][0].match(key):
                wrong = "a key must be text (in quotes, if it looks like something else)"
            elif key == "<<" and key_node.style is None:
                wrong = "merge keys are not supported: use extends"
            elif key in values:
                wrong = f"given twice, on lines {lines[key]} and {line}"
            else:
                values[key], lines[key] = self.tree(value_node, here)._replace(origin=self.place(line)), line
            if wrong:
                self.problems.append(Problem(_dotted(here), wrong, self.place(line)))
        return values


def _dotted(path: Iterable[str | int]) -> str:
    return ".".join(_printable(str(part)) for part in path)


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _parse(text: str, place: Callable[[int], str], path: tuple[str, ...] = ()) -> tuple[Node | None, list[Problem]]:
    """Returns the values in a YAML text, None where there are none, and what is wrong with them."""
    try:
        loader = _Loader(text, place)
        node = loader.get_single_node()
        return (None if node is None else loader.tree(node, path)), loader.problems
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Problem(_dotted(path), f"the character {chr(error.character)!a} is not allowed", place(line))]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces, not tabs" if "\\t" in str(error.problem) else ""
        words = ", ".join(part for part in (error.context, error.problem) if part)
        return None, [Problem(_dotted(path), f"not valid YAML: {words}{hint}", place(mark.line + 1 if mark else 1))]
    except (ValueError, OverflowError) as error:  # escapes such as "\U99999999" and numbers of 5,000 digits pass PyYAML's own checks
        return None, [Problem(_dotted(path), f"not valid YAML: {error}", place(1))]


def _merge(old: Node, new: Node) -> Node:
    if not (isinstance(old.value, dict) and isinstance(new.value, dict)):
        return new._replace(is_replacing=True)
    both = {key: _merge(old.value[key], node) if key in old.value else node for key, node in new.value.items()}
    return old._replace(value={**old.value, **both})


def _along(tree: Node, path: Iterable[str | int]) -> list[Node]:
    """Returns the nodes on the way down a path, as far as it exists."""
    nodes = [tree]
    for key in map(str, path):
        value = nodes[-1].value
        if isinstance(value, dict) and key in value:
            nodes.append(value[key])
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            nodes.append(value[int(key)])
        else:
            break
    return nodes


def _values(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _values(item) for key, item in node.value.items()}
    return [_values(item) for item in node.value] if isinstance(node.value, list) else node.value


def _tree(values: Any, origin: str) -> Node:
    if isinstance(values, dict):
        return Node({str(key): _tree(item, origin) for key, item in values.items()}, origin)
    return Node([_tree(item, origin) for item in values] if isinstance(values, list | tuple) else values, origin)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever our loader or another YAML reader would take for something else than text."""

    yaml_implicit_resolvers: ClassVar = {**yaml.SafeDumper.yaml_implicit_resolvers, **_WILDCARD}

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.Node:
        return super().represent_sequence(tag, sequence, flow_style=True)


def _refuse(path: str, message: str, origin: str) -> NoReturn:
    raise RecipeError(str(Problem(path, message, origin)))


def _read_text(path: Path) -> str:
    shown = _shown(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{shown}: can't be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        _refuse("", "is larger than 1 MiB; a recipe is a short text", shown)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{shown}:{line}: is not UTF-8 (byte 0x{content[error.start]:02x} at line {line})") from None


def recipe_folders() -> list[Path]:
    """Returns the folders that recipes are found in by name, the first to look in first."""
    package = Path(__file__).resolve().parent
    # beside an installed package, `recipes` could be anybody's
    checkout = [package.parent / "recipes"] if _is_file(package.parent / "pyproject.toml") else []
    return [Path.cwd() / "recipes", *checkout, package / "recipes"]


def find_recipe(name_or_path: str | Path) -> Path:
    """Returns the file that holds a recipe, given its name, its path or a run folder; RecipeError where there is none."""
    name = str(name_or_path)
    if (name.endswith((".yaml", ".yml")) or os.sep in name) and _is_file(Path(name)):
        return Path(name)
    named = [folder / f"{name}.yaml" for folder in recipe_folders() if _NAME.fullmatch(name)]
    for path in named:
        if _is_file(path) and "base" in name.split("/")[:-1]:
            _refuse("", f"'{name}' is a part that recipes extend, not a recipe", _shown(path))
        if _is_file(path):
            return path
    if _is_file(Path(name) / RESOLVED):
        return Path(name) / RESOLVED
    names, stem = list(list_recipes()), name.removesuffix(".yaml")
    known = f"recipes: {', '.join(names)}" if names else "no recipes were found in ./recipes"
    raise RecipeError(f"there is no recipe or file {shown_value(name)}{did_you_mean(stem, names)} ({known})")


def list_recipes() -> dict[str, Path]:
    """Returns name -> file of every recipe that can be found by its name."""
    return {name: path for name, path in _all_names().items() if "base" not in name.split("/")[:-1]}


def _all_names() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in folder.rglob("*.yaml"):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if _NAME.fullmatch(name) and _is_file(path):
                found.setdefault(name, path)
    return dict(sorted(found.items()))


def _name_of(path: Path) -> str:
    path = _real(path)
    if path.name == RESOLVED:
        return path.parent.name
    inside = [path.relative_to(folder) for folder in map(_real, recipe_folders()) if path.is_relative_to(folder)]
    return inside[0].with_suffix("").as_posix() if inside else path.stem


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (unlike Path.is_file it does not raise for names that are too long)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve it does not raise for links in a circle


def _shown(path: Path) -> str:
    path, here = _real(path), _real(Path.cwd())
    return _printable(str(path.relative_to(here) if path.is_relative_to(here) else path))


class Draft(NamedTuple):
    """A recipe's values before they are checked: merged, each with its origin, and what is wrong so far."""

    name: str
    tree: Node
    problems: tuple[Problem, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        """Returns the merged values as written, without defaults and without losses that a null removed."""
        values = _values(self.tree)
        if isinstance(values.get("losses"), dict):
            values["losses"] = {label: entry for label, entry in values["losses"].items() if entry is not None}
        return values

    def origin(self, path: str | Sequence[str | int]) -> str:
        """Returns where the value at this path, or else the mapping around it, was written."""
        return _along(self.tree, path.split(".") if isinstance(path, str) else path)[-1].origin

    def merged(self, values: dict[str, Any], origin: str) -> "Draft":
        """Returns a draft with these nested values on top; `origin` says where they come from."""
        return self._replace(tree=_merge(self.tree, _tree(values, origin)))

    def finish(self, extra_problems: Iterable[Problem] = ()) -> Recipe:
        """Returns the checked recipe; raises one RecipeError that lists every problem, the given ones included."""
        recipe, problems = None, list(self.problems)
        known = {problem.path for problem in problems}
        try:
            recipe = Recipe.model_validate(self.values)
            faults = []
        except ValidationError as error:
            faults = [Problem(_dotted(path), message, self.origin(path)) for path, message in what_is_wrong(error)]
        # what could not be read is missing or null, and saying that too would only confuse
        problems += [fault for fault in (*self._idle_removals(), *faults) if fault.path not in known]
        problems += [problem if problem.origin else problem._replace(origin=self.origin(problem.path)) for problem in extra_problems]
        if recipe is None or problems:
            raise RecipeError("\n".join(dict.fromkeys(map(str, problems))))
        return recipe

    def _idle_removals(self) -> Iterator[Problem]:
        losses = self.tree.value.get("losses")
        for label, node in losses.value.items() if losses and isinstance(losses.value, dict) else ():
            # `ce:` with nothing after it is null too, and would silently be no loss at all
            if node.value is None and not node.is_replacing:
                message = f"null removes an inherited loss, but none is inherited; for its defaults write {_printable(label)}: {{}}"
                yield Problem(_dotted(("losses", label)), message, node.origin)


def read_draft(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Draft:
    """Returns what a recipe, the files it extends and the overrides say together; RecipeError where a file can't be read."""
    path = find_recipe(name_or_path)
    reader = _Reader(path)
    draft = Draft(_name_of(path), reader.read(path), tuple(reader.problems))
    for override in overrides:
        draft = _override(draft, override)
    return draft


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Returns the checked recipe of this name, path or run folder."""
    return read_draft(name_or_path, overrides).finish()


def _override(draft: Draft, text: str) -> Draft:
    origin = f"override `{_printable(text)}`"
    key, equals, value = text.removeprefix("~").partition("=")
    is_removal, path = text.startswith("~"), tuple(key.split("."))
    if not all(path) or bool(equals) is is_removal or len(path) > MAX_NESTING:
        return draft._replace(problems=(*draft.problems, Problem("", "is not of the form key=value, key.key=value or ~key", origin)))
    node, problems = None, [Problem(_dotted(path), message, origin) for message in _obstacles(draft.tree, path, is_removal)]
    if not is_removal and not problems:
        node, problems = _parse(value, lambda line: origin, path)
        if node is None and not problems:
            problems = [Problem(_dotted(path), "has no value; write null for none", origin)]
    if problems:
        return draft._replace(problems=(*draft.problems, *problems))
    for part in reversed(path):
        node = Node({part: node}, origin)
    return draft._replace(tree=_without(draft.tree, path) if is_removal else _merge(draft.tree, node))


def _obstacles(tree: Node, path: tuple[str, ...], is_removal: bool) -> Iterator[str]:
    parents = _along(tree, path[:-1])
    for depth, node in enumerate(parents):
        if not isinstance(node.value, dict | None):
            yield f"{_dotted(path[:depth])} is {shown_value(_values(node))}, not a mapping: nothing can be set or removed inside it"
            return
    if is_removal and len(_along(tree, path)) <= len(path):
        close = get_close_matches(path[len(parents) - 1], parents[-1].value or (), 1)
        hint = f"; did you mean '~{_dotted((*path[: len(parents) - 1], *close))}'?" if close else ""
        yield f"is not written in the recipe, so it can't be removed{hint}"


def _without(node: Node, path: Sequence[str]) -> Node:
    first, *rest = path
    kept = {key: item for key, item in node.value.items() if key != first or rest}
    return node._replace(value={**kept, first: _without(kept[first], rest)} if rest else kept)


class _Reader:
    """Reads a recipe and what it extends, from that recipe's own folder and the recipe folders only."""

    def __init__(self, path: Path):
        self.roots = [_real(path).parent, *(_real(folder) for folder in recipe_folders())]
        self.problems: list[Problem] = []
        self.files_read = 0

    def read(self, path: Path, chain: tuple[Path, ...] = ()) -> Node:
        """Returns the values of a file on top of those of the files that it extends; `chain` leads from the first file to this one."""
        path = _real(path)
        own = self._parsed(path)
        parents = own.value.pop("extends", None)
        tree = Node({}, own.origin)
        for name, origin in self._parents(parents):
            parent = self._find(name, path, origin)
            if parent in (*chain, path):
                _refuse("extends", f"goes in a circle: {' -> '.join(map(_shown, (*chain, path, parent)))}", origin)
            self.files_read += 1
            if len(chain) >= MAX_EXTENDS or self.files_read > MAX_FILES:
                _refuse("extends", f"goes through more than {MAX_EXTENDS} levels or {MAX_FILES} files", origin)
            tree = _merge(tree, self.read(parent, (*chain, path)))
        return _merge(tree, own)._replace(origin=own.origin)

    def _parsed(self, path: Path) -> Node:
        shown = _shown(path)
        node, problems = _parse(_read_text(path), lambda line: f"{shown}:{line}")
        if node is None and problems:
            raise RecipeError("\n".join(map(str, problems)))
        if node is None:
            _refuse("", "is empty; a recipe is a mapping (key: value)", shown)
        if not isinstance(node.value, dict):
            _refuse("", f"a recipe must be a mapping (key: value), not {shown_value(_values(node))}", node.origin)
        self.problems += problems
        return node

    @staticmethod
    def _parents(node: Node | None) -> list[tuple[str, str]]:
        items = [] if node is None else node.value if isinstance(node.value, list) else [node]
        for item in items:
            if not isinstance(item.value, str) or not item.value:
                _refuse("extends", f"must be a recipe's name or a list of names, got {shown_value(_values(item))}", item.origin)
        return [(item.value, item.origin) for item in items]

    def _find(self, name: str, extending: Path, origin: str) -> Path:
        suffix = "" if name.endswith((".yaml", ".yml")) else ".yaml"
        places = [_real(folder / (name + suffix)) for folder in (extending.parent, *recipe_folders())]
        # by real path, so that neither .. nor a symbolic link leads a stranger's recipe to other files
        allowed = [place for place in places if any(place.is_relative_to(root) for root in self.roots)]
        found = [place for place in allowed if _is_file(place)]
        is_outside = not allowed or any(map(_is_file, places))
        if Path(name).is_absolute() or name.startswith("~") or (is_outside and not found):
            _refuse("extends", f"{shown_value(name)} is outside this recipe's folder and the recipe folders", origin)
        if not found:
            _refuse("extends", f"there is no recipe {shown_value(name)}{did_you_mean(name, _all_names())}", origin)
        return found[0]


def explain(draft: Draft, recipe: Recipe) -> list[tuple[str, Any, str]]:
    """Returns (path, value, origin) of everything in the recipe, defaults included."""
    rows = []
    for path, value in _leaves(recipe.model_dump(mode="json")):
        along = _along(draft.tree, path)
        rows.append((_dotted(path), value, along[-1].origin if len(along) > len(path) else "default"))
    return rows


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


def to_yaml(recipe: Recipe) -> str:
    """Returns the recipe with all its defaults as YAML that loads to an equal recipe."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def fingerprint(recipe: Recipe) -> str:
    """Returns a SHA-256 over what decides the training's result: not over names, places of output, workers or checks."""
    aside = {"data": {"workers"}, "train": {"log_every"}, "teacher": {"check", "claimed_top1"}}
    aside |= dict.fromkeys(("description", "run_name", "runs_dir", "control"), True)
    content = recipe.model_dump(mode="json", exclude=aside)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
