"""python -m benchmarks.checkpoint [--recipe NAME] [--times 10]

How long training stands still for a checkpoint, through to the disk, as a share of the 5 minutes that lie between two of them by default.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from rich.console import Console

from distill.build.pieces import build_pieces
from distill.build.trainer import build_trainer
from distill.data.sources.synthetic import Synthetic
from distill.engine.runtime import make_accelerator, prepare_process, processes
from distill.engine.stopping import Stopper
from distill.recipe_files import load_recipe
from distill.record import RunFolder
from distill.resolve import Catalogue
from distill.run_state import checkpoint_bytes, make_saving
from distill.running import Job

INTERVAL = 300  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="r50_alone")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where to write; by default the folder for temporary files")
    options = parser.parse_args()
    prepare_process()
    state, source = processes(), Synthetic(num_classes=10)
    recipe = load_recipe(
        options.recipe, ["train.epochs=1", "train.warmup_epochs=0", "train.max_steps=2", "train.ema_decay=0.99", "train.precision=fp32"]
    )
    pieces = build_pieces(recipe, Catalogue(), source, device=state.device, precision="fp32", weights={})
    job = Job(Catalogue(), state, Console(quiet=True), Stopper())
    with tempfile.TemporaryDirectory(dir=options.folder) as path:
        folder = RunFolder(Path(path))
        folder.open()
        saving = make_saving(recipe, folder, source, pieces, job, "fp32")
        trainer, _ = build_trainer(recipe, source, pieces, make_accelerator(), precision="fp32", log=lambda event: None, saving=saving)
        trainer.train()  # so that the optimizer has its state
        seconds = []
        for number in range(options.times):
            trainer.step += 1  # another name each time
            started = time.perf_counter()
            trainer._save()
            seconds.append(time.perf_counter() - started)
            print(f"\r{number + 1}/{options.times}", end="", flush=True)
        folder.close()
    size, middle = checkpoint_bytes(recipe, pieces), statistics.median(seconds)
    print(f"\r{options.recipe} with an average: {size / 1e6:.0f} MB; median {middle:.2f} s, longest {max(seconds):.2f} s of {len(seconds)}")
    print(f"one in {INTERVAL} s: {middle / INTERVAL:.2%} of the time, {max(seconds) / INTERVAL:.2%} at most")


if __name__ == "__main__":
    main()
