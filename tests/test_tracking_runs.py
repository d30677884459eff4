"""Whole runs that are followed in a tracker: its own files say what metrics.jsonl says, also where the run was cut off and gone on with.

In a process of their own where a tracker keeps threads or hooks that outlive a run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMALL, contents, metrics

from distill import record
from distill.engine import trackers_accelerate
from distill.engine.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}

# python -c CUT_OFF (how) (call of _save_or_stop that is not made any more; 0 for none) (arguments of distill)
CUT_OFF = """
import os, signal, sys
from distill import cli
from distill.engine.trainer import Trainer
original, calls, how, last = Trainer._save_or_stop, [], sys.argv[1], int(sys.argv[2])
def save_or_stop(self):
    calls.append(self)
    if len(calls) == last and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if len(calls) == last:
        raise SystemExit(9)
    original(self)
Trainer._save_or_stop = save_or_stop
sys.exit(cli.main(["train", *sys.argv[3:]]))
"""
STEPS = [3, 6, 9, 12, 15, 18, 21, 22]  # of the records of training


def train(how: str, call: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", CUT_OFF, how, str(call), *SMALL, "run_name=run", "train.checkpoint_every_steps=4", *arguments]
    return subprocess.run(command, env={**os.environ, **SETTINGS, **environment}, capture_output=True, text=True, timeout=300)


def cut_off_and_gone_on_with(name: str, how: str, **environment: str) -> str:
    """Cut off at step 15, after the records of steps 12 and 15; gone on with from step 12. how: "left" by an exception, or "killed". Returns the
    standard error of the second attempt."""
    first = train(how, 15, f"tracking=[{name}]", **environment)
    assert first.returncode == {"left": 9, "killed": -signal.SIGKILL}[how], first.stderr
    result = train(how, 0, f"tracking=[{name}]", "--resume", **environment)
    assert result.returncode == 0, result.stderr
    assert "going on from step-00000012" in result.stderr
    assert f"{name} fails" not in first.stderr + result.stderr
    assert "*" not in result.stdout  # trackio's lines
    return result.stderr


def of_metrics(run: str = "runs/run") -> dict[str, list[tuple[int, float]]]:
    """Curve -> (step, value), as metrics.jsonl and summary.json have them; in float32, which TensorBoard keeps."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in metrics(run):
        step, prefix = line["step"], {"train": "train/", "epoch": ""}[line["event"]]
        for key, value in line.items():
            if key not in ("event", "epoch", "step"):
                curves.setdefault(prefix + key.replace("val_", "val/"), []).append((step, value))
    tested = {
        key.replace("test_", "test/"): value for key, value in record.read_json(Path(run) / "summary.json")["distilled"].items() if "test_" in key
    }
    assert {"test/top1", "test/nll"} <= set(tested)
    return curves | {key: [(22, value)] for key, value in tested.items()}


def single(curves: dict[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    return {name: [(step, struct.unpack("f", struct.pack("f", value))[0]) for step, value in found] for name, found in curves.items()}


def speeds_of(curves: dict[str, list[tuple[int, float]]]) -> list[int]:
    """Takes the images per second out of the curves, which metrics.jsonl has not; their steps."""
    found = curves.pop("train/images_per_second")
    assert all(value > 0 for _, value in found)
    return [step for step, _ in found]


# --- TensorBoard


def of_tensorboard(run: str = "runs/run") -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(run) / "tensorboard"
    assert [path for path in folder.iterdir() if path.is_dir()] == []  # TensorBoard shows each as a run
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(read.summary_metadata)
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_has_every_point_of_metrics_and_the_result_is_that_of_a_run_without_it(distill):
    assert distill("train", *SMALL, "run_name=plain")[0] == 0
    code, _, err = distill("train", *SMALL, "run_name=run", "tracking=[tensorboard]")
    assert code == 0, err
    found = of_tensorboard()
    assert speeds_of(found) == STEPS
    assert found == single(of_metrics())
    assert contents("runs/run") == contents("runs/plain")
    assert not Path("runs/run/tracking.json").exists()


class Killed(BaseException):
    pass


RUN = [*SMALL, "run_name=run", "train.checkpoint_every_steps=4"]


def cut_off(distill, monkeypatch, target, name: str, call: int, *arguments: str) -> None:
    """The call-th call of a function never comes to be, and neither does anything after it but what a `with` does."""
    original, calls = getattr(target, name), []

    def killed(*given, **options):
        calls.append(name)
        if len(calls) >= call:
            raise Killed
        return original(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(target, name, killed)
        with pytest.raises(Killed):
            distill("train", *RUN, *arguments)


def go_on(distill, *arguments: str) -> None:
    code, _, err = distill("train", *RUN, "--resume", *arguments)
    assert code == 0, err


@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (Trainer, "_save_or_stop", 3),  # before the first checkpoint
        (Trainer, "_save_or_stop", 15),
        (Trainer, "_end_epoch", 2),  # after a checkpoint of that step
        (trackers_accelerate._OneFolder, "log", 5),  # metrics.jsonl has the line, and TensorBoard has not
        (record.RunFolder, "append", 5),
    ],
)
def test_tensorboard_of_a_run_that_is_cut_off_anywhere_and_gone_on_with_has_each_point_once(target, name, call, distill, monkeypatch):
    cut_off(distill, monkeypatch, target, name, call, "tracking=[tensorboard]")
    go_on(distill, "tracking=[tensorboard]")
    found = of_tensorboard()
    assert speeds_of(found) == STEPS
    assert found == single(of_metrics())


def test_tensorboard_of_a_run_that_is_killed_and_gone_on_with_has_each_point_once():
    cut_off_and_gone_on_with("tensorboard", "killed")
    found = of_tensorboard()
    assert speeds_of(found) == STEPS
    assert found == single(of_metrics())


def test_tensorboard_that_has_read_the_old_files_purges_what_it_knew(distill, monkeypatch):
    """The file of before is brought back beside the new one, as a TensorBoard remembers it that was running all the time."""
    cut_off(distill, monkeypatch, Trainer, "_save_or_stop", 15, "tracking=[tensorboard]")
    (old,) = Path("runs/run/tensorboard").glob("events*")
    before, number = old.read_bytes(), re.search(r"tfevents\.(\d+)\.", old.name).group(1)
    go_on(distill, "tracking=[tensorboard]")
    (old.parent / old.name.replace(number, f"{int(number) - 60:010d}")).write_bytes(before)
    found = of_tensorboard()
    assert speeds_of(found) == STEPS
    assert found == single(of_metrics())


def test_tracking_may_begin_when_a_run_goes_on_and_has_all_of_it(distill, monkeypatch):
    cut_off(distill, monkeypatch, Trainer, "_save_or_stop", 15)
    go_on(distill, "tracking=[tensorboard]")
    found = of_tensorboard()
    assert speeds_of(found) == STEPS
    assert found == single(of_metrics())


def test_disk_that_is_full_for_tensorboard_is_said_once_and_the_run_goes_on(distill, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    original, written = RecordWriter.write, []

    def write(self, data):
        written.append(data)
        if len(written) > 30:
            raise OSError(28, "No space left on device")
        original(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    code, _, err = distill("train", *RUN, "tracking=[tensorboard]")
    assert code == 0, err
    assert err.count("warning: tensorboard fails, and is not written to any more (OSError: [Errno 28] No space left on device)") == 1
    assert err.count("No space left") == 1
    assert "Traceback" not in err
    assert metrics("runs/run")[-1]["step"] == 22
    assert 3 in [step for step, _ in of_tensorboard()["train/loss"]]


def test_only_the_first_of_two_processes_writes():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "distill" / "run.py")]
    command += [*SMALL, "run_name=run", "tracking=[tensorboard]"]
    result = subprocess.run(command, env={**os.environ, **SETTINGS, "ACCELERATE_USE_CPU": "true"}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert len(list(Path("runs/run/tensorboard").iterdir())) == 1
    found = of_tensorboard()
    assert speeds_of(found) == STEPS
    assert found == single(of_metrics())


# --- the recipe


def test_missing_package_is_said_before_anything_begins(distill, monkeypatch):
    monkeypatch.setattr(trackers_accelerate, "_is_installed", lambda package: False)
    code, _, err = distill("train", *SMALL, "run_name=run", "tracking=[trackio, tensorboard]")
    assert code == 2
    assert "pip install trackio" in err
    assert "pip install tensorboard" in err
    assert not Path("runs").exists()


def test_unknown_tracker_is_refused_with_those_that_there_are(distill):
    code, _, err = distill("train", *SMALL, "tracking=[tensorbord]")
    assert code == 2
    assert "'tensorboard', 'trackio', 'wandb' or 'mlflow'" in err


# --- trackers that need their package


def once_and_at_most(found: dict, expected: dict) -> bool:
    """Whether no point is there that should not be, and none twice."""
    return all(len(set(points)) == len(points) and set(points) <= set(expected[name]) for name, points in found.items())


@pytest.mark.parametrize("how", ["left", "killed"])
def test_wandb_has_one_run_without_a_point_twice(how):
    pytest.importorskip("wandb", reason="the package wandb is optional, and large: pip install wandb")
    cut_off_and_gone_on_with("wandb", how, WANDB_MODE="offline")
    files = sorted(Path("runs/run/wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {path.name for path in files} == {f"run-{record.read_json(Path('runs/run/tracking.json'))['wandb']['key']}.wandb"}
    found: dict[str, list[tuple[int, float]]] = {}
    for row in (row for path in files for row in wandb_history(path)):
        for name, value in row.items():
            if not name.startswith("_") and name != "step":
                found.setdefault(name, []).append((row["step"], value))
    speeds = speeds_of(found)
    if how == "killed":  # W&B writes every 15 seconds
        assert speeds == sorted(set(speeds))
        assert speeds[-3:] == [18, 21, 22]
        assert once_and_at_most(found, of_metrics())
    else:
        assert speeds == STEPS
        assert found == of_metrics()


def wandb_history(path: Path) -> list[dict[str, float]]:
    """The rows of an offline run: a log of LevelDB's format (blocks of 32,768 bytes; checksum, length, kind) after 7 bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, part, rows = path.read_bytes(), 7, b"", []
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        part += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last
            found, part = Record.FromString(part), b""
            rows += [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in found.history.item}]
    return [row for row in rows if row]


def test_mlflow_has_one_run_without_a_point_twice(tmp_path):
    pytest.importorskip("mlflow", reason="the package mlflow is optional, and large: pip install mlflow")
    store = tmp_path / "store"
    # mlflow-skinny has no database; its files are the same to all that is tested here
    cut_off_and_gone_on_with("mlflow", "killed", MLFLOW_TRACKING_URI=store.as_uri(), MLFLOW_ALLOW_FILE_STORE="true")
    (run,) = [path.parent for path in store.glob("*/*/meta.yaml") if (path.parent / "metrics").is_dir()]
    found = {}
    for path in sorted((run / "metrics").rglob("*")):
        if path.is_file():
            lines = [line.split() for line in path.read_text().splitlines()]  # time, value, step
            found[path.relative_to(run / "metrics").as_posix()] = [(int(step), float(value)) for _, value, step in lines]
    assert speeds_of(found) == STEPS
    assert found == of_metrics()
    assert (run / "params" / "train.epochs").read_text() == "5"
    assert (run / "tags" / "mlflow.runName").read_text() == "run"


@pytest.mark.parametrize("how", ["left", "killed"])
def test_trackio_has_one_run_without_a_point_twice(how, tmp_path):
    pytest.importorskip("trackio", reason="the package trackio is optional, and wants an older Pillow than this one: pip install trackio")
    output = cut_off_and_gone_on_with("trackio", how, TRACKIO_DIR=str(tmp_path / "trackio"))
    name = f"run-{record.read_json(Path('runs/run/tracking.json'))['trackio']['key'][:6]}"
    assert how == "killed" or f"Resumed existing run: {name}" in output
    script = "import json, sys\nfrom trackio.sqlite_storage import SQLiteStorage as Store\n"
    script += "print(json.dumps([Store.get_runs('distill'), Store.get_logs('distill', sys.argv[1])], default=str))"
    command, environment = [sys.executable, "-c", script, name], {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    names, rows = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert names == [name]
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key, value in row.items():
            if "/" in key:
                found.setdefault(key, []).append((row["step"], value))
    speeds = speeds_of(found)
    if how == "killed":  # trackio writes in a thread of its own, a moment later
        assert speeds == sorted(set(speeds))
        assert once_and_at_most(found, of_metrics())
    else:
        assert speeds == STEPS
        assert found == of_metrics()
