"""What the words of `distill export`, `push` and `predict` ask for, checked as far as that can be without torch."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from distill.errors import RecipeError
from distill.evaluating.options import refuse_several_processes, split_words
from distill.places import expanded

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_LONGEST = 96  # letters of a name on the hub
_RUN = "runs/r50_to_r18-seed0"


@dataclass(frozen=True)
class ExportWish:
    """What `distill export` was asked for."""

    run: str
    overrides: Sequence[str]
    to: str
    output: str
    checks: bool = True
    min_agreement: float | None = None  # a share that takes the place of the format's limits
    plugins: Sequence[str] = ()


@dataclass(frozen=True)
class PushWish:
    """What `distill push` was asked for."""

    source: str  # a run or an export
    overrides: Sequence[str]
    repository: str
    private: bool
    revision: str | None
    token_file: str | None
    checks: bool
    plugins: Sequence[str]


@dataclass(frozen=True)
class PredictWish:
    """What `distill predict` was asked for."""

    source: str  # a run or an export
    pictures: Sequence[str]
    top: int
    batch_size: int
    trusts: bool
    as_json: bool
    plugins: Sequence[str]


def export_wish(options: argparse.Namespace, plugins: Sequence[str]) -> ExportWish:
    """Raises RecipeError for words that make no sense."""
    refuse_several_processes("distill export")
    targets, overrides = split_words(options.overrides)
    if len(targets) != 1:
        which = f"{len(targets)} runs ({', '.join(targets)}): one at a time" if targets else "which run?"
        raise RecipeError(f"{which}; say distill export RUN --to {options.to} -o FOLDER, such as distill export {_RUN} --to {options.to} -o student")
    share = options.min_agreement
    if share is not None and not 0 < share <= 1:
        raise RecipeError(f"--min-agreement {share:g}: a share between 0 and 1, such as 0.98")
    if share is not None and options.no_check:
        raise RecipeError("--min-agreement says what the check must find, and --no-check leaves it out: take one of them")
    return ExportWish(targets[0], overrides, options.to, options.output, not options.no_check, share, plugins)


def push_wish(options: argparse.Namespace, plugins: Sequence[str]) -> PushWish:
    """Raises RecipeError for words that make no sense."""
    refuse_several_processes("distill push")
    words, overrides = split_words(options.overrides)
    if len(words) != 2:
        raise RecipeError(f"say distill push RUN|FOLDER ORG/NAME, such as distill push {_RUN} me/small-resnet (got {' '.join(words) or 'neither'})")
    source, repository = words
    is_odd = "--" in repository or ".." in repository or repository.endswith((".git", ".", "-"))
    if is_odd or not _REPOSITORY.fullmatch(repository) or len(repository) > _LONGEST:
        raise RecipeError(
            f"{repository!r} can't be a model's name on the hub: it is ORG/NAME, such as me/small-resnet; letters, digits, '-', '_' and '.', "
            f"no '--' or '..', at most {_LONGEST} letters"
        )
    if options.token_file is not None and not expanded(options.token_file).is_file():
        raise RecipeError(f"--token-file {options.token_file}: there is no such file; it holds a token of the hub, and nothing else")
    return PushWish(source, overrides, repository, options.private, options.revision, options.token_file, not options.no_check, plugins)


def predict_wish(options: argparse.Namespace, plugins: Sequence[str]) -> PredictWish:
    """Raises RecipeError for words that make no sense."""
    refuse_several_processes("distill predict")
    source, *pictures = options.overrides or [""]
    if not pictures:
        example = f"distill predict {source or _RUN} cat.jpg"
        raise RecipeError(f"which pictures? say distill predict RUN|FOLDER PICTURE ..., such as {example}; folders of pictures will do too")
    for name, value in (("--top", options.top), ("--batch-size", options.batch_size)):
        if value < 1:
            raise RecipeError(f"{name} {value}: a whole number, 1 or more")
    return PredictWish(source, pictures, options.top, options.batch_size, options.trust, options.json, plugins)
