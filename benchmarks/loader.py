"""python -m benchmarks.loader [--quick] [--folder FOLDER] [--json FILE] [--markdown FILE]

What the loaders cost, in one process and in turn: pictures in memory (crop and flip at 64 px; random resized crops); JPEG files at 224 px through
the loader, against a bare loop that decodes and crops the same pictures, with and without worker processes; and the same pictures packed by `distill
data prepare`. FOLDER: pictures of your own (train/CLASS/...); without, JPEG files are made from noise. About 3 minutes on 2 CPU cores, 1 with
--quick.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.interleave import Ratio, ratio_of, show_round, time_in_turn
from benchmarks.results import Conditions, Table, make_parser, parse, publish
from distill.cli import main as distill
from distill.data.loader import TrainingLoader
from distill.data.random_rows import draw_of
from distill.data.sampler import StepSampler
from distill.data.sources.base import Part
from distill.data.sources.imagefolder import ImageFolder
from distill.data.sources.packed import Packed
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.engine.runtime import prepare_process, processes

BATCH = 64
CLOCK = "one epoch of batches: decoding where there are files (read before, so in the page cache), crop, resize and flip; nothing learns from them."
COMPARED = {"loader": "bare loop", "loader, 2 workers": "bare, 2 processes", "packed": "loader", "packed, 2 workers": "loader, 2 workers"}
AT_224 = Views(224, crop="random_resized", scale=(0.08, 1.0), flip=0.5)
IN_MEMORY = {
    "crop and flip": Views(64, crop="padded", padding=4, flip=0.5),
    "random resized": Views(64, crop="random_resized", flip=0.5),
}


def make_pictures(folder: Path, num: int) -> None:
    """Smooth colours with some noise, about 500 x 375, as photographs are."""
    generator = np.random.default_rng(0)
    for index in range(num):
        path = folder / "train" / f"class{index % 2}" / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((500, 375), Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse).astype(np.int16) + generator.integers(-12, 13, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def through_loader(part: Part, views: Views, workers: int, device: torch.device) -> Callable[[], None]:
    sampler = StepSampler(len(part), BATCH, seed=0)
    loader = TrainingLoader(part, views, sampler, view_seed=0, num_views=1, device=device, workers=workers)

    def run() -> None:
        for _ in loader.epoch(0):
            pass

    return run


def positions_of(part: Part) -> list[int]:
    return [int(position) for batch in StepSampler(len(part), BATCH, seed=0).micro_batches(0) for position in batch]


def decode_and_crop(part: Part, position: int) -> torch.Tensor:
    return AT_224.apply(part.picture(position)[None], draw_of(0, 0, int(part.sample_ids[position])))


_part: Part | None = None


def _begin(part: Part) -> None:
    global _part
    _part = part
    torch.set_num_threads(1)


def _many(positions: list[int]) -> int:
    return len(torch.cat([decode_and_crop(_part, position) for position in positions]))


def bare_loop(part: Part) -> Callable[[], None]:
    positions = positions_of(part)

    def run() -> None:
        for start in range(0, len(positions), BATCH):
            torch.cat([decode_and_crop(part, position) for position in positions[start : start + BATCH]])

    return run


def bare_processes(part: Part, pool: multiprocessing.pool.Pool) -> Callable[[], None]:
    positions = positions_of(part)
    chunks = [positions[start : start + BATCH] for start in range(0, len(positions), BATCH)]
    return partial(_drain, pool, chunks)


def _drain(pool: multiprocessing.pool.Pool, chunks: list[list[int]]) -> None:
    for _ in pool.imap(_many, chunks):
        pass


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("loader", __doc__, quick="4 rounds in place of 12")
    parser.add_argument("--folder", type=Path, help="pictures of your own")
    parser.add_argument("--rounds", type=int, help="epochs of each contender")
    parser.add_argument("--batches", type=int, default=6, help="batches in an epoch of files")
    options = parse(parser, arguments)
    prepare_process()
    device, rounds = processes().device, options.rounds or (4 if options.quick else 12)
    resident = Synthetic(image_size=64, num_classes=10, num_train=40 * BATCH, num_val=10, num_test=10).train
    with tempfile.TemporaryDirectory() as made:
        files, packed = picture_files(options.folder, Path(made), options.batches)
        with multiprocessing.get_context("fork").Pool(2, _begin, (files,)) as pool:
            contenders = make_contenders(resident, files, packed, pool, device)
            seconds = time_in_turn(contenders, num_rounds=rounds, progress=show_round(rounds))
    images = {name: (len(resident) if name.startswith("memory") else len(files)) // BATCH * BATCH for name in contenders}
    speeds = {name: images[name] / float(np.median(values)) for name, values in seconds.items()}
    ratios = {f"{one} / {other}": ratio_of(np.log(seconds[other] / seconds[one])) for one, other in COMPARED.items()}
    rows = [(name, f"{speed:,.0f}", *against(name, ratios)) for name, speed in speeds.items()]
    values = {name: asdict(value) for name, value in ratios.items()} | {"images_per_second": speeds}
    table = Table("What the loaders cost", ("loader", "images/s", "speed over", "ratio (95 % interval)"), rows)
    publish(options, table, values, Conditions(device, "uint8", CLOCK))


def picture_files(folder: Path | None, made: Path, batches: int) -> tuple[Part, Part]:
    """The same pictures as files and packed; of the folder's, or of noise if there is none."""
    if folder is None:
        folder = made / "pictures"
        make_pictures(folder, batches * BATCH * 5 // 4)  # of which a fifth is set aside
    packed = made / "packed.safetensors"
    if code := distill(["data", "prepare", str(folder), "--size", "256", "-o", str(packed)]):
        raise SystemExit(code)
    parts = ImageFolder(str(folder)).train, Packed(str(packed), image_size=224).train
    files, rows = (part.subset(np.arange(min(len(part), batches * BATCH))) for part in parts)
    return files, rows


def make_contenders(
    resident: Part, files: Part, packed: Part, pool: multiprocessing.pool.Pool, device: torch.device
) -> dict[str, Callable[[], None]]:
    contenders = {f"memory, {name}": through_loader(resident, views, 0, device) for name, views in IN_MEMORY.items()}
    contenders |= {"bare loop": bare_loop(files), "loader": through_loader(files, AT_224, 0, device)}
    contenders |= {"bare, 2 processes": bare_processes(files, pool), "loader, 2 workers": through_loader(files, AT_224, 2, device)}
    return contenders | {"packed": through_loader(packed, AT_224, 0, device), "packed, 2 workers": through_loader(packed, AT_224, 2, device)}


def against(name: str, ratios: Mapping[str, Ratio]) -> tuple[str, str]:
    """(what it is compared with, how) as a table has it."""
    other = COMPARED.get(name)
    return (other, str(ratios[f"{name} / {other}"])) if other else ("", "")


if __name__ == "__main__":
    main()
