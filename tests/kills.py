"""python tests/kills.py [--kills 25] [--seed 0]

Kills a training run with SIGKILL at random moments, in turn within a step, while a checkpoint is written and during an evaluation; goes on with it;
and compares weights, metrics, predictions and the last checkpoint with those of the run that was never killed, byte for byte. Linux and macOS.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from runs import EVERYTHING, SMALL, contents

from distill import cli
from distill.build import trainer as build
from distill.checkpoints import CheckpointFolder
from distill.engine.distiller import Distiller
from distill.engine.trainer import Trainer

PHASES = ("step", "checkpoint", "evaluation")
RECIPE = [*SMALL, *EVERYTHING, "run_name=run", "train.checkpoint_every_steps=2", "data.arguments.num_val=200"]
SHARED = mmap.mmap(-1, 2)  # seen by parent and child: the phase, counted from 1, and how many phases have begun (modulo 256)


def noted(function: Callable, phase: int) -> Callable:
    """The function; while it runs, the parent sees the phase."""

    def run(*arguments, **options):
        before = SHARED[0]
        SHARED[0], SHARED[1] = phase, (SHARED[1] + 1) % 256
        try:
            return function(*arguments, **options)
        finally:
            SHARED[0] = before

    return run


def start(arguments: list[str]) -> int:
    """A child that runs the command; with everything imported already, it is at work at once. Returns its process id."""
    SHARED[0] = SHARED[1] = 0
    if child := os.fork():
        return child
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    Distiller.forward, Trainer._update = noted(Distiller.forward, 1), noted(Trainer._update, 1)
    CheckpointFolder.save = noted(CheckpointFolder.save, 2)
    build.score = noted(build.score, 3)
    os._exit(cli.main(["train", *arguments]))


def finish(arguments: list[str]) -> int:
    """Runs the command to its end, and returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(start(arguments), 0)[1])


def kill_within(phase: int, chance: random.Random) -> str:
    """Starts or goes on, and kills the child within such a phase. Returns what was seen then."""
    child, begun = start([*RECIPE, "--resume"]), chance.randrange(1, 40)
    while SHARED[0] != phase or SHARED[1] < begun:
        if os.waitpid(child, os.WNOHANG)[0]:
            return "it had ended"
        time.sleep(0.0002)
    time.sleep(chance.uniform(0, 0.004))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    where = PHASES[SHARED[0] - 1] if SHARED[0] else "between"
    half_written = len(list(Path("runs/run/checkpoints").glob(".tmp-*")))
    newest = sorted(path.name for path in Path("runs/run/checkpoints").glob("step-*"))[-1:]
    return f"killed within: {where}; half-written checkpoints: {half_written}; newest: {newest[0] if newest else 'none'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, chance = Path(tempfile.mkdtemp()), random.Random(options.seed)
    os.environ["DISTILL_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    assert finish(RECIPE) == 0, Path("log.txt").read_text()
    whole, equal, killed = contents("runs/run"), 0, 0
    while killed < options.kills:
        shutil.rmtree("runs")
        seen = kill_within(1 + killed % len(PHASES), chance)
        code = finish([*RECIPE, "--resume"])
        if seen == "it had ended":
            continue
        killed += 1
        same = code == 0 and contents("runs/run") == whole
        equal += same
        print(f"{killed:3d}. {seen}; gone on with: exit code {code}, {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{equal} of {killed} runs that were killed and gone on with are equal, byte for byte, to the run that was not")
    shutil.rmtree(folder)
    return 0 if equal == killed else 1


if __name__ == "__main__":
    sys.exit(main())
