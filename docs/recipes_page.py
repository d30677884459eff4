"""python docs/recipes_page.py [--check]

Writes docs/recipe.schema.json, the JSON schema of a recipe's file, and from it the reference of all keys at the end of docs/recipes.md. With
--check it writes nothing, and says whether both are what would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from generated import ROOT, table, write_or_check

from distill.recipe import Recipe
from distill.recipe_schema import recipe_schema, schema_text
from distill.recipe_yaml import recipe_value
from distill.resolve import Catalogue

PAGE, SCHEMA = ROOT / "docs" / "recipes.md", ROOT / "docs" / "recipe.schema.json"
BEGIN, END = "<!-- reference: written by python docs/recipes_page.py -->", "<!-- end of the reference -->"
SECTIONS = {  # heading: (where its keys stand, what the schema calls them)
    "The recipe": ("", ""),
    "data": ("data.", "Data"),
    "data.augment": ("data.augment.", "Augment"),
    "train": ("train.", "Train"),
    "student, and peer": ("student.", "Student"),
    "teacher": ("teacher.", "Teacher"),
    "teacher.cache": ("teacher.cache.", "Cache"),
    "An entry of teachers": ("teachers.N.", "OneOfSeveral"),
    "An entry of losses": ("losses.LABEL.", "LossEntry"),
    "A schedule": ("losses.LABEL.weight.", "Schedule"),
}
INTRODUCTIONS = {
    "student, and peer": "`peer` takes the same keys.",
    "An entry of teachers": "An entry takes what `teacher` takes, apart from `num_classes`, and:",
    "An entry of losses": "The loss's own arguments stand beside these; [losses.md](losses.md) has those of each.",
    "A schedule": "In place of a number, as `weight` or as an argument that is a number.",
}
HEADING = ("key", "value", "default", "what it is")
REQUIRED = {key for key, field in Recipe.model_fields.items() if field.is_required()}  # in a recipe that extends none
_UNLIMITED = 10**12  # a limit that is there against overflow only


def reference(schema: dict[str, Any]) -> str:
    """The tables of all keys."""
    parts = [f"### {title}\n\n{_introduction(title)}{table(HEADING, _rows(schema, *place))}" for title, place in SECTIONS.items()]
    return "\n\n".join(parts)


def page(text: str, schema: dict[str, Any]) -> str:
    """The page's text with the reference as it is now. Raises ValueError where the page has no place for it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} must hold the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{reference(schema)}\n\n{END}{after}"


def in_words(node: dict[str, Any]) -> str:
    """What a key takes: its type and its limits."""
    if "anyOf" in node or "oneOf" in node:
        choices = [choice for choice in node.get("anyOf", node.get("oneOf")) if "enum" not in choice]  # names that are known, among all others
        return ", or ".join(dict.fromkeys(map(in_words, choices)))
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if "allOf" in node or "$ref" in node:
        return _section(node["allOf"][0]["$ref"] if "allOf" in node else node["$ref"])
    kind = node["type"]
    if kind == "array":
        length = f"{node['minItems']} " if node.get("minItems") == node.get("maxItems", -1) else ""
        items = in_words(node["items"])
        return f"list of {length}{'mappings (' + items + ')' if items.startswith('[') else items.replace('number', 'numbers', 1)}"
    if kind in ("integer", "number"):
        return " ".join(filter(None, ({"integer": "whole number", "number": "number"}[kind], _limits(node))))
    if kind == "string" and "examples" in node:
        return f"text such as `{node['examples'][0]}`"
    values = node.get("additionalProperties")
    of_text = " of text" if kind == "object" and isinstance(values, dict) and values.get("type") == "string" else ""
    return {"string": "text", "boolean": "`true` or `false`", "null": "`null`", "object": "mapping"}[kind] + of_text


def _limits(node: dict[str, Any]) -> str:
    most = node.get("maximum", 0) if node.get("maximum", 0) < _UNLIMITED else None
    low = f"{node['minimum']} or more" if "minimum" in node else f"above {node['exclusiveMinimum']}" if "exclusiveMinimum" in node else ""
    below = node.get("exclusiveMaximum", _UNLIMITED)
    high = f"below {below}" if below < _UNLIMITED else f"up to {most}" if most and "maximum" in node else ""
    if "minimum" in node and high.startswith("up to"):
        return f"from {node['minimum']} to {most}"
    return " and ".join(filter(None, (low, high)))


def _section(reference: str) -> str:
    name = reference.rpartition("/")[2]
    title = next(title for title, (_, part) in SECTIONS.items() if part == name)
    return f"[{'schedule' if name == 'Schedule' else 'mapping'}](#{title.lower().replace(' ', '-').replace(',', '').replace('.', '')})"


def _introduction(title: str) -> str:
    return f"{INTRODUCTIONS[title]}\n\n" if title in INTRODUCTIONS else ""


def _rows(schema: dict[str, Any], prefix: str, part: str) -> Iterator[tuple[str, str, str, str]]:
    keys = schema["$defs"][part]["properties"] if part else schema["properties"]
    known = schema["$defs"]["Teacher"]["properties"] if part == "OneOfSeveral" else {}
    for key, node in keys.items():
        if key in known:
            continue
        kind = "[mapping](#an-entry-of-losses) of labels" if key == "losses" else in_words(node)
        default = "must be given" if not part and key in REQUIRED else _default(key, node)
        yield f"`{prefix}{key}`", kind, default, _description(schema, node)


def _default(key: str, node: dict[str, Any]) -> str:
    if "default" in node:
        return f"`{recipe_value(node['default'])}`" if node["default"] != "" else ""
    return "" if {"allOf", "$ref"} & set(node) or key == "extends" else "must be given"


def _description(schema: dict[str, Any], node: dict[str, Any]) -> str:
    """Of the key, or of the section that stands under it where both say the same."""
    return node["description"] if "description" in node else schema["$defs"][node["$ref"].rpartition("/")[2]]["description"]


def main(options: Sequence[str]) -> int:
    catalogue = Catalogue()
    schema = recipe_schema(catalogue)
    return write_or_check(options, __doc__, {SCHEMA: schema_text(catalogue), PAGE: page(PAGE.read_text(encoding="utf-8"), schema)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
