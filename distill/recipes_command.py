"""`distill recipes`: which recipes there are, what one of them says, and whether it is right."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from distill.errors import RecipeError
from distill.recipe import Recipe
from distill.recipe_comments import Comment, top_comment
from distill.recipe_files import Draft, explain, list_recipes, load_recipe, read_draft, to_yaml
from distill.recipe_identity import leaves
from distill.recipe_search import all_names, find_recipe, nearest, read_text, recipe_folders, shown_path
from distill.recipe_yaml import dotted, parse, printable, recipe_value

_WIDEST = 40  # letters of a column that others stand beside


def print_list(word: str | None = None, *, as_json: bool = False) -> None:
    """Prints each recipe that can be found by its name, with its description, folder by folder. word: any part of a name or description.

    Raises RecipeError if it is in none.
    """
    rows = [_listed(name, path) for name, path in list_recipes().items()]
    chosen = [row for row in rows if word is None or word.lower() in f"{row['name']}\n{row['description']}".lower()]
    if word is not None and not chosen:
        near = nearest(word, [row["name"] for row in rows])
        raise RecipeError(f"no recipe has {word!r} in its name or description{near or ';'} distill recipes list says which there are")
    if as_json:
        print(json.dumps(chosen, indent=2, ensure_ascii=False))
        return
    width = max((len(row["name"]) for row in chosen), default=0)
    for folder, group in groupby(sorted(chosen, key=_place), key=lambda row: str(Path(row["file"]).parent)):
        print(f"{shown_path(Path(folder))}:")
        for row in group:
            print(_in_columns(f"  {row['name']:<{width}}  ", row["description"]))
        print()
    if word is None:
        parts = ", ".join(name for name in all_names() if name not in list_recipes())
        print(f"parts that recipes extend, no recipes themselves: {parts}" if parts else "")
        print("distill recipes show NAME   every value, and where it comes from\ndistill recipes copy NAME   its file, for you to change")


def _place(row: dict[str, Any]) -> tuple[int, bool, str, str]:
    """Where it stands in the list: one's own before those that come with the package, and what is in no folder before what is in one."""
    file = Path(row["file"])
    return next(number for number, folder in enumerate(recipe_folders()) if folder in file.parents), "/" in row["name"], str(file.parent), row["name"]


def _listed(name: str, path: Path) -> dict[str, Any]:
    """What the list has of a recipe. One that can't be read is in it too: the others have nothing to do with it."""
    row = {"name": name, "file": str(path), "description": ""}
    try:
        text = read_text(path)
        node, _ = parse(text, lambda line: "")
        own = node.value.get("description") if node is not None and isinstance(node.value, dict) else None
        # a file that says it itself need not be merged with what it extends, which takes four times as long
        description = read_draft(path).values.get("description", "") if own is None else own.value
        row |= {"description": printable(str(description)), **_said(top_comment(text))}
    except RecipeError as error:
        row["description"] = f"(can't be read: {str(error).splitlines()[0]})"
    return row


def _said(comment: Comment) -> dict[str, str]:
    """What a program can ask for by name: the command and the facts that the comment gives."""
    command = {"command": comment.command} if comment.command else {}
    return command | {label.lower(): text for label, text in comment.facts.items()}


def _in_columns(first: str, second: str) -> str:
    """On one line, so that grep shows all of it; in a terminal broken between words."""
    if not sys.stdout.isatty() or not second:
        return (first + second).rstrip()
    columns = max(shutil.get_terminal_size().columns, len(first) + 20)
    return textwrap.fill(second, columns, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False)


def show(name: str, overrides: Sequence[str] = (), *, changed_only: bool = False, as_yaml: bool = False, as_json: bool = False) -> None:
    """Prints what a recipe says of itself, what it extends, and every value with where it comes from.

    Only what the recipe's structure allows is checked; whether its names of losses, networks and sources exist is for `validate`, which knows the
    plug-ins. changed_only: leave out what is as it is by default. Raises RecipeError.
    """
    path = find_recipe(name)
    draft = read_draft(name, overrides)
    recipe = draft.finish()
    if as_yaml:
        print(to_yaml(recipe), end="")
        return
    comment = top_comment(read_text(path))
    if as_json:
        rows = [{"path": key, "value": value, "origin": origin} for key, value, origin in explain(draft, recipe, changed_only=changed_only)]
        found = {"name": draft.name, "files": [str(file) for _, file in draft.files], **_said(comment), "notes": "\n".join(comment.notes)}
        print(json.dumps(found | {"values": rows}, indent=2, ensure_ascii=False))
        return
    print("\n".join([*_about(comment), *_files(draft), ""]))
    print_values(draft, recipe, changed_only=changed_only)


def _about(comment: Comment) -> Iterator[str]:
    if comment.command:
        yield printable(comment.command)
    yield from map(printable, comment.notes)
    for label, text in comment.facts.items():
        yield _in_columns(f"{label + ':':<12}", printable(text))


def _files(draft: Draft) -> Iterator[str]:
    for depth, path in draft.files:
        yield f"{'  ' * depth}{'extends ' if depth else 'file: '}{shown_path(path)}"


def print_values(draft: Draft, recipe: Recipe, *, changed_only: bool = False) -> None:
    """Prints each value of the recipe as a recipe would write it, and where it comes from."""
    rows = [(path, printable(recipe_value(value)), origin) for path, value, origin in explain(draft, recipe, changed_only=changed_only)]
    _print_columns(rows)


def _print_columns(rows: Sequence[tuple[str, str, str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for first, second, third in rows:
        print(f"{first:<{widths[0]}}  {second:<{min(_WIDEST, widths[1])}}  {third}")


def diff(first: str, second: str, *, as_json: bool = False) -> bool:
    """Prints each value that is not the same in two recipes, and returns whether there is one. Raises RecipeError for a recipe that is not right."""
    values = [{dotted(path): value for path, value in leaves(load_recipe(name).model_dump(mode="json"))} for name in (first, second)]
    missing = object()
    paths = [path for path in {**values[0], **values[1]} if values[0].get(path, missing) != values[1].get(path, missing)]
    if as_json:
        rows = [{"path": path, **{name: side[path] for name, side in zip("ab", values, strict=True) if path in side}} for path in paths]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif paths:
        first_cells, second_cells = ([printable(recipe_value(side[path])) if path in side else "-" for path in paths] for side in values)
        _print_columns([("", printable(first), printable(second)), *zip(paths, first_cells, second_cells, strict=True)])
    return bool(paths)


def validate(names: Sequence[str], plugins: Sequence[str] = ()) -> None:
    """Prints a line for each recipe that is right. Raises one RecipeError with everything that is wrong with the others: all that `train` checks
    before anything is built."""
    from distill.job import check_whole  # late, as the catalogue: they take seconds, and nothing else here needs them
    from distill.resolve import Catalogue

    catalogue, problems = Catalogue(plugins), []
    for name in dict.fromkeys(names):
        try:
            check_whole(read_draft(name), catalogue)
            print(f"{printable(name)}: right")
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(dict.fromkeys("\n".join(problems).splitlines())))
