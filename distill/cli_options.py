"""The options of every command. Nothing here imports what a command needs: help and a mistyped option are answered at once."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable

from distill import __version__, commands
from distill.evaluating.options import EVAL_HELP, add_eval_options
from distill.handover import options as handover
from distill.recipes_options import add_recipes

_OWN = "your own losses, models or data sources; may be repeated"
_TRAIN_HELP = """\
examples:
  distill train --recipe r50_to_r18
  distill train --recipe r50_to_r18 losses.kd.temperature=2 train.epochs=3 seed=1
  distill train --recipe photos data.root=~/pictures
  distill train --recipe mine.yaml --plugin my_loss.py
  distill train --resume runs/r50_to_r18-seed0                go on with a run that was stopped or killed, exactly
  distill train --recipe r50_to_r18 --resume                  the same, or begin if there is none: for jobs that a cluster starts again
  accelerate launch distill/run.py --recipe r50_to_r18        the same, on any number of GPUs
"""
_COMPARE_HELP = """\
examples:
  distill compare runs/*                                      finished runs: a row for each student, over its seeds
  distill compare r50_to_r18 --losses kd,dkd,dist --seeds 5   trains what is missing of a matrix, and always the student alone
  distill compare r50_to_r18 --seeds 5 --plan                 only prints the commands, for a cluster's scheduler
  distill compare study.yaml --html report.html               a matrix from a file, and a report with pictures
"""
_DOCTOR_HELP = """\
examples:
  distill doctor r50_to_r18                                   what that job needs, and what would end it, in about a minute
  distill doctor r50_to_r18 --profile                         also where the time of a step goes, and how near that is to the device's limits
  distill doctor --replay runs/r50_to_r18-seed0               where the loss or gradient of a run was first not finite
  distill doctor                                              versions, devices, features
"""
_PREPARE_HELP = """\
examples:
  distill data prepare ~/pictures                             pictures-256.safetensors: for random crops of up to 256 pixels
  distill data prepare ~/pictures --size 64 --square          pictures-64-square.safetensors: small ones, held in memory
  distill train --recipe r50_to_r18 data.source=packed data.root=pictures-256.safetensors data.augment.crop=random_resized
"""
_MODELS_HELP = """\
examples:
  distill models list                                         our own, and how many others there are
  distill models list convnext                                every name that has this in it
  distill models show resnet50
  distill models show timm/convnext_tiny --size 96
"""
_NEW_HELP = """\
then:
  distill losses check my_loss.py
  pytest test_my_loss.py
  distill losses show my_loss --plugin my_loss.py             its card, and a recipe to save as my_loss.yaml
  distill train --recipe my_loss.yaml --plugin my_loss.py
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command, with `run`, what carries it out. Ends the program with code 2 and usage on what can't be understood."""
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
        if word == "--resume" and ("=" in following or following.startswith("~")) and not os.path.isdir(following):  # noqa: PTH112 - any text
            return [*arguments[:index], *arguments[index + 1 :], word]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distill", description="A small student learns from a big teacher, and is compared with the same student alone."
    )
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(parsers)
    _add_compare(parsers)
    add_eval_options(_add(parsers, "eval", commands.evaluate, "one network in detail, or two on the same pictures", epilog=EVAL_HELP))
    _add_handover(parsers)
    add_recipes(parsers, _add)
    _add_losses(parsers)
    _add_models(parsers)
    _add_cache(parsers)
    _add_data(parsers)
    _add_doctor(parsers)
    return parser


def _add_train(parsers: argparse._SubParsersAction) -> None:
    train = _add(parsers, "train", commands.train, "train the student of a recipe", epilog=_TRAIN_HELP)
    train.add_argument("--recipe", metavar="NAME|FILE", help="a shipped recipe's name, a YAML file, or a run's folder")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change a value of the recipe; ~KEY removes it")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="the same as a plain KEY=VALUE; may be repeated")
    train.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)
    train.add_argument("--resume", nargs="?", const=True, metavar="RUN", help="go on with RUN, or with this recipe's unfinished run")
    train.add_argument("--dry-run", action="store_true", help="show the resolved recipe and where each value comes from, and stop")


def _add_compare(parsers: argparse._SubParsersAction) -> None:
    words = "students side by side, with intervals and the student alone"
    compare = _add(parsers, "compare", commands.compare, words, epilog=_COMPARE_HELP)
    compare.add_argument(
        "overrides", nargs="*", metavar="RUNS|RECIPE|STUDY [KEY=VALUE ...]", help="runs' folders; or recipes or a study file to train"
    )
    compare.add_argument("--seeds", metavar="N", help="train: a number of seeds, or a list such as 0,1,2")
    for name, what in (("losses", "losses, each in place of the recipe's own"), ("students", "student models"), ("teachers", "teacher models")):
        compare.add_argument(f"--{name}", metavar="A,B", help=f"train: {what}")
    compare.add_argument("--ablate", action="store_true", help="train: also leave out each of the recipe's losses in turn")
    compare.add_argument("--plan", action="store_true", help="train nothing: print the commands, one a line")
    compare.add_argument("--launcher", default="", metavar="WORDS", help='what starts each training, such as "accelerate launch"')
    compare.add_argument("--against", metavar="NAME", help="the row that the others are compared with (default: each student alone)")
    compare.add_argument("--json", action="store_true", help="all numbers, for programs")
    for name, what in (("markdown", "the tables as Markdown"), ("csv", "the numbers as CSV"), ("html", "a report with pictures, one file")):
        compare.add_argument(f"--{name}", metavar="FILE", help=f"write {what}")
    compare.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)


def _add_handover(parsers: argparse._SubParsersAction) -> None:
    words = "the trained student in a format for others, checked against its run"
    handover.add_export_options(_add(parsers, "export", commands.export, words, epilog=handover.EXPORT_HELP))
    handover.add_push_options(_add(parsers, "push", commands.push, "a student to the Hugging Face hub", epilog=handover.PUSH_HELP))
    words = "the classes of pictures, by a run's student or an export"
    handover.add_predict_options(_add(parsers, "predict", commands.predict, words, epilog=handover.PREDICT_HELP))


def _add_losses(parsers: argparse._SubParsersAction) -> None:
    losses = parsers.add_parser("losses", help="which losses there are; write and check your own").add_subparsers(required=True, metavar="COMMAND")
    listing = _add(losses, "list", commands.list_losses, "every loss, with its idea, paper, usual weights and cost")
    listing.add_argument("--json", action="store_true", help="all that is known of each, for programs")
    show = _add(losses, "show", commands.show_loss, "one loss: its equation, arguments and recipe")
    show.add_argument("name", metavar="NAME")
    new = _add(losses, "new", commands.new_loss, "write NAME.py, a commented loss that works, and test_NAME.py, its test", epilog=_NEW_HELP)
    new.add_argument("name", metavar="NAME", help="its name in a recipe, such as my_loss")
    check = _add(losses, "check", commands.check_losses, "does every loss of a file keep the contract of a loss?")
    check.add_argument("file", metavar="FILE")
    check.add_argument("arguments", nargs="*", metavar="KEY=VALUE", help="arguments of the loss, where its defaults won't do")
    for command in (listing, show):
        command.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)


def _add_models(parsers: argparse._SubParsersAction) -> None:
    words = "which networks there are, and their stages and weights"
    models = parsers.add_parser("models", help=words).add_subparsers(required=True, metavar="COMMAND")
    listing = _add(models, "list", commands.list_models, "the names of networks", epilog=_MODELS_HELP)
    listing.add_argument("pattern", nargs="?", metavar="PATTERN", help="any part of a name, or with * and ?, all of it")
    show = _add(models, "show", commands.show_model, "one network: parameters, work, stages, published weights", epilog=_MODELS_HELP)
    show.add_argument("name", metavar="NAME", help="as in teacher.model and student.model")
    show.add_argument("--size", type=int, metavar="PIXELS", help="of the pictures (default: those that its weights were published with)")
    for command in (listing, show):
        command.add_argument("--json", action="store_true", help="all that is known, for programs")
        command.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)


def _add_cache(parsers: argparse._SubParsersAction) -> None:
    cache = parsers.add_parser("cache", help="the teacher's kept answers: plan, fill, look at, verify, remove")
    cache = cache.add_subparsers(required=True, metavar="COMMAND")
    plan = _add(cache, "plan", commands.plan_cache, "what keeping the answers of a recipe's teacher takes and saves here")
    build = _add(cache, "build", commands.build_cache, "ask the teacher for every view now; goes on where it was")
    verify = _add(cache, "verify", commands.verify_cache, "are the kept answers whole, and those that the teacher gives?")
    verify.add_argument("-n", type=int, default=1024, metavar="NUM", help="answers that the teacher is asked for again (default 1024)")
    for command in (plan, build, verify):
        command.add_argument("overrides", nargs="*", metavar="RECIPE [KEY=VALUE ...]", help="a recipe as for train, and values to change in it")
        command.add_argument("--recipe", metavar="NAME|FILE", help="the same as a plain RECIPE")
        command.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)
    info = _add(cache, "info", commands.cache_info, "which teacher caches there are, and how large")
    clear = _add(cache, "clear", commands.clear_cache, "remove teacher caches")
    for command in (info, clear):
        command.add_argument("folders", nargs="*", metavar="FOLDER", help="a cache's folder; without, those in distill's own place")
    clear.add_argument("--all", action="store_true", help="all in distill's own place")
    for command in (plan, info):
        command.add_argument("--json", action="store_true", help="all that is known, for programs")


def _add_data(parsers: argparse._SubParsersAction) -> None:
    words = "folders of pictures: what is wrong in one; all of it in one file"
    data = parsers.add_parser("data", help=words).add_subparsers(required=True, metavar="COMMAND")
    words = "pack a folder's pictures, resized once, into one file; goes on where it was"
    prepare = _add(data, "prepare", commands.prepare_data, words, epilog=_PREPARE_HELP)
    prepare.add_argument("folder", metavar="FOLDER", help="as data.root of data.source=imagefolder")
    prepare.add_argument("--size", type=int, default=256, metavar="PIXELS", help="of the short side; none is enlarged (default 256)")
    prepare.add_argument("--square", action="store_true", help="keep the central square only: the picture that evaluation sees")
    prepare.add_argument("-o", "--output", metavar="FILE", help="default: FOLDER-SIZE.safetensors, here")
    prepare.add_argument("--workers", type=int, metavar="N", help="processes that read pictures; 0 for this one alone (default: by the cores)")
    prepare.add_argument("--decoder", choices=["auto", "pillow", "torchcodec"], default="auto", help="as data.arguments.decoder")
    words = "pictures that can't be read: keep the file unfinished, to be gone on with, or leave them out"
    prepare.add_argument("--on-bad-image", choices=["error", "skip"], default="error", help=words)
    check = _add(data, "check", commands.check_data, "go through every picture of a folder: what would stop a run, what harms it")
    check.add_argument("folder", metavar="FOLDER|FILE", help="as data.root of data.source=imagefolder; or a packed file")
    check.add_argument("--workers", type=int, metavar="N", help="processes that read pictures; 0 for this one alone (default: by the cores)")
    check.add_argument("--json", action="store_true", help="all that is found, with every name, for programs")


def _add_doctor(parsers: argparse._SubParsersAction) -> None:
    words = "what a recipe will do and need here, and what would end it"
    doctor = _add(parsers, "doctor", commands.doctor, words, epilog=_DOCTOR_HELP)
    doctor.add_argument("overrides", nargs="*", metavar="RECIPE [KEY=VALUE ...]", help="a recipe as for train, and values to change in it")
    doctor.add_argument("--recipe", metavar="NAME|FILE", help="the same as a plain RECIPE")
    doctor.add_argument("--replay", metavar="RUN", help="run the batch again at which RUN's loss or gradient was not finite")
    doctor.add_argument("--profile", action="store_true", help="also time each part of a training step, beside what this device could do at most")
    doctor.add_argument("--profile-picture", metavar="FILE.svg", help="the same, and draw it into a file")
    doctor.add_argument("--json", action="store_true", help="all that is found, for programs")
    doctor.add_argument("--plugin", action="append", default=[], metavar="FILE|MODULE", help=_OWN)


def _add(parsers: argparse._SubParsersAction, name: str, run: Callable, words: str, epilog: str | None = None) -> argparse.ArgumentParser:
    description = words[0].upper() + words[1:]
    parser = parsers.add_parser(name, help=words, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run)
    return parser
