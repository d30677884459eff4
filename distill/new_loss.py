"""`distill losses new NAME`: a commented loss that works, and its test, for the person to change."""

from __future__ import annotations

import importlib.util
import keyword
import re
import string
import sys
from pathlib import Path

from distill.errors import RecipeError
from distill.resolve import Catalogue, snake_case

_TEMPLATES = Path(__file__).parent / "loss_template"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def write_new_loss(name: str) -> str:
    """Writes NAME.py and test_NAME.py into the working folder and returns what to do next.

    Raises RecipeError, and writes nothing, if the name can't be a loss's or one of the files is there already.
    """
    loss, test = Path(f"{name}.py"), Path(f"test_{name}.py")
    _refuse_name(name)
    for file in (loss, test):
        if file.exists() or file.is_symlink():
            raise RecipeError(f"{file} is there already, and is not written over; take another name, or move it away")
    _refuse_module(name)
    _write({loss: _filled("loss.py.txt", name), test: _filled("test_loss.py.txt", name)})
    recipe = "".join(f"  {line}\n" for line in _filled("recipe.yaml.txt", name).splitlines())
    steps = {
        f"distill losses check {loss}": "does it keep the contract that every loss keeps?",
        f"pytest {test}": "its test: a value worked by hand, and the contract",
        f"distill train --recipe {name}.yaml --plugin {loss}": "trains with it",
    }
    width = max(map(len, steps))
    commands = "".join(f"  {command:<{width}}  {what}\n" for command, what in steps.items())
    return f"wrote {loss}, a loss that works, for you to change, and {test}\n\nnext:\n{commands}\nwith {name}.yaml:\n{recipe}"


def class_name(name: str) -> str:
    """my_loss -> MyLoss"""
    return "".join(part.capitalize() for part in name.split("_"))


def _filled(template: str, name: str) -> str:
    return string.Template((_TEMPLATES / template).read_text(encoding="utf-8")).substitute(name=name, cls=class_name(name))


def _refuse_name(name: str) -> None:
    cls, taken = class_name(name), Catalogue().names("losses")
    if not _is_name(name):
        near = class_name(re.sub(r"[^a-z0-9]+", "_", snake_case(name)).strip("_").lstrip("_0123456789"))
        hint = f"; take {snake_case(near)!r}?" if _is_name(snake_case(near)) else ""
        allowed = "up to 40 small letters and digits, words joined by _, first a letter"
        wrong = f"a recipe would call its class {cls} {snake_case(cls)!r}" if _NAME.fullmatch(name) else allowed
        raise RecipeError(f"{name!r} can't be a loss's name: {wrong}{hint}")
    if keyword.iskeyword(name) or keyword.iskeyword(cls) or name.startswith("test_") or name == "conftest":
        raise RecipeError(f"{name!r} can't be a loss's name: {name}.py or its class {cls} means something else to Python or pytest; take another")
    if re.search(rf"import .*\b{cls}\b", _filled("loss.py.txt", "name")):
        raise RecipeError(f"{name!r} can't be a loss's name: its class would be {cls}, which the file imports; take 'my_{name}'?")
    if name in taken:
        raise RecipeError(f"there is a loss {name!r} already (distill losses show {name}); take another name. Taken are: {', '.join(taken)}")


def _is_name(name: str) -> bool:
    """Whether it comes back from the name of its class, as it must for a recipe."""
    return bool(_NAME.fullmatch(name)) and snake_case(class_name(name)) == name


def _refuse_module(name: str) -> None:
    found = importlib.util.find_spec(name)
    if name in sys.stdlib_module_names or (found and found.origin):
        raise RecipeError(f"{name}.py would hide the module {name!r} that is installed; take another name, such as '{name}_loss'")


def _write(texts: dict[Path, str]) -> None:
    """All of the files or none of them."""
    written: list[Path] = []
    for file, text in texts.items():
        try:
            with file.open("x", encoding="utf-8") as stream:
                written.append(file)
                stream.write(text)
        except OSError as error:
            for half in written:
                half.unlink()
            raise RecipeError(f"{file} can't be written: {error.strerror}") from error
