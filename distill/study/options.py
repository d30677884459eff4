"""What the words after `distill compare` ask for: finished runs, or a matrix."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from distill.errors import RecipeError
from distill.places import expanded
from distill.study.study_file import is_study, read_study
from distill.study.wish import Wish

_MOST_SEEDS = 1000


def wish_of(options: argparse.Namespace) -> Wish | None:
    """None where the words are runs' folders. Raises RecipeError where it is not clear what they are."""
    targets = [word for word in options.overrides if ("=" not in word and not word.startswith("~")) or expanded(word).is_dir()]
    overrides = [word for word in options.overrides if word not in targets]
    if not targets:
        raise RecipeError("what is to be compared? say distill compare runs/*, or distill compare RECIPE --seeds 3")
    asked = [name for name in ("seeds", "losses", "students", "teachers", "ablate", "plan", "launcher") if getattr(options, name)]
    studies = [target for target in targets if target.endswith((".yaml", ".yml")) and Path(target).is_file() and is_study(Path(target))]
    if studies:
        return _from_file(targets, overrides, [name for name in asked if name not in ("plan", "launcher")])
    if asked:
        return Wish(
            targets,
            _seeds(options.seeds or "3"),
            _listed(options.losses),
            _listed(options.students),
            _listed(options.teachers),
            ablate=options.ablate,
            overrides=overrides,
        )
    if overrides:
        raise RecipeError(f"{overrides[0]} changes a recipe, but finished runs are compared as they are; to train, add --seeds 3")
    recipes = [target for target in targets if not expanded(target).exists()]
    if recipes:
        raise RecipeError(f"{recipes[0]}: there is no such folder; if it is a recipe to train first, add --seeds 3")
    return None


def _from_file(targets: list[str], overrides: list[str], asked: list[str]) -> Wish:
    if len(targets) > 1:
        raise RecipeError(f"{targets[0]} is a study: name it alone")
    if asked or overrides:
        what = f"--{asked[0]}" if asked else overrides[0]
        raise RecipeError(f"{targets[0]} is a study, which says all itself: leave out {what}, or write it into the file")
    return read_study(Path(targets[0]))


def _seeds(text: str) -> list[int]:
    """ "5" -> 0 to 4; "3,7" -> these; "2-4" -> 2, 3, 4."""
    parts = [re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip()) for part in text.split(",")]
    if not all(parts) or not text.strip():
        raise RecipeError(f"--seeds {text}: a number of seeds such as 5, a list such as 0,1,2, or a range such as 0-4")
    if len(parts) == 1 and not parts[0][2]:
        first, last = 0, int(parts[0][1]) - 1
        ranges = [(first, last)]
    else:
        ranges = [(int(part[1]), int(part[2] or part[1])) for part in parts]
    if sum(max(0, last - first + 1) for first, last in ranges) not in range(1, _MOST_SEEDS + 1):
        raise RecipeError(f"--seeds {text}: 1 to {_MOST_SEEDS} seeds")
    return [seed for first, last in ranges for seed in range(first, last + 1)]


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
