"""`distill predict`: the classes of pictures, prepared to the bit as the run's evaluation prepares them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from distill import record
from distill.data.decoding import Decoder, pick_decoder
from distill.data.resizing import plain_view
from distill.data.sources._files import is_picture
from distill.engine.network import Network
from distill.engine.runtime import cores_per_process, prepare_process, processes
from distill.engine.stopping import Stopper
from distill.errors import DataError, RecipeError
from distill.evaluating.networks import network_of
from distill.handover.check import answering
from distill.handover.config import Config, is_export, read_config
from distill.handover.formats import FORMATS, PROGRAMS
from distill.handover.student import as_network, run_target
from distill.handover.words import PredictWish
from distill.places import expanded
from distill.report.console import make_console, print_result, printable
from distill.report.count_progress import CountProgress
from distill.resolve import Catalogue
from distill.running import Job


@dataclass(frozen=True)
class Answerer:
    """What is asked: uint8 pictures of image_size in, logits out."""

    network: Network
    class_names: list[str]
    image_size: int  # pixels
    decoder: Decoder


def predict(wish: PredictWish) -> None:
    """Prints to standard output. Raises RecipeError or DataError; also DataError at the end, where some pictures can't be read."""
    prepare_process()
    with Stopper() as stopper:
        job = Job(Catalogue(wish.plugins), processes(), make_console(is_main=True), stopper)
        answerer = open_answerer(wish, job)
        files = list(_files(wish.pictures))
        answers, unreadable = [], []
        with CountProgress(job.console, "predicting", len(files)) as progress:
            for found, logits, failed in answered(answerer, files, wish.batch_size):
                answers += _named(found, logits, answerer.class_names, wish.top)
                unreadable += failed
                progress(len(found) + len(failed))
    _show(answers, wish, unreadable)
    if unreadable:
        listed = "\n  ".join(unreadable)
        raise DataError(f"{len(unreadable):,} of {len(files):,} can't be read; the others are done:\n  {listed}")


def open_answerer(wish: PredictWish, job: Job) -> Answerer:
    """Raises RecipeError or DataError if nothing that can be asked is there."""
    folder = expanded(wish.source)
    if is_export(folder):
        return _of_export(folder, wish, job)
    if folder.is_dir() and not any((folder / name).exists() for name in (record.SUMMARY_FILE, record.STATUS_FILE, record.RECIPE_FILE)):
        raise DataError(f"{wish.source} is no run's folder, and no export of one; the pictures come after it: distill predict RUN PICTURE ...")
    target = run_target(wish.source, (), job, "predict")
    run, names = target.run, target.run.class_names
    if not names or not isinstance(run.data.get("image_size"), int):
        raise DataError(f"{run.path} does not say its classes and the size of its pictures, as it is of an older format; train it again")
    network = network_of(target, names, run.data["image_size"], str(run.path / record.WEIGHTS_FILE), None, job)
    decoder = run.recipe.data.arguments.get("decoder", "auto")
    return Answerer(network, names, run.data["image_size"], pick_decoder(decoder if decoder in ("pillow", "torchcodec") else "auto"))


def _of_export(folder: Path, wish: PredictWish, job: Job) -> Answerer:
    config = read_config(folder)
    file, target = folder / config.file, FORMATS.get(config.format)
    if target is None:
        raise DataError(f"{folder} has the format {config.format!r}, which is not known here: one of {', '.join(FORMATS)}; update distill")
    if not file.is_file():
        raise DataError(f"{file} is missing; export the student again")
    if file.suffix in PROGRAMS and not wish.trusts:
        raise RecipeError(f"{file} is a program, which can do anything when torch loads it: add --trust if you know who made it")
    try:
        answer = target.reader.load(file, job.catalogue.models)
    except (DataError, RecipeError):
        raise
    except Exception as error:  # each of the libraries has its own for a damaged file
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{file} can't be read ({reason}); export the student again") from error
    return Answerer(_placed(answer, config, file, job), config.class_names, config.image_size, pick_decoder())


def _placed(answer: Any, config: Config, file: Path, job: Job) -> Any:
    """Weights go to the job's device; programs stay where they were made for, on the CPU."""
    if file.suffix == ".safetensors":
        return as_network(answer, config).to(job.state.device)
    return answering(answer, config)


def _files(words: Sequence[str]) -> Iterator[Path]:
    """The files that are named, and all pictures of the folders, each once. Raises DataError for a folder without any."""
    seen = set()
    for word in words:
        path = expanded(word)
        found = [path]
        if path.is_dir():
            found = sorted(one for one in path.rglob("*") if is_picture(one))
            if not found:
                raise DataError(f"{word} has no pictures in it")
        yield from (one for one in found if one not in seen)
        seen.update(found)


@torch.no_grad()
def answered(answerer: Answerer, files: Sequence[Path], batch_size: int) -> Iterator[tuple[list[Path], Tensor, list[str]]]:
    """For each batch: the files that could be read, their logits [n, K] on the CPU, and a sentence on each other file."""
    with ThreadPoolExecutor(cores_per_process()) as pool:
        for start in range(0, len(files), batch_size):
            chunk = files[start : start + batch_size]
            pictures = list(pool.map(lambda path: _picture(answerer, path), chunk))
            found = [path for path, picture in zip(chunk, pictures, strict=True) if isinstance(picture, Tensor)]
            failed = [picture for picture in pictures if isinstance(picture, str)]
            logits = torch.empty(0, len(answerer.class_names))
            if found:
                images = torch.stack([picture for picture in pictures if isinstance(picture, Tensor)])
                logits = answerer.network(images.to(answerer.network.mean.device)).logits.cpu()
            yield found, logits, failed


def _picture(answerer: Answerer, path: Path) -> Tensor | str:
    """[3, size, size] uint8, or what keeps it from being read."""
    if not path.is_file():
        return f"{path}: there is no such file"
    try:
        return plain_view(answerer.decoder(path, str(path))[None], answerer.image_size)[0]
    except DataError as error:
        return str(error)


def _named(files: Sequence[Path], logits: Tensor, class_names: Sequence[str], top: int) -> list[dict[str, Any]]:
    best = logits.double().softmax(dim=1).topk(min(top, len(class_names)), dim=1)
    return [
        {"picture": str(path), "classes": [{"name": class_names[one], "probability": share} for one, share in zip(ids, shares, strict=True)]}
        for path, ids, shares in zip(files, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _show(answers: Sequence[dict[str, Any]], wish: PredictWish, unreadable: Sequence[str]) -> None:
    if wish.as_json:
        print(json.dumps({"format": 1, "source": wish.source, "pictures": answers, "unreadable": list(unreadable)}, indent=2))
        return
    if not answers:
        return
    table = Table()
    for number, heading in enumerate(("picture", "class", "probability", *(("next",) if wish.top > 1 else ()))):
        table.add_column(heading, justify="right" if number == 2 else "left", overflow="fold")
    for answer in answers:
        first, *others = answer["classes"]
        cells = [answer["picture"], first["name"], f"{first['probability']:.1%}"]
        cells += [", ".join(f"{one['name']} {one['probability']:.1%}" for one in others)] if wish.top > 1 else []
        table.add_row(*map(printable, cells))
    print_result(table, is_main=True)
