"""What each command does with its options. Everything is imported late: torch takes seconds, and help or a wrong name needs none of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from distill.errors import RecipeError, StoppedError


def train(options: argparse.Namespace) -> None:
    with _stopping_early():
        _train(options)


@contextlib.contextmanager
def _stopping_early() -> Iterator[None]:
    """A cluster may take its machine back while libraries are still being imported: that has the same exit code as later."""

    def stop(number: int, _frame: object) -> None:
        raise StoppedError(f"stopped by {signal.Signals(number).name}")

    is_main_thread = threading.current_thread() is threading.main_thread()
    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)} if is_main_thread else {}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _train(options: argparse.Namespace) -> None:
    from distill.recipe_files import read_draft

    overrides, run = [*options.overrides, *options.set], None
    if isinstance(options.resume, str):
        from distill.run_folders import named_run

        run, options.resume = named_run(options.resume), False
        if options.recipe is not None:
            raise RecipeError(f"--resume {run} goes on with that run's own recipe: leave out --recipe, or say --resume alone")
    elif options.recipe is None:
        if not overrides or "=" in overrides[0] or overrides[0].startswith("~"):
            raise RecipeError("which recipe? say --recipe NAME, such as --recipe r50_to_r18")
        options.recipe, *overrides = overrides
    draft = read_draft(run or options.recipe, overrides)

    from distill.job import check, check_whole, run_job

    catalogue = _catalogue(options)
    recipe = (check_whole if options.dry_run else check)(draft, catalogue)
    if options.dry_run:
        from distill.recipes_command import print_values

        print_values(draft, recipe)
    else:
        run_job(draft, recipe, catalogue, resume=bool(options.resume), run=run)


def compare(options: argparse.Namespace) -> None:
    from distill.study.options import wish_of
    from distill.study.show import Output, compare_matrix, compare_runs

    output = Output(options.against, options.json, options.markdown, options.csv, options.html)
    wish = wish_of(options)
    if wish is None:
        compare_runs(options.overrides, output)
    else:
        with _stopping_early():
            compare_matrix(wish, _plugins(options), output, plan=options.plan, launcher=options.launcher)


def evaluate(options: argparse.Namespace) -> None:
    from distill.evaluating.options import words_of

    words = words_of(options)
    from distill.evaluating.evaluate import evaluate

    evaluate(words, _plugins(options), as_json=options.json)


def export(options: argparse.Namespace) -> None:
    from distill.handover.commands import export

    export(options, _plugins(options))


def push(options: argparse.Namespace) -> None:
    from distill.handover.commands import push

    push(options, _plugins(options))


def predict(options: argparse.Namespace) -> None:
    from distill.handover.commands import predict

    predict(options, _plugins(options))


def list_losses(options: argparse.Namespace) -> None:
    from distill.losses_command import list_losses

    list_losses(_catalogue(options), as_json=options.json)


def show_loss(options: argparse.Namespace) -> None:
    from distill.losses_command import show_loss

    show_loss(_catalogue(options), options.name)


def new_loss(options: argparse.Namespace) -> None:
    from distill.new_loss import write_new_loss

    print(write_new_loss(options.name), end="")


def check_losses(options: argparse.Namespace) -> None:
    from distill.losses_command import check_file

    check_file(options.file, options.arguments)


def list_models(options: argparse.Namespace) -> None:
    from distill.models_command import list_models

    list_models(options.pattern, _catalogue(options), as_json=options.json)


def show_model(options: argparse.Namespace) -> None:
    if options.size is not None and options.size < 1:
        raise RecipeError(f"--size {options.size}: a number of pixels, such as 224")
    from distill.models_command import show_model

    show_model(options.name, _catalogue(options), image_size=options.size, as_json=options.json)


def plan_cache(options: argparse.Namespace) -> None:
    from distill.caching.plan import plan

    plan(*_recipe_and_overrides(options, "cache plan"), _plugins(options), as_json=options.json)


def build_cache(options: argparse.Namespace) -> None:
    from distill.caching.fill import build

    build(*_recipe_and_overrides(options, "cache build"), _plugins(options))


def verify_cache(options: argparse.Namespace) -> None:
    if options.n < 1:
        raise RecipeError(f"-n {options.n}: at least one answer must be asked for again")
    from distill.caching.verify import verify

    verify(*_recipe_and_overrides(options, "cache verify"), _plugins(options), num=options.n)


def cache_info(options: argparse.Namespace) -> None:
    from distill.caching.shelves import info

    info(options.folders, as_json=options.json)


def clear_cache(options: argparse.Namespace) -> None:
    from distill.caching.shelves import clear

    clear(options.folders, all_of_them=options.all)


def _recipe_and_overrides(options: argparse.Namespace, command: str) -> tuple[str, list[str]]:
    words = options.overrides
    if options.recipe is None:
        if not words or "=" in words[0] or words[0].startswith("~"):
            raise RecipeError(f"which recipe? say distill {command} NAME, such as distill {command} r50_to_r18")
        options.recipe, *words = words
    return options.recipe, words


def prepare_data(options: argparse.Namespace) -> None:
    _refuse_negative_workers(options)
    if options.size < 1:
        raise RecipeError(f"--size {options.size}: a number of pixels, such as 256")
    from distill.data_prepare_command import prepare

    prepare(
        options.folder,
        size=options.size,
        square=options.square,
        output=options.output,
        workers=options.workers,
        decoder=options.decoder,
        on_bad_image=options.on_bad_image,
    )


def _refuse_negative_workers(options: argparse.Namespace) -> None:
    if options.workers is not None and options.workers < 0:
        raise RecipeError(f"--workers {options.workers}: a number of processes, or 0 for none but this one")


def check_data(options: argparse.Namespace) -> None:
    _refuse_negative_workers(options)
    from distill.data_check_command import check

    check(options.folder, workers=options.workers, as_json=options.json)


def doctor(options: argparse.Namespace) -> None:
    words = options.overrides
    profiles = "--profile-picture" if options.profile_picture is not None else "--profile" if options.profile else None
    if options.replay is not None:
        if profiles:
            raise RecipeError(f"{profiles} measures a recipe, and --replay {options.replay} runs one step of a run again: leave out one of them")
        if words or options.recipe is not None:
            raise RecipeError(f"--replay {options.replay} takes that run's own recipe: leave out {options.recipe or words[0]}")
        from distill.doctor.replay import replay

        return replay(options.replay, _catalogue(options), as_json=options.json)
    if options.recipe is None and words:
        if "=" in words[0] or words[0].startswith("~"):
            raise RecipeError(f"which recipe is {words[0]} for? say distill doctor NAME {' '.join(words)}")
        options.recipe, *words = words
    if profiles and options.recipe is None:
        raise RecipeError(f"{profiles} measures a recipe's training step: say distill doctor NAME {profiles}, with a recipe as for train")
    from distill.doctor.diagnose import diagnose

    return diagnose(options.recipe, words, _plugins(options), as_json=options.json, profiles=bool(profiles), picture=options.profile_picture)


def _catalogue(options: argparse.Namespace):
    from distill.resolve import Catalogue

    return Catalogue(_plugins(options))


def _plugins(options: argparse.Namespace) -> list[str]:
    return [*options.plugin, *filter(None, os.environ.get("DISTILL_PLUGINS", "").split(os.pathsep))]
