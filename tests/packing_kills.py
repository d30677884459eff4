"""python tests/packing_kills.py [--every 1]

Kills a packer with SIGKILL before its first, second, third, ... call that changes the disk, until one makes no more such calls. After each kill looks
whether what lies there is a valid safetensors file whose marked pictures are whole, goes on, and compares the file with that of a packer that was not
killed, byte for byte. Linux and macOS.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from distill import cli, data_prepare_command  # noqa: F401 - imported once here, not in every child
from distill.data.packing import fill, marks
from distill.data.packing.check import damaged_rows
from distill.data.packing.file import read_packed_file

COMMAND = ["data", "prepare", "pictures", "--size", "20", "--workers", "0", "--decoder", "pillow", "-o", "packed"]
CHANGES = ("pwrite", "fsync", "posix_fallocate", "ftruncate", "replace", "rename", "unlink")  # of these, those that this system has


def make_pictures() -> None:
    chance = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = Path("pictures") / part / name
            folder.mkdir(parents=True)
            for index in range(2):
                height, width = chance.integers(10, 60, 2)
                Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{index}.png")


def killing(function: Callable, left: list[int]) -> Callable:
    """The function; when nothing is left, the process is killed instead."""

    def run(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return run


def pack(num_changes: int = 10**9) -> int:
    """Runs the command in a child that is killed after so many changes. Returns its exit code; below 0 for a signal."""
    child = os.fork()
    if not child:
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        marks._SECONDS_BETWEEN_MARKS, fill._PICTURES_AT_ONCE = 0.0, 2
        left = [num_changes]
        for name in CHANGES:
            if hasattr(os, name):
                setattr(os, name, killing(getattr(os, name), left))
        os._exit(cli.main(COMMAND))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_what_is_there() -> None:
    for name in ("packed", "packed.partial"):
        if Path(name).exists():
            found = read_packed_file(Path(name))
            assert damaged_rows(found) == [], name
            with safe_open(name, "np") as file:
                assert np.array_equal(file.get_tensor("filled"), found.filled)


def remove() -> None:
    for path in (*Path().glob("packed*"), *Path().glob(".packed*")):
        path.unlink()


def killed_after(num: int) -> bool:
    """Whether a packer that may make so many changes was killed. If so, goes on, with a picture added that gives all others other places, is killed
    once more, and goes on to the end."""
    added, aside = Path("pictures/train/cat/0.png"), Path("aside.png")
    remove()
    added.rename(aside)
    code = pack(num)
    check_what_is_there()
    is_finished = Path("packed").exists()
    aside.rename(added)
    if is_finished:
        Path("packed").unlink()
    assert code in (0, -signal.SIGKILL), code
    if code:
        assert pack(num // 2) == -signal.SIGKILL
        check_what_is_there()
        assert pack() == 0, Path("log.txt").read_text()[-1000:]
        left = sorted(path.name for path in Path().iterdir() if path.name != ".packed.lock")
        assert left == ["log.txt", "packed", "pictures"], left
    return code != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="of the changes only every so many")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    make_pictures()
    assert pack() == 0, Path("log.txt").read_text()
    expected, num, num_equal = Path("packed").read_bytes(), 0, 0
    while killed_after(num * options.every):
        same = Path("packed").read_bytes() == expected
        num, num_equal = num + 1, num_equal + same
        print(f"killed after {options.every * (num - 1)} changes: {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{num_equal} of {num} files that were gone on with are equal, byte for byte, to the one that was not broken off")
    shutil.rmtree(folder)
    return 0 if num_equal == num > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
