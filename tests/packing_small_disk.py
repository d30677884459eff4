"""Started by tests/test_data_prepare.py in a name space in which it may mount: packs onto a disk that is too small, grows, and becomes read-only."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from distill import cli
from distill.data.packing import start
from distill.data.packing.file import read_packed_file


def prepare(*arguments: str) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["data", "prepare", "pictures", "--size", "200", "-o", "disk/packed", *arguments])
    return code, err.getvalue()


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def names() -> list[str]:
    return sorted(path.name for path in Path("disk").iterdir() if path.name != ".packed.lock")


def main() -> None:
    chance = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = Path("pictures") / part / name
            folder.mkdir(parents=True)
            for index in range(4):
                Image.fromarray(chance.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    Path("disk").mkdir()
    assert prepare()[0] == 0
    whole = Path("disk/packed").read_bytes()  # 2.9 MB

    mount("-t", "tmpfs", "-o", "size=2500k", "tmpfs", "disk")
    code, err = prepare()
    assert code == 3, err
    assert "24 pictures would take 2.9 MB in disk/packed; the disk has 2.6 MB free: 3" in err, err  # 3xx KB
    assert "too little; make room, take a smaller --size, or another -o FILE" in err, err
    assert names() == [], names()

    start.shutil.disk_usage, disk_usage = lambda path: type("Usage", (), {"free": 10**9}), start.shutil.disk_usage
    code, err = prepare()  # as if another program filled the disk in between
    assert code == 3, err
    assert "can't make disk/packed.partial of 2,88" in err, err
    assert "No space left on device" in err, err
    assert names() == [], names()

    def no_fallocate(number: int, start: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    os.posix_fallocate, fallocate = no_fallocate, os.posix_fallocate
    for workers in ("0", "1"):
        code, err = prepare("--workers", workers)  # as on a file system that promises nothing: full in the midst of it
        assert code == 3, err
        assert "can't write disk/packed.partial: No space left on device; what was packed is kept, and the same command goes on" in err, err
        assert names() == ["packed.partial"], names()
        assert 0 < (read_packed_file(Path("disk/packed.partial")).filled == 1).sum() < 24
    os.posix_fallocate, start.shutil.disk_usage = fallocate, disk_usage

    mount("-o", "remount,size=100m", "disk")
    code, err = prepare()
    assert code == 0, err
    assert "going on with a file that has" in err, err
    assert Path("disk/packed").read_bytes() == whole

    mount("-o", "remount,ro", "disk")
    code, err = prepare("-o", "disk/other")
    assert code == 3, err
    assert "can't write to disk: Read-only file system; choose another place: -o FILE" in err, err
    print("all as it should be")


if __name__ == "__main__":
    main()
