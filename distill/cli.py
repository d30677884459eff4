"""The command line: `distill train --recipe NAME`. Thin: it reads arguments, calls, and turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from distill import __version__
from distill.errors import DistillError, RecipeError, StoppedError

_OWN = "your own losses or data sources; may be repeated"
_TRAIN_HELP = """\
examples:
  distill train --recipe r50_to_r18
  distill train --recipe r50_to_r18 losses.kd.temperature=2 train.epochs=3 seed=1
  distill train --recipe r50_to_r18 data.source=imagefolder data.root=~/pictures data.image_size=64
  distill train --recipe mine.yaml --plugin my_loss.py
  distill train --resume runs/r50_to_r18-seed0                go on with a run that was stopped or killed, exactly
  distill train --recipe r50_to_r18 --resume                  the same, or begin if there is none: for jobs that a cluster starts again
  accelerate launch distill/run.py --recipe r50_to_r18        the same, on any number of GPUs
"""
_NEW_HELP = """\
then:
  distill losses check my_loss.py
  pytest test_my_loss.py
  distill losses show my_loss --plugin my_loss.py             its card, and a recipe to save as my_loss.yaml
  distill train --recipe my_loss.yaml --plugin my_loss.py
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or 1 failed, 2 wrong recipe or usage, 3 unusable data, 4 diverged, 75 stopped (to be gone
    on with), 130 interrupted."""
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    try:
        options.run(options)
    except StoppedError as error:
        if _is_main():
            print(f"{error}", file=sys.stderr, flush=True)
        return error.exit_code
    except DistillError as error:
        if _is_main() or not isinstance(error, RecipeError):  # a wrong recipe is found out by all processes alike
            _print_error(str(error), options)
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted", options)
        return 130
    except Exception as error:
        if not _wants_traceback(options):
            _print_error(
                f"unexpected {type(error).__name__}: {error}\n(the traceback is shown with --traceback; this is a defect, please report it)", options
            )
            return 1
        raise
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(_resume_last(arguments))
    overrides = getattr(options, "overrides", None)
    if overrides is None or any(word.startswith("-") for word in rest):
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    else:
        overrides += rest  # argparse takes only the first of several groups of KEY=VALUE with options between them
    return options


def _resume_last(arguments: list[str]) -> list[str]:
    """`--resume train.epochs=3` is a plain --resume and an override, which argparse would take for the folder."""
    for index, (word, following) in enumerate(itertools.pairwise(arguments)):
        if word == "--resume" and "=" in following:
            return [*arguments[:index], *arguments[index + 1 :], word]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distill", description="A small student learns from a big teacher, and is compared with the same student alone."
    )
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_losses(commands)
    return parser


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = _add(commands, "train", _train, "train the student of a recipe", epilog=_TRAIN_HELP)
    train.add_argument("--recipe", metavar="NAME|FILE", help="a shipped recipe's name, a YAML file, or a run's folder")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a value of the recipe; ~KEY removes it")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="the same as a plain KEY=VALUE; may be repeated")
    train.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)
    train.add_argument("--resume", nargs="?", const=True, metavar="RUN", help="go on with RUN, or with this recipe's unfinished run")
    train.add_argument("--dry-run", action="store_true", help="show the resolved recipe and where each value comes from, and stop")


def _add_losses(commands: argparse._SubParsersAction) -> None:
    losses = commands.add_parser("losses", help="which losses there are; write and check your own").add_subparsers(required=True, metavar="COMMAND")
    listing = _add(losses, "list", _list_losses, "every loss, with its idea, paper, usual weights and cost")
    listing.add_argument("--json", action="store_true", help="all that is known of each, for programs")
    show = _add(losses, "show", _show_loss, "one loss: its equation, arguments and recipe")
    show.add_argument("name", metavar="NAME")
    new = _add(losses, "new", _new_loss, "write NAME.py, a commented loss that works, and test_NAME.py, its test", epilog=_NEW_HELP)
    new.add_argument("name", metavar="NAME", help="its name in a recipe, such as my_loss")
    check = _add(losses, "check", _check_losses, "does every loss of a file keep the contract of a loss?")
    check.add_argument("file", metavar="FILE")
    check.add_argument("arguments", nargs="*", metavar="KEY=VALUE", help="arguments of the loss, where its defaults won't do")
    for command in (listing, show):
        command.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)


def _add(commands: argparse._SubParsersAction, name: str, run: Callable, words: str, epilog: str | None = None) -> argparse.ArgumentParser:
    description = words[0].upper() + words[1:]
    parser = commands.add_parser(name, help=words, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser


def _train(options: argparse.Namespace) -> None:
    from distill.recipe_files import read_draft

    overrides, run = [*options.overrides, *options.set], None
    if isinstance(options.resume, str):
        run, options.resume = _run_folder(options.resume), False
        if options.recipe is not None:
            raise RecipeError(f"--resume {run} goes on with that run's own recipe: leave out --recipe, or say --resume alone")
    elif options.recipe is None:
        if not overrides or "=" in overrides[0] or overrides[0].startswith("~"):
            raise RecipeError("which recipe? say --recipe NAME, such as --recipe r50_to_r18")
        options.recipe, *overrides = overrides
    draft = read_draft(run or options.recipe, overrides)

    from distill.job import check, run_job  # late: torch takes seconds to import, and a wrong recipe name needs none of it

    catalogue = _catalogue(options)
    recipe = check(draft, catalogue)
    if options.dry_run:
        _show(draft, recipe)
    else:
        run_job(draft, recipe, catalogue, resume=bool(options.resume), run=run)


def _run_folder(name: str) -> Path:
    from distill.record import RECIPE_FILE

    path = Path(name)
    if not (path / RECIPE_FILE).is_file():
        what = "has no recipe.resolved.yaml, so it is no run's folder" if path.is_dir() else "is not there"
        raise RecipeError(f"--resume {name}: the folder {what}; to go on with the run of a recipe, say --recipe NAME --resume")
    return path


def _show(draft, recipe) -> None:
    from distill.recipe_files import explain

    rows = [(path, str(value), str(origin)) for path, value, origin in explain(draft, recipe)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for path, value, origin in rows:
        print(f"{path:<{widths[0]}}  {value:<{min(40, widths[1])}}  {origin}")


def _list_losses(options: argparse.Namespace) -> None:
    from distill.losses_command import list_losses

    list_losses(_catalogue(options), as_json=options.json)


def _show_loss(options: argparse.Namespace) -> None:
    from distill.losses_command import show_loss

    show_loss(_catalogue(options), options.name)


def _new_loss(options: argparse.Namespace) -> None:
    from distill.new_loss import write_new_loss

    print(write_new_loss(options.name), end="")


def _check_losses(options: argparse.Namespace) -> None:
    from distill.losses_command import check_file

    check_file(options.file, options.arguments)


def _catalogue(options: argparse.Namespace):
    from distill.resolve import Catalogue

    return Catalogue([*options.plugin, *filter(None, os.environ.get("DISTILL_PLUGINS", "").split(os.pathsep))])


def _wants_traceback(options: argparse.Namespace) -> bool:
    return options.traceback or bool(os.environ.get("DISTILL_DEBUG"))


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print_error(message: str, options: argparse.Namespace) -> None:
    if _wants_traceback(options):
        traceback.print_exc()
    who = "" if _is_main() else f" (process {os.environ['RANK']})"
    print(f"error{who}: {message}", file=sys.stderr, flush=True)
