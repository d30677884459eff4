"""Where recipes lie, and the file that a name, a path or a run folder stands for."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from distill.errors import RecipeError
from distill.recipe import shown_value
from distill.recipe_yaml import MAX_BYTES, Problem, printable
from distill.suggestion import did_you_mean

RESOLVED = "recipe.resolved.yaml"
_NAME = re.compile(r"\w[\w.-]{0,99}(/\w[\w.-]{0,99})*", re.ASCII)


def refuse(path: str, message: str, origin: str) -> NoReturn:
    """Raises RecipeError with the path in the recipe, the message and where it was written."""
    raise RecipeError(str(Problem(path, message, origin)))


def read_text(path: Path) -> str:
    """The text of a recipe file. Raises RecipeError if it can't be read, is too long or is not UTF-8."""
    shown = shown_path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{shown}: can't be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        refuse("", "is larger than 1 MiB; a recipe is a short text", shown)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{shown}:{line}: is not UTF-8 (byte 0x{content[error.start]:02x} at line {line})") from None


def recipe_folders() -> list[Path]:
    """Returns the folders that recipes are found in by name, the first to look in first."""
    package = Path(__file__).resolve().parent
    # beside an installed package, `recipes` could be anybody's
    checkout = [package.parent / "recipes"] if is_file(package.parent / "pyproject.toml") else []
    return [Path.cwd() / "recipes", *checkout, package / "recipes"]


def find_recipe(name_or_path: str | Path) -> Path:
    """Returns the file that holds a recipe, given its name, its path or a run folder; RecipeError where there is none."""
    name = str(name_or_path)
    if (name.endswith((".yaml", ".yml")) or os.sep in name) and is_file(Path(name)):
        return Path(name)
    named = [folder / f"{name}.yaml" for folder in recipe_folders() if _NAME.fullmatch(name)]
    for path in named:
        if is_file(path) and "base" in name.split("/")[:-1]:
            refuse("", f"'{name}' is a part that recipes extend, not a recipe", shown_path(path))
        if is_file(path):
            return path
    if is_file(Path(name) / RESOLVED):
        return Path(name) / RESOLVED
    names, stem = list(list_recipes()), name.removesuffix(".yaml")
    is_folder = os.path.isdir(name)  # noqa: PTH112 (Path.is_dir raises for names that are too long)
    what = f", and this folder is no run's: it has no {RESOLVED}" if is_folder else nearest(stem, names)
    raise RecipeError(f"there is no recipe or file {shown_value(name)}{what} (distill recipes list says which there are)")


def nearest(word: str, names: Iterable[str]) -> str:
    """Returns the hint at the recipe that was meant, also where only the last part of its name was given; else an empty text."""
    last = {name.rpartition("/")[2]: name for name in names}
    close = get_close_matches(word, last, 1)
    return did_you_mean(word, names) or (f"; did you mean {last[close[0]]!r}?" if close else "")


def list_recipes() -> dict[str, Path]:
    """Returns name -> file of every recipe that can be found by its name."""
    return {name: path for name, path in all_names().items() if "base" not in name.split("/")[:-1]}


def all_names() -> dict[str, Path]:
    """name -> file of every recipe that can be named, from all recipe folders."""
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in folder.rglob("*.yaml"):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if _NAME.fullmatch(name) and is_file(path):
                found.setdefault(name, path)
    return dict(sorted(found.items()))


def name_of(path: Path) -> str:
    """The name that stands for a file: its path in a recipe folder, the run of a resolved recipe, or else the file's own."""
    path = real_path(path)
    if path.name == RESOLVED:
        return path.parent.name
    inside = [path.relative_to(folder) for folder in map(real_path, recipe_folders()) if path.is_relative_to(folder)]
    return inside[0].with_suffix("").as_posix() if inside else path.stem


def is_file(path: Path) -> bool:
    """Whether it is there as a file."""
    return os.path.isfile(path)  # noqa: PTH113 (unlike Path.is_file it does not raise for names that are too long)


def real_path(path: Path) -> Path:
    """The absolute path with its links followed."""
    return Path(os.path.realpath(path))  # unlike Path.resolve it does not raise for links in a circle


def shown_path(path: Path) -> str:
    """The path as messages show it: relative inside of the working folder."""
    path, here = real_path(path), real_path(Path.cwd())
    return printable(str(path.relative_to(here) if path.is_relative_to(here) else path))
