"""The options of `distill recipes`, and what each of its commands does with them. Nothing that a command needs is imported before it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from distill.commands import _catalogue, _plugins

_HELP = """\
examples:
  distill recipes list dkd                                    every recipe that has this in its name or description
  distill recipes show r50_to_r18 --changed train.epochs=3    what is not as it is by default, and where it comes from
  distill recipes copy r50_to_r18 mine.yaml                   a file of your own to change, then: distill train --recipe mine.yaml
  distill recipes diff r50_to_r18 mine.yaml                   which values differ; exit code 1 if any does
  distill recipes validate recipes/*.yaml                     all that is wrong with them, each with file and line
"""


def add_recipes(parsers: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser]) -> None:
    """add: what makes a command's parser, with the options that all commands have."""
    words = "which recipes there are; show, copy, compare and check them"
    epilog = argparse.RawDescriptionHelpFormatter
    recipes = parsers.add_parser("recipes", help=words, epilog=_HELP, formatter_class=epilog).add_subparsers(required=True, metavar="COMMAND")
    listing = add(recipes, "list", _list, "every recipe that is found by its name, and what it is for")
    listing.add_argument("word", nargs="?", metavar="WORD", help="any part of a name or description")
    show = add(recipes, "show", _show, "what a recipe says, and where each value comes from; its names are not looked up (validate does that)")
    show.add_argument("name", metavar="RECIPE", help="a name, a file, or a run's folder")
    show.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a value; ~KEY removes it")
    show.add_argument("--changed", action="store_true", help="leave out what is as it is by default")
    show.add_argument("--yaml", action="store_true", help="every value as a recipe that extends nothing, and nothing else")
    copy = add(recipes, "copy", _copy, "a recipe's file, for you to change; it means the same where it is put, or is not written")
    copy.add_argument("name", metavar="RECIPE", help="a name, a file, or a run's folder")
    copy.add_argument("file", nargs="?", metavar="FILE", help="a .yaml file, or a folder (default: the last part of its name, here)")
    copy.add_argument("--whole", action="store_true", help="write what it extends into it too, so that it extends nothing")
    diff = add(recipes, "diff", _diff, "the values that two recipes don't share; exit code 1 if there is one")
    for name in ("first", "second"):
        diff.add_argument(name, metavar="RECIPE", help="a name, a file, or a run's folder")
    validate = add(recipes, "validate", _validate, "all that train checks before anything is built; exit code 2 if something is wrong")
    validate.add_argument("names", nargs="+", metavar="RECIPE", help="names, files, or runs' folders")
    schema = add(recipes, "schema", _schema, "the JSON schema of a recipe, with which editors complete and check")
    schema.add_argument("-o", "--output", metavar="FILE", help="write it there (default: print it)")
    for command in (listing, show, diff):
        command.add_argument("--json", action="store_true", help="all that is found, for programs")
    for command in (copy, schema):
        command.add_argument("--force", action="store_true", help="replace a file that is there")
    for command in (validate, schema):
        command.add_argument(
            "--plugin", action="append", default=[], metavar="FILE|MODULE", help="your own losses, models or data sources; may be repeated"
        )


def _list(options: argparse.Namespace) -> None:
    from distill.recipes_command import print_list

    print_list(options.word, as_json=options.json)


def _show(options: argparse.Namespace) -> None:
    from distill.recipes_command import show

    show(options.name, options.overrides, changed_only=options.changed, as_yaml=options.yaml, as_json=options.json)


def _copy(options: argparse.Namespace) -> None:
    from distill.recipe_copy import copy_recipe
    from distill.recipe_search import shown_path

    target, parents = copy_recipe(options.name, options.file, whole=options.whole, force=options.force)
    print(f"wrote {target}{', which extends ' if parents else ''}{', '.join(map(shown_path, parents))}")


def _diff(options: argparse.Namespace) -> int:
    from distill.recipes_command import diff

    return 1 if diff(options.first, options.second, as_json=options.json) else 0


def _validate(options: argparse.Namespace) -> None:
    from distill.recipes_command import validate

    validate(options.names, _plugins(options))


def _schema(options: argparse.Namespace) -> None:
    from distill.recipe_schema import write_schema

    write_schema(_catalogue(options), options.output, force=options.force)
