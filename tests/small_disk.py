"""Started by tests/test_checkpoints.py in a name space in which it may mount: a run on a disk that fills up, grows, and becomes read-only."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
from pathlib import Path

from runs import SMALL, contents

from distill import cli, run_state
from distill.checkpoints import CheckpointFolder

RUN = [*SMALL, "run_name=run", "train.checkpoint_every_steps=2"]


def train(*arguments: str) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["train", *arguments])
    return code, err.getvalue()


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    os.environ["DISTILL_CACHE"] = str(Path("cache").resolve())
    assert train(*RUN)[0] == 0
    whole = contents("runs/run")
    shutil.rmtree("runs")
    Path("runs").mkdir()

    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", "runs")
    code, err = train(*RUN)
    assert code == 3, err
    assert "this run writes up to" in err, err
    run_state.require_space = lambda *_: None  # as if another program filled the disk later: room for one checkpoint of 3 MB and not for two
    code, err = train(*RUN, "--resume")
    assert code == 3, err
    assert "the results can't be written to runs/run: No space left on device; mend that and add --resume: training goes on from step 2" in err, err
    assert "No space left on device; it needs 3 MB" in err, err
    assert "training goes on" in err, err
    newest, complaints = CheckpointFolder(Path("runs/run/checkpoints")).newest()
    assert newest is not None
    assert complaints == []
    mount("-o", "remount,size=100m", "runs")
    code, err = train("--resume", "runs/run")
    assert code == 0, err
    assert "going on from step-00000002" in err, err
    assert contents("runs/run") == whole

    mount("-o", "remount,ro", "runs")
    code, err = train(*RUN, "run_name=other")
    assert code == 3, err
    assert "can't write to runs/other: Read-only file system" in err, err
    print("all as it should be")


if __name__ == "__main__":
    main()
