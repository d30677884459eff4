"""python -m benchmarks.loader [--quick] [--folder FOLDER] [--json FILE]

What the loaders cost, in one process and in turn: pictures in memory (crop and flip at 64 px; random resized crops); JPEG files at 224 px through
the loader, against a bare loop that decodes and crops the same pictures, with and without worker processes; and the same pictures packed by `distill
data prepare`. FOLDER: pictures of your own (train/CLASS/...); without, JPEG files are made from noise. About 3 minutes on 2 CPU cores, 1 with
--quick.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.interleave import ratio_of, time_in_turn
from distill.cli import main as distill
from distill.data.loader import TrainingLoader
from distill.data.random_rows import draw_of
from distill.data.sampler import StepSampler
from distill.data.sources.base import Part
from distill.data.sources.imagefolder import ImageFolder
from distill.data.sources.packed import Packed
from distill.data.sources.synthetic import Synthetic
from distill.data.views import Views
from distill.engine.runtime import processes, use_all_cores
from distill.record import environment

BATCH = 64
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--folder", type=Path, help="pictures of your own")
    parser.add_argument("--json", type=Path, help="write the result there too")
    options = parser.parse_args()
    use_all_cores()
    device, rounds = processes().device, 4 if options.quick else 12
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made) / "pictures"
        if options.folder is None:
            make_pictures(folder, 6 * BATCH)
        packed = Path(made) / "packed.safetensors"
        if code := distill(["data", "prepare", str(folder), "--size", "256", "-o", str(packed)]):
            raise SystemExit(code)
        files, rows = ImageFolder(str(folder)).train, Packed(str(packed), image_size=224).train
        files, rows = (part.subset(np.arange(min(len(part), 6 * BATCH))) for part in (files, rows))
        resident = Synthetic(image_size=64, num_classes=10, num_train=40 * BATCH, num_val=10, num_test=10).train
        contenders = {f"memory, {name}": through_loader(resident, views, 0, device) for name, views in IN_MEMORY.items()}
        with multiprocessing.get_context("fork").Pool(2, _begin, (files,)) as pool:
            contenders |= {"bare loop": bare_loop(files), "loader": through_loader(files, AT_224, 0, device)}
            contenders |= {"bare, 2 processes": bare_processes(files, pool), "loader, 2 workers": through_loader(files, AT_224, 2, device)}
            contenders |= {"packed": through_loader(rows, AT_224, 0, device), "packed, 2 workers": through_loader(rows, AT_224, 2, device)}
            seconds = time_in_turn(contenders, num_rounds=rounds, progress=lambda number: print(f"\rround {number}/{rounds}", end="", flush=True))
    print()
    images = {name: (len(resident) if name.startswith("memory") else len(files)) // BATCH * BATCH for name in contenders}
    speeds = {name: images[name] / float(np.median(values)) for name, values in seconds.items()}
    for name, speed in speeds.items():
        print(f"{name}: {speed:,.0f} images/s")
    compared = {"loader": "bare loop", "loader, 2 workers": "bare, 2 processes", "packed": "loader", "packed, 2 workers": "loader, 2 workers"}
    results = {f"{one} / {other}": ratio_of(np.log(seconds[other] / seconds[one])) for one, other in compared.items()}
    for name, result in results.items():
        print(f"speed of {name}: {result}")
    if options.json:
        record = {name: asdict(value) for name, value in results.items()} | {"images_per_second": speeds}
        options.json.write_text(json.dumps(record | {"environment": environment(device.type, "uint8", 1)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
