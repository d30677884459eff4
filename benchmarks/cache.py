"""python -m benchmarks.cache [--quick] [--teacher resnet101] [--json FILE] [--markdown FILE]

What the teacher cache brings, and costs, in a training step of the framework (teacher -> ResNet-18, kd + ce, 64 px, batch 64): online, filling the
cache, read from memory, read from the memory map; beside the teacher alone (T) and the student's step alone (S), all in one process and in turn. The
most that a cache can bring is (T + S) / S. About 5 minutes on 2 CPU cores, 1 with --quick.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.interleave import Ratio, ratio_of, show_round, time_in_turn
from benchmarks.known import Known
from benchmarks.ready import make_pieces
from benchmarks.results import Conditions, Table, make_parser, parse, publish
from distill.build.cache import open_cache
from distill.build.trainer import build_trainer
from distill.data.sources.synthetic import Synthetic
from distill.engine.runtime import make_accelerator, prepare_process, processes, resolve_precision
from distill.engine.teacher import Asked
from distill.engine.teacher_cache import CachedTeacher
from distill.recipe_files import load_recipe

NUM_CLASSES = 10
CLOCK = "whole steps of an epoch: views made from pictures in memory, the teacher or its kept answers, student, loss, backward and optimizer."


class Bench:
    """The contenders of one pair of networks."""

    def __init__(self, teacher: str, batch_size: int, image_size: int, steps: int, folder: Path):
        self.source = Synthetic(image_size=image_size, num_classes=NUM_CLASSES, num_train=batch_size * steps, num_val=10, num_test=10)
        overrides = [f"teacher.model={teacher}", "teacher.weights=random", "teacher.cache.use=on", f"teacher.cache.folder={folder}"]
        overrides += [f"data.global_batch_size={batch_size}", "train.epochs=1", "train.warmup_epochs=0", "train.log_every=1000000"]
        self.recipe, self.device, self.folder = load_recipe("r50_to_r18", overrides), processes().device, folder
        self.precision = resolve_precision("auto", self.device)

    def contenders(self) -> dict[str, Callable[[], None]]:
        cached = [self._cached() for _ in range(3)]
        in_memory, from_map, filling = cached
        from_map.most_in_memory = 0
        filling.folder = shutil.copytree(self.folder, self.folder.with_name("filled")) and self._other(filling, self.folder.with_name("filled"))
        runs = {name: self._epoch(teacher) for name, teacher in (("online", None), ("memory", in_memory), ("map", from_map), ("filling", filling))}
        fill = runs["filling"]

        def emptied() -> None:
            for path in filling.folder.path.glob("view_*"):
                path.unlink()
            filling._shelf = None
            fill()

        self._epoch(in_memory)()  # fills it for the readers
        in_memory._shelf = from_map._shelf = None
        batches = list(build_trainer(*self._parts(), precision=self.precision, log=_ignored)[0].loader.epoch(0))
        teacher = in_memory.teacher
        alone = Known([teacher(batch) for batch in batches])
        return {**runs, "filling": emptied, "teacher": lambda: [teacher(batch) for batch in batches], "student": self._epoch(alone)}

    def _parts(self) -> tuple:
        return self.recipe, self.source, make_pieces(self.recipe, self.source, self.device, self.precision), make_accelerator()

    def _cached(self) -> CachedTeacher:
        return open_cache(self.recipe, self.source, self._parts()[2], precision=self.precision, say=_ignored)

    def _other(self, cached: CachedTeacher, path: Path):
        cached.folder.path = path
        return cached.folder

    def _epoch(self, asked: Asked | None) -> Callable[[], None]:
        """Runs one epoch, the loader included."""
        trainer, _ = build_trainer(*self._parts(), precision=self.precision, log=_ignored, teacher=asked)
        trainer.evaluate = lambda check: {"val_top1": 0.0}

        def run() -> None:
            trainer.step = trainer.epoch = 0
            trainer.train()

        return run


def _ignored(_: object) -> None:
    pass


WORDS = {
    "most": "(T + S) / S, the most that a cache can bring",
    "memory.speed_up": "from memory: speed over online",
    "memory.of_the_most": "from memory: share of the most",
    "map.speed_up": "from the map: speed over online",
    "map.of_the_most": "from the map: share of the most",
    "filling": "filling: time over online",
}


def compare(seconds: Mapping[str, np.ndarray]) -> dict[str, Ratio]:
    """What WORDS says, by its keys."""
    most = np.log((seconds["teacher"] + seconds["student"]) / seconds["student"])
    ratios = {"most": ratio_of(most), "filling": ratio_of(np.log(seconds["filling"] / seconds["online"]))}
    for name in ("memory", "map"):
        gain = np.log(seconds["online"] / seconds[name])
        ratios |= {f"{name}.speed_up": ratio_of(gain), f"{name}.of_the_most": ratio_of(gain - most)}
    return ratios


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("cache", __doc__, quick="6 rounds in place of 30")
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6, help="steps in a block")
    parser.add_argument("--rounds", type=int, help="blocks of each contender")
    options = parse(parser, arguments)
    prepare_process()
    rounds = options.rounds or (6 if options.quick else 30)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.teacher, options.batch_size, options.image_size, options.steps, Path(folder) / "answers")
        seconds = time_in_turn(bench.contenders(), num_rounds=rounds, progress=show_round(rounds))
    ratios = compare(seconds)
    speeds = {name: options.batch_size * options.steps / float(np.median(values)) for name, values in seconds.items()}
    rows = [*((f"{name}, images/s", f"{speed:,.0f}") for name, speed in speeds.items()), *((WORDS[name], str(ratios[name])) for name in WORDS)]
    table = Table(f"What the teacher's kept answers bring, {options.teacher} -> resnet18", ("what", "value"), rows)
    values = {name: asdict(ratio) for name, ratio in ratios.items()} | {"teacher": options.teacher, "images_per_second": speeds}
    publish(options, table, values, Conditions(bench.device, bench.precision, CLOCK))


if __name__ == "__main__":
    main()
