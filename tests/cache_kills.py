"""python tests/cache_kills.py [--kills 20] [--seed 0] [--precision fp32]

Kills a training run with SIGKILL at random moments while it fills a teacher cache, goes on, and looks at every answer that the cache counts as
there: it must be that of the cache which an unbroken run filled, byte for byte, and the student must be equal too. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from runs import SMALL, contents

from distill import cli
from distill.engine.answer_formats import logit_format
from distill.engine.cache_files import CacheFolder
from distill.models.weight_files import save_weights
from distill.models.zoo import create_model
from distill.record import read_json

RECIPE = [*SMALL, "run_name=run", "train.checkpoint_every_steps=2", "teacher.weights=teacher.safetensors", "teacher.cache.folder=answers"]
NUM_ROWS, NUM_VIEWS = 40, 5


def start(arguments: list[str]) -> int:
    """A child that runs the command, at work at once because everything is imported. Returns its process id."""
    if child := os.fork():
        return child
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    os._exit(cli.main(["train", *arguments]))


def finish(arguments: list[str]) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(start(arguments), 0)[1])


def kept(path: str) -> dict[tuple[int, int], bytes]:
    """(view, row) -> answer and hash of each row that counts as there."""
    folder = CacheFolder(Path(path), read_json(Path(path) / "manifest.json")["identity"], logit_format("bf16", 4).columns(), NUM_ROWS)
    found = {}
    for view in folder.views():
        packed, hashes, is_whole = folder.view(view, writes=False).read(slice(None))
        found |= {(view, int(row)): packed[row].tobytes() + hashes[row].tobytes() for row in np.flatnonzero(is_whole)}
    return found


def kill_while_filling(chance: random.Random) -> int | None:
    """Starts or goes on, and kills the child when the cache has a random number of answers more. Returns how many it had; None if it ended first."""
    child, begun = start([*RECIPE, "--resume"]), chance.uniform(0.05, 0.95) * NUM_ROWS * NUM_VIEWS
    while not Path("answers/manifest.json").exists() or len(kept("answers")) < begun:
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return len(kept("answers"))


def main() -> int:
    torch.set_num_threads(1)  # before anything is computed: a child that is forked beside OpenMP's threads would wait for them for ever
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    RECIPE.append(f"train.precision={options.precision}")
    folder, chance = Path(tempfile.mkdtemp()), random.Random(options.seed)
    os.environ["DISTILL_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    torch.manual_seed(0)
    save_weights(create_model("timm/test_resnet", num_classes=4).state_dict(), "teacher.safetensors", {"model": "timm/test_resnet"})
    assert finish(RECIPE) == 0, Path("log.txt").read_text()
    whole, expected, wrong, unequal, killed = contents("runs/run"), kept("answers"), 0, 0, 0
    assert len(expected) >= 0.85 * NUM_ROWS * NUM_VIEWS
    while killed < options.kills:
        shutil.rmtree("runs")
        shutil.rmtree("answers")
        seen = kill_while_filling(chance)
        if seen is None:
            finish([*RECIPE, "--resume"])
            continue
        killed += 1
        wrong += sum(expected[key] != value for key, value in kept("answers").items())
        code = finish([*RECIPE, "--resume"])
        after = kept("answers")
        wrong += sum(expected[key] != value for key, value in after.items()) + (after.keys() != expected.keys())
        same = code == 0 and contents("runs/run") == whole
        unequal += not same
        print(f"{killed:3d}. killed with {seen} answers; gone on with: exit code {code}, {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{killed} kills: {wrong} wrong answers, {unequal} students that are not equal, byte for byte, to that of the unbroken run")
    shutil.rmtree(folder)
    return 0 if wrong == unequal == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
