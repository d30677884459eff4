"""What is done with each command of a page's bash blocks: run as it is where that is cheap, as a dry run, or read by the program's own parser."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.metadata
import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import accelerate.commands.launch
import pytest
import torch.distributed.run
from doc_pages import ROOT
from fake_hub import TOKEN, serving
from fake_runs import write_study
from requirements import EXTRAS, requirements

SMALL = ["student.model=timm/test_resnet", "teacher.model=timm/test_resnet", "teacher.weights=random", "teacher.check=false", "control=false"]
SMALL += ["data.source=synthetic", "data.root=null", "data.arguments={num_classes: 10, num_train: 20, num_val: 10, num_test: 10}"]
SMALL += ["data.image_size=32", "data.global_batch_size=8", "train.epochs=1", "train.warmup_epochs=0", "train.max_steps=2", "train.precision=fp32"]

Distill = Callable[..., tuple[int, str, str]]
_SEEN: set[tuple[str, ...]] = set()


class NotAsSaidError(AssertionError):
    """A page says something that does not work."""


def check_line(line: str, distill: Distill) -> None:
    """Does a line of a bash block. Raises NotAsSaidError for what fails, and for a command that nothing here knows."""
    words = shlex.split(line, comments=True)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        _check(words[:end], distill)
        words = words[end + 1 :]


def lines(block: str) -> list[str]:
    """The lines of a bash block that are more than a comment; what goes on after a backslash is one line."""
    return [line for line in block.replace("\\\n", " ").splitlines() if shlex.split(line, comments=True)]


def _check(words: list[str], distill: Distill) -> None:
    with pytest.MonkeyPatch.context() as patch:
        while "=" in words[0]:
            patch.setenv(*words.pop(0).split("=", 1))
        name = " ".join(words[:2]) if words[0] in ("distill", "accelerate", "pip", "python", "sudo") else words[0]
        rule = _RULES.get(name) or _RULES.get(words[0]) or (_our_command if words[0] == "distill" else _tool)
        rule(words, distill)


def require(is_so: object, message: str) -> None:
    if not is_so:
        raise NotAsSaidError(message)


# distill's own commands


def _our_command(words: list[str], distill: Distill) -> None:
    arguments = [os.path.expanduser(word) if word.startswith("~/") else word for word in words[1:]]  # noqa: PTH111
    code, out, err = distill(*arguments)
    require(code == 0, f"exit code {code}: {err.strip() or out.strip()[-500:]}")


def _train(words: list[str], distill: Distill) -> None:
    _our_command([*(word for word in words if word != "--dry-run"), "--dry-run"], distill)


def _made_small(words: list[str], distill: Distill) -> None:
    """On tiny networks, after those of the page are resolved."""
    of_recipe = words[2:] if words[1] == "doctor" else words[3:] if words[2] in ("plan", "build", "verify") else []
    names = [word for word in of_recipe if not word.startswith("-") and "=" not in word]
    recipe = names[0] if names and "--replay" not in words else None
    if recipe:
        _train(["distill", "train", "--recipe", recipe, *(word for word in words if "=" in word)], distill)
    if tuple(words) in _SEEN:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.doctor.measures._SECONDS_MEASURED", 0.0)
        _our_command([*words, *(SMALL if recipe else [])], distill)
    if words[1] == "doctor" or words[2] == "plan":  # which leave nothing behind, and stand on several pages
        _SEEN.add(tuple(words))


def _compare(words: list[str], distill: Distill) -> None:
    """Only planned; finished runs are compared for real, some whose numbers are made up."""
    if not any("runs/" in word for word in words):
        return _our_command([*(word for word in words if word != "--plan"), "--plan"], distill)
    Path("study").mkdir(exist_ok=True)
    with contextlib.chdir("study"):
        if not Path("runs").is_dir():
            write_study({0: 800, 1: 810}, kd={0: 830, 1: 836})
        paths = {word: sorted(map(str, Path().glob(word))) for word in words if "*" in word}
        return _our_command([part for word in words for part in paths.get(word, [word])], distill)


def _push(words: list[str], distill: Distill) -> None:
    with serving() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("HF_ENDPOINT", hub.address)
        _our_command(words, distill)
        require("model.safetensors" in hub.files["main"], "the hub got no weights")


# Others


def _launch(words: list[str], distill: Distill) -> None:
    parse = torch.distributed.run.parse_args if words[0] == "torchrun" else accelerate.commands.launch.launch_command_parser().parse_args
    options = _parsed(parse, words[1:] if words[0] == "torchrun" else words[2:])
    config = getattr(options, "config_file", None)
    require(config is None or (ROOT / config).is_file(), f"there is no {config}")
    _script(options.training_script, options.training_script_args, distill)


def _script(script: str, arguments: list[str], distill: Distill) -> None:
    if script == "distill/run.py":
        return _train(["distill", "train", *arguments], distill)
    path = next((folder / script for folder in (Path(), ROOT, ROOT / "docs" / "examples") if (folder / script).is_file()), None)
    require(path, f"there is no script {script}")
    return _known_options(arguments, path.read_text(encoding="utf-8"))


def _python(words: list[str], distill: Distill) -> None:
    """Only --help of a module of this checkout is run; other modules are there."""
    if words[1] != "-m":
        return _script(words[1], words[2:], distill)
    name, arguments = words[2], words[3:]
    if name == "distill":
        return _check(["distill", *arguments], distill)
    if not name.startswith("benchmarks."):
        return _tool([name, *arguments], distill)
    return _known_options(arguments, _help_of(name))


@functools.cache
def _help_of(module: str) -> str:
    out = Path("help.txt")
    with pytest.MonkeyPatch.context() as patch, out.open("w") as file, contextlib.redirect_stdout(file), contextlib.suppress(SystemExit):
        patch.syspath_prepend(str(ROOT))
        patch.delitem(sys.modules, module, raising=False)  # imported by another test, which runpy warns of
        patch.setattr(sys, "argv", [module, "--help"])
        runpy.run_module(module, run_name="__main__")
    return out.read_text()


def _known_options(arguments: list[str], text: str) -> None:
    for word in arguments:
        if word.startswith("--"):
            require(re.search(rf"{re.escape(word.partition('=')[0])}\b", text), f"there is no option {word}")


def _parsed(parse: Callable, words: list[str]) -> object:
    try:
        return parse(words)
    except SystemExit:
        raise NotAsSaidError(f"{' '.join(words)} is refused by its own parser") from None


def _pip(words: list[str], distill: Distill) -> None:
    """What is installed is this package with extras that it has, or one that an extra names."""
    for word in words[2:]:
        match = re.fullmatch(r"(\.|[\w-]+)(?:\[(.*)\])?(?:[<>=]=?[\d.]+)?", word)
        if word.startswith("-") or not match:
            require(word in ("-e", "--upgrade", "-U", "-q"), f"pip install {word}: not understood")
        elif match[1] in (".", "distill"):
            require(set(filter(None, (match[2] or "").split(","))) <= set(EXTRAS), f"there is no extra {match[2]}")
        else:
            require(match[1] in requirements(), f"{match[1]} is in no extra of pyproject.toml")


def _apt(words: list[str], distill: Distill) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "distill" / "data" / "sources").glob("*.py"))
    require(words[1:3] == ["apt", "install"] and all(word in sources for word in words[3:]), "not a package that a data source looks for")


def _pytest(words: list[str], distill: Distill) -> None:
    """Tests that the page has written are run; of ours only those that are named must be there."""
    for word in words[1:]:
        if word.endswith(".py") and Path(word).is_file():
            tests = runpy.run_path(word)
            called = [tests[each.name]() for each in ast.parse(Path(word).read_text()).body if getattr(each, "name", "").startswith("test_")]
            require(called, f"{word} has no test")
        elif "/" in word:
            require((ROOT / word.partition("::")[0]).exists(), f"there is no {word}")


def _tool(words: list[str], distill: Distill) -> None:
    """The program of a package that pyproject.toml names; the files of ours that it is given are there."""
    named = {name.lower().replace("_", "-") for name in requirements()}
    programs = importlib.metadata.entry_points(group="console_scripts")
    owners = {entry.dist.name.lower().replace("_", "-") for entry in programs if entry.name == words[0] and entry.dist}
    known = words[0] in named or owners & named
    require(known, f"{words[0]}: no rule of tests/docs/block_commands.py knows it; add one, or mark the block <!-- not run: REASON -->")
    for word in words[1:]:
        if word.startswith(("docs/", "tests/", "recipes/", "benchmarks/", "distill/")):
            require((ROOT / word).exists(), f"there is no {word}")


def _files(words: list[str], distill: Distill) -> None:
    """A program of a cluster or shell: its files are there."""
    files = [word for word in words[1:] if "/" in word and not word.startswith("-")]
    require(files, f"{words[0]} with no file of ours: mark the block <!-- not run: REASON -->")
    for file in files:
        require((ROOT / file).exists() or Path(file).exists(), f"there is no {file}")


_RULES: dict[str, Callable[[list[str], Distill], None]] = {
    "distill train": _train,
    "distill compare": _compare,
    "distill doctor": _made_small,
    "distill cache": _made_small,
    "distill push": _push,
    "accelerate launch": _launch,
    "torchrun": _launch,
    "python": _python,
    "pip install": _pip,
    "sudo apt": _apt,
    "pytest": _pytest,
    "sbatch": _files,
    "kubectl": _files,
    "docker": _files,
    "bash": _files,
}
