"""The JSON schema of a recipe's file, for editors and other programs: every key with its type, limits, default and description, and the arguments of
each loss. It is about one file: what that one leaves to the recipe that it extends is not missing in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.build.arguments import argument_model
from distill.loss_cards import loss_card
from distill.recipe import Recipe
from distill.recipe_copy import refuse_place, write_file
from distill.resolve import Catalogue

_DRAFT = "http://json-schema.org/draft-07/schema#"  # the newest that every editor's checker reads
_NOT_MERGED = "OneOfSeveral"  # the entry of a list, which no other file can complete
_EXTENDS = "The recipe, or the recipes, that this one builds on: a name, or a path from this file's folder. Later ones win, and this file over all."
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_SCHEDULE = {"$ref": "#/$defs/Schedule"}


def write_schema(catalogue: Catalogue, file: str | None = None, *, force: bool = False) -> None:
    """Prints the schema, or writes it into the file. Raises RecipeError if that can't be done, or replaces what nobody said to replace."""
    text = schema_text(catalogue)
    if file is None:
        print(text, end="")
        return
    target = Path(file).expanduser()
    refuse_place(target, force=force)
    write_file(target, text)
    print(f"wrote {target}; a recipe beside it says in its first line\n# yaml-language-server: $schema={target.name}")


def schema_text(catalogue: Catalogue) -> str:
    """The schema as the text of its file."""
    return json.dumps(recipe_schema(catalogue), indent=1, ensure_ascii=False) + "\n"


def recipe_schema(catalogue: Catalogue) -> dict[str, Any]:
    """The schema, with the losses and the data sources of the catalogue; other names are allowed too, since a plug-in may bring them."""
    schema = _for_draft_7(Recipe.model_json_schema())
    parts, keys = schema["$defs"], schema["properties"]
    for name, part in parts.items():
        if name != _NOT_MERGED:
            part.pop("required", None)
    names = catalogue.names("losses")
    entry = parts["LossEntry"]
    parts |= {_part(name): _loss(name, catalogue, entry["properties"]) for name in names}
    keys["losses"] = _losses(keys["losses"], names)
    parts["LossEntry"] = _entry_of_any_type(entry, names)
    parts["Data"]["properties"]["source"] |= {"anyOf": [{"enum": catalogue.names("sources")}, {"type": "string", "minLength": 1}]}
    name = {"type": "string", "minLength": 1}
    extends = {"description": _EXTENDS, "anyOf": [name, {"type": "array", "items": name}]}
    return {
        "$schema": _DRAFT,
        "title": "A recipe of distill",
        "description": schema["description"],
        "type": "object",
        "properties": {"extends": extends, **keys},
        "additionalProperties": False,
        "$defs": dict(sorted(parts.items())),
    }


def _for_draft_7(node: Any) -> Any:
    """Without titles, which repeat the key; with nothing beside a $ref, and no list whose entries differ, which draft 7 writes differently. The same
    for each version of pydantic."""
    if isinstance(node, list):
        return [_for_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _for_draft_7(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}
    if kept.get("additionalProperties") is True:
        del kept["additionalProperties"]
    for limit in _LIMITS & set(kept):
        kept[limit] = int(kept[limit]) if kept[limit] == int(kept[limit]) else kept[limit]
    if "prefixItems" in kept:
        kept["items"], *others = kept.pop("prefixItems")
        assert all(other == kept["items"] for other in others)
    if len(kept.get("allOf", ())) == 1:
        kept |= kept.pop("allOf")[0]
    if "$ref" in kept:
        kept.pop("default", None)  # a whole section, whose keys have their own
    if "$ref" in kept and len(kept) > 1:
        kept = {"allOf": [{"$ref": kept.pop("$ref")}], **kept}
    return kept


def _part(loss: str) -> str:
    return f"loss_{loss}"


def _loss(name: str, catalogue: Catalogue, shared: dict[str, Any]) -> dict[str, Any]:
    cls = catalogue.get("losses", name)
    arguments = _for_draft_7(argument_model(cls).model_json_schema())
    is_plain = "$defs" not in arguments  # else a type of somebody's own, which the loss checks itself
    keys = {key: _or_schedule(value) if is_plain else {} for key, value in arguments.get("properties", {}).items()}
    found = {"type": ["object", "null"], "properties": {**shared, **keys}, "additionalProperties": False}
    return {"description": loss_card(name, cls).summary, **found}


def _or_schedule(argument: dict[str, Any]) -> dict[str, Any]:
    """An argument that is a number may follow a schedule."""
    choices = argument.get("anyOf", [argument])
    if not any(choice.get("type") == "number" for choice in choices):
        return argument
    about: dict[str, Any] = {key: argument[key] for key in ("default", "description") if key in argument}
    plain = [{key: value for key, value in choice.items() if key not in about} for choice in choices]
    return {**about, "anyOf": [*plain, _SCHEDULE]}


def _losses(losses: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Under its own name a loss is meant unless `type` names another; what stands under another label is known by its `type`, here or in a file that
    this one extends."""
    own = {name: {"if": {"properties": {"type": {"enum": [name, None]}}}, "then": {"$ref": f"#/$defs/{_part(name)}"}} for name in names}
    kept = {key: losses[key] for key in ("description", "type", "patternProperties")}
    return {**kept, "properties": own, "additionalProperties": False}


def _entry_of_any_type(entry: dict[str, Any], names: list[str]) -> dict[str, Any]:
    chosen = [{"if": {"required": ["type"], "properties": {"type": {"const": name}}}, "then": {"$ref": f"#/$defs/{_part(name)}"}} for name in names]
    kind = {**entry["properties"]["type"], "anyOf": [{"enum": names}, *entry["properties"]["type"]["anyOf"]]}
    return {**entry, "type": ["object", "null"], "properties": {**entry["properties"], "type": kind}, "additionalProperties": True, "allOf": chosen}
