"""Started by tests/test_cache_runs.py in a name space in which it may mount: a cache on a disk that fills up while a run trains, and is read-only."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
from pathlib import Path

import torch
from runs import SMALL, contents

from distill import cli
from distill.build import cache
from distill.models.weight_files import save_weights
from distill.models.zoo import create_model

RUN = [*SMALL, "teacher.weights=teacher.safetensors", "data.arguments={num_train: 600, num_val: 24, num_test: 24}", "data.global_batch_size=100"]
RUN += ["train.epochs=4", "train.max_steps=null", "teacher.cache.folder=disk/cache"]


def train(name: str, *arguments: str) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["train", *RUN, f"run_name={name}", *arguments])
    return code, err.getvalue()


def counts(name: str) -> tuple[int, int]:
    found = json.loads((Path("runs") / name / "summary.json").read_text())["teacher"]["answers"]
    return found["num_asked"], found["num_read"]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    os.environ["DISTILL_CACHE"] = str(Path("cache").resolve())
    torch.manual_seed(0)
    save_weights(create_model("timm/test_resnet", num_classes=4).state_dict(), "teacher.safetensors", {"model": "timm/test_resnet"})
    code, err = train("whole", "teacher.cache.folder=elsewhere")
    assert code == 0, err
    assert counts("whole") == (2400, 0)
    Path("disk").mkdir()

    mount("-t", "tmpfs", "-o", "size=40k", "tmpfs", "disk")  # a view takes 12 kB: room for two or three of four
    code, err = train("refused")
    assert code == 0, err
    assert "it is asked in every step: 4 views need 0.00 GB" in err, err
    assert counts("refused") == (0, 0)
    assert not Path("disk/cache").exists()

    cache._require_space = lambda *_, **__: None  # as if another program filled the disk later
    code, err = train("full")
    assert code == 0, err
    assert err.count("can't be written: No space left on device; what is there is used, and the teacher is asked for the rest") == 1, err
    assert contents("runs/full") == contents("runs/whole")
    there = len(list(Path("disk/cache").glob("view_*.safetensors")))
    assert there in (2, 3), there
    assert not list(Path("disk/cache").glob(".*.tmp"))
    code, err = train("again")
    assert code == 0, err
    assert counts("again") == (2400 - 600 * there, 600 * there)
    assert contents("runs/again") == contents("runs/whole")

    mount("-o", "remount,ro", "disk")
    code, err = train("readonly")
    assert code == 0, err
    assert err.count("can't be written: Read-only file system; what is there is used") == 1, err
    assert counts("readonly") == (2400 - 600 * there, 600 * there)
    assert contents("runs/readonly") == contents("runs/whole")
    code, err = train("none", "teacher.cache.folder=disk/other")
    assert code == 0, err
    assert "it is asked in every step: the teacher cache disk/other can't be used (Read-only file system)" in err, err
    code, err = train("required", "teacher.cache.folder=disk/other", "teacher.cache.use=on")
    assert code == 3, err
    assert "set teacher.cache.folder=FOLDER to one that can" in err, err
    print("all as it should be")


if __name__ == "__main__":
    main()
