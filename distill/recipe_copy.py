"""A recipe's own file, or all that it says in one, for somebody to change: written where it means the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from distill import record
from distill.errors import RecipeError
from distill.recipe_comments import top_lines
from distill.recipe_files import Draft, draft_as_if, find_recipe, read_draft
from distill.recipe_search import name_of, read_text, shown_path
from distill.recipe_yaml import printable, recipe_value, yaml_text

_SUFFIXES = (".yaml", ".yml")


def copy_recipe(name: str, file: str | None = None, *, whole: bool = False, force: bool = False) -> tuple[Path, list[Path]]:
    """Writes the recipe into the file (default: its name's last part, here). What it extends it goes on extending; with whole it extends nothing.

    Returns where it is, and the files that it extends. Raises RecipeError, and writes nothing, where the copy would not say what the recipe
    says."""
    original, path = read_draft(name), find_recipe(name)
    target = _target(original.name, file)
    refuse_place(target, force=force)
    text = read_text(path)
    body, parents = (_merged(text, original), []) if whole else _extending_the_same(text, original, target)
    write_file(target, _with_its_own_command(body, original.name, target))
    return target, parents


def refuse_place(target: Path, *, force: bool) -> None:
    """Raises RecipeError where a file can't be put there, or where something is there that nobody said to replace."""
    if target.is_dir():
        raise RecipeError(f"{target} is a folder; name a file")
    if not target.parent.is_dir():
        raise RecipeError(f"{target}: there is no folder {target.parent}; make it first (mkdir -p {shlex.quote(str(target.parent))})")
    if (target.exists() or target.is_symlink()) and not force:
        raise RecipeError(f"{target} is there already, and is not written over; take another name, or add --force to replace it")


def write_file(target: Path, text: str) -> None:
    """Puts the whole file in its place in one move. Raises RecipeError where that is not possible."""
    try:
        record.write_text(target, text)
    except OSError as error:
        raise RecipeError(f"{target} can't be written: {error.strerror or error}") from error


def _target(name: str, file: str | None) -> Path:
    own = f"{name.rpartition('/')[2]}.yaml"
    if file is None:
        return Path(own)
    path = Path(file).expanduser()
    if path.is_dir():
        return path / own
    if not file.endswith(_SUFFIXES):
        raise RecipeError(f"{file}: a recipe's file ends in .yaml, or it is not found; take {file.rstrip('/')}.yaml")
    return path


def _merged(text: str, draft: Draft) -> str:
    comment = "".join(f"# {line}".rstrip() + "\n" for line in top_lines(text))
    return comment + yaml_text(draft.values)


def _extending_the_same(text: str, original: Draft, target: Path) -> tuple[str, list[Path]]:
    """The text, as it is or else with what it extends named as it is found from everywhere; and what it extends there. Raises RecipeError if neither
    says the same there."""
    parents = _parents(original)
    problem = ""
    for candidate in (text, _naming(text, parents)):
        try:
            copied = draft_as_if(candidate, target)
        except RecipeError as error:
            problem = problem or str(error)
            continue
        if copied.values == original.values:
            return candidate, _parents(copied)
        known = {path for _, path in original.files}
        others = [shown_path(path) for _, path in copied.files[1:] if path not in known]
        problem = problem or f"it would extend {', '.join(others)}"
    raise RecipeError(
        f"a copy at {shown_path(target)} would not say the same: {problem}\ntake another folder, or --whole to write everything into one file"
    )


def _parents(draft: Draft) -> list[Path]:
    return [path for depth, path in draft.files if depth == 1]


def _naming(text: str, parents: Sequence[Path]) -> str:
    """The text with these parents, in the order in which it extends them, each by the name that it is found by."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)  # a mapping: it was read as a recipe before
    extends = next((value for key, value in root.value if key.value == "extends"), None)
    scalars = [] if extends is None else extends.value if isinstance(extends, yaml.SequenceNode) else [extends]
    for scalar, parent in reversed(list(zip(scalars, parents, strict=True))):
        text = text[: scalar.start_mark.index] + recipe_value(name_of(parent)) + text[scalar.end_mark.index :]
    return text


def _with_its_own_command(text: str, name: str, target: Path) -> str:
    """The text with the copy in place of the recipe in the command of its first line, and a line that says whose results stand below it."""
    copied = f"# Copied from {printable(name)}: a time or a result below is that recipe's.\n"
    first, newline, rest = text.partition("\n")
    if not first.startswith("# accelerate launch "):
        return copied + text
    command = re.sub(rf"--recipe {re.escape(name)}(?=\s|$)", lambda found: f"--recipe {shlex.quote(str(target))}", first)
    return command + newline + copied + rest
