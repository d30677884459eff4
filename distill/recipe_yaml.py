"""YAML text to plain values that know where they were written, and back; within limits, and never running anything."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import yaml
from yaml.composer import ComposerError

from distill.recipe import Recipe, shown_value

MAX_BYTES, MAX_ALIASES, MAX_NESTING, MAX_VALUES = 2**20, 100, 30, 20_000
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
_PLAIN_TEXT = re.compile(r"(?!(?:true|false|null|yes|no|on|off)\Z)[A-Za-z_][\w./-]*\Z", re.ASCII | re.IGNORECASE)
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

    # types-PyYAML has it as an attribute of each resolver; PyYAML keeps it on the class
    yaml_implicit_resolvers: ClassVar = _WILDCARD  # type: ignore[misc]

    def __init__(self, text: str, place: Callable[[int], str]):
        super().__init__(text)
        self.place = place
        self.problems: list[Problem] = []
        self.nodes, self.aliases, self.nesting, self.values = 0, 0, 0, 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        self.aliases += self.check_event(yaml.AliasEvent)
        self.nodes, self.nesting = self.nodes + 1, self.nesting + 1
        self._limit(self.nodes, MAX_VALUES, "keys and values", self.peek_event())
        self._limit(self.aliases, MAX_ALIASES, "aliases", self.peek_event())
        self._limit(self.nesting, MAX_NESTING, "levels of nesting", self.peek_event())
        node = super().compose_node(parent, index)
        assert node is not None  # there is an event to make it from
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
            wrong = f"the tag {printable(node.tag[:80])} is not allowed: a recipe is plain data"
        elif not _SCALARS[kind][0].match(node.value):
            wrong = f"{shown_value(node.value)} can't be read as {kind.replace('str', 'text')}"
        else:
            return Node(_SCALARS[kind][1](node.value), origin)
        self.problems.append(Problem(dotted(path), wrong, origin))
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
                self.problems.append(Problem(dotted(here), wrong, self.place(line)))
        return values


def dotted(path: Iterable[str | int]) -> str:
    """The keys of a path joined by dots."""
    return ".".join(printable(str(part)) for part in path)


def printable(text: str) -> str:
    """The text, with escapes where it holds what can't be printed."""
    return text if text.isprintable() else ascii(text)


def parse(text: str, place: Callable[[int], str], path: tuple[str, ...] = ()) -> tuple[Node | None, list[Problem]]:
    """Returns the values in a YAML text, None where there are none, and what is wrong with them."""
    try:
        loader = _Loader(text, place)
        node = loader.get_single_node()
        return (None if node is None else loader.tree(node, path)), loader.problems
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Problem(dotted(path), f"the character {chr(error.character)!a} is not allowed", place(line))]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces, not tabs" if "\\t" in str(error.problem) else ""
        words = ", ".join(part for part in (error.context, error.problem) if part)
        return None, [Problem(dotted(path), f"not valid YAML: {words}{hint}", place(mark.line + 1 if mark else 1))]
    except (ValueError, OverflowError) as error:  # escapes such as "\U99999999" and numbers of 5,000 digits pass PyYAML's own checks
        return None, [Problem(dotted(path), f"not valid YAML: {error}", place(1))]


def merge(old: Node, new: Node) -> Node:
    """The new value over the old one: mappings key by key, anything else as a whole."""
    if not (isinstance(old.value, dict) and isinstance(new.value, dict)):
        return new._replace(is_replacing=True)
    both = {key: merge(old.value[key], node) if key in old.value else node for key, node in new.value.items()}
    return old._replace(value={**old.value, **both})


def nodes_along(tree: Node, path: Iterable[str | int]) -> list[Node]:
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


def plain_values(node: Node) -> Any:
    """The values without where they were written."""
    if isinstance(node.value, dict):
        return {key: plain_values(item) for key, item in node.value.items()}
    return [plain_values(item) for item in node.value] if isinstance(node.value, list) else node.value


def tree_of(values: Any, origin: str) -> Node:
    """Plain values as nodes of one origin."""
    if isinstance(values, dict):
        return Node({str(key): tree_of(item, origin) for key, item in values.items()}, origin)
    return Node([tree_of(item, origin) for item in values] if isinstance(values, list | tuple) else values, origin)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever our loader or another YAML reader would take for something else than text."""

    yaml_implicit_resolvers: ClassVar = {**yaml.SafeDumper.yaml_implicit_resolvers, **_WILDCARD}  # type: ignore[misc]  # as in _Loader

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=True)


def yaml_text(values: Mapping[str, Any]) -> str:
    """Returns plain values as YAML that reads back as the same values."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def to_yaml(recipe: Recipe) -> str:
    """Returns the recipe with all its defaults as YAML that loads to an equal recipe."""
    return yaml_text(recipe.model_dump(mode="json"))


def recipe_value(value: Any) -> str:
    """A value as one writes it in a recipe, on one line: [layer3, layer4], true, null, 0.5."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if _PLAIN_TEXT.match(value) else "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(recipe_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{recipe_value(key)}: {recipe_value(item)}" for key, item in value.items()) + "}"
    return str(value)
