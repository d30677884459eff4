"""The options of `distill eval`, and what its words are: targets and changes to the data. No torch: a wrong word is answered at once."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from distill.errors import RecipeError
from distill.suggestion import did_you_mean

EVAL_HELP = """\
examples:
  distill eval runs/r50_to_r18-seed0                          its student on test: accuracy, calibration, classes, confusions, latency
  distill eval runs/r50_to_r18-seed0 --role teacher
  distill eval runs/r50_to_r18-seed0 runs/r18_alone-seed0     both, and the exact McNemar test on the same pictures
  distill eval student.safetensors --recipe r50_to_r18 data.source=imagefolder data.root=~/pictures
"""
_CHOICES = {"part": ("test", "val"), "role": ("student", "teacher")}


class Words(NamedTuple):
    """What a person has asked for, checked as far as that can be without looking at files' contents."""

    targets: list[str]
    overrides: list[str]
    recipe: str | None
    part: str
    role: str
    batch_size: int


def add_eval_options(parser: argparse.ArgumentParser) -> None:
    """Adds all but --traceback."""
    parser.add_argument(
        "overrides", nargs="*", metavar="TARGET|KEY=VALUE", help="one or two runs' folders or weight files; data.KEY=VALUE changes data"
    )
    parser.add_argument("--recipe", metavar="NAME|RUN", help="of a weight file: says its model, data and normalisation")
    parser.add_argument("--role", default="student", metavar="student|teacher", help="which network of a run or recipe (default student)")
    parser.add_argument("--part", default="test", metavar="test|val", help="which pictures (default test)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures of the batch that is timed (default 64)")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help="your own data sources; may be repeated")


def words_of(options: argparse.Namespace) -> Words:
    """Raises RecipeError for words that make no sense."""
    for name, known in _CHOICES.items():
        if (value := getattr(options, name)) not in known:
            raise RecipeError(f"--{name} {value}: must be {' or '.join(known)}{did_you_mean(value, known)}")
    if options.batch_size < 1:
        raise RecipeError(f"--batch-size {options.batch_size}: a number of pictures, such as 64")
    refuse_several_processes("distill eval")
    targets, overrides = split_words(options.overrides)
    _check(targets)
    return Words(targets, overrides, options.recipe, options.part, options.role, options.batch_size)


def refuse_several_processes(command: str) -> None:
    """Raises RecipeError under a launcher that has started several."""
    if (started := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise RecipeError(f"{command} works in one process, and {started} were started: run it without accelerate launch or torchrun")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what is no KEY=VALUE, what is). Raises RecipeError where a change is not one of the data."""
    overrides = [word for word in words if _is_override(word)]
    for override in overrides:
        if not override.removeprefix("~").startswith("data."):
            raise RecipeError(f"{override}: only data.KEY=VALUE can be changed here; the network is as it was trained{_hint(override)}")
    return [word for word in words if not _is_override(word)], overrides


def _is_override(word: str) -> bool:
    is_there = os.path.exists(os.path.expanduser(word))  # noqa: PTH110, PTH111 - any text
    return not is_there and ("=" in word or (word.startswith("~") and "/" not in word))


def _check(targets: Sequence[str]) -> None:
    if not targets:
        raise RecipeError("what is to be scored? say distill eval RUN, such as distill eval runs/r50_to_r18-seed0")
    if len(targets) > 2:
        raise RecipeError(f"{len(targets)} targets ({', '.join(targets)}): one, or two to be compared; distill compare takes any number of runs")


def _hint(override: str) -> str:
    key, _, value = override.partition("=")
    return f" (did you mean data.{override}?)" if key in ("source", "root", "image_size") and value else ""


def is_file(target: str) -> bool:
    """Whether a target is a file, and not a folder."""
    return Path(target).expanduser().is_file()
