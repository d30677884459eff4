"""Checkpoints on disks that are full, folders that can't be written, and files that were changed."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import SMALL, contents, metrics
from safetensors.torch import load_file, save_file

from distill import checkpoints, record
from distill.checkpoints import CheckpointFolder
from distill.engine.trainer import Trainer
from distill.errors import DataError
from distill.models.weight_files import file_sha256

HERE = Path(__file__).resolve().parent
FIRST = "step-00000002-epoch-0000"
RUN = [*SMALL, "run_name=run", "train.checkpoint_every_steps=2"]


def save(folder: CheckpointFolder, step: int, *, keep: int = 2, is_best: bool = False) -> Path:
    return folder.save(step, 0, {"note": "x"}, {"a.bin": lambda path: record.write_bytes(path, bytes(100))}, is_best=is_best, keep=keep)


def test_newest_whole_one_is_found_and_each_damaged_one_named():
    folder = CheckpointFolder(Path("checkpoints"))
    paths = [save(folder, step, keep=9) for step in (2, 4, 6, 8, 10, 12)]
    (paths[5] / "MANIFEST.json").unlink()
    (paths[4] / "a.bin").write_bytes(bytes(99))
    (paths[3] / "a.bin").write_bytes(bytes(99) + b"x")
    (paths[2] / "a.bin").unlink()
    (paths[1] / "state.json").write_text("{")
    found, complaints = folder.newest()
    assert (found.step, found.state["note"]) == (2, "x")
    words = ("MANIFEST.json is missing", "has 99 bytes, not 100", "has changed since it was written", "a.bin is missing", "state.json has 1 bytes")
    for path, complaint, word in zip(reversed(paths[1:]), complaints, words, strict=True):
        assert str(path) in complaint
        assert word in complaint


@pytest.mark.parametrize("manifest", ["[]", "{}", "null", '{"format": 1}', '{"format": 1, "files": []}', '{"format": "1", "files": {}}', "\x00", ""])
def test_manifest_of_any_content_is_a_damaged_checkpoint_and_no_crash(manifest):
    folder = CheckpointFolder(Path("checkpoints"))
    (save(folder, 2) / "MANIFEST.json").write_text(manifest)
    assert folder.newest()[0] is None


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/b", ".."])
def test_manifest_names_files_of_its_own_folder_only(name):
    Path("outside").write_bytes(b"x")
    folder = CheckpointFolder(Path("checkpoints"))
    path = save(folder, 2) / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": file_sha256(Path("outside"))}
    path.write_text(json.dumps(manifest))
    assert folder.newest()[0] is None


def test_checkpoint_of_a_later_format_is_not_passed_over():
    folder = CheckpointFolder(Path("checkpoints"))
    save(folder, 2)
    path = save(folder, 4) / "MANIFEST.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(DataError, match=r"newer distill \(format 2, this one knows 1\)"):
        folder.newest()


def test_pointers_and_what_is_kept():
    folder = CheckpointFolder(Path("checkpoints"))
    for step in (1, 2, 3, 4, 5):
        save(folder, step, is_best=step == 2)
    assert sorted(path.name for path in folder.path.glob("step-*")) == [f"step-{step:08d}-epoch-0000" for step in (2, 4, 5)]
    assert (folder.path / "latest").read_text() == "step-00000005-epoch-0000"
    assert (folder.path / "best").read_text() == "step-00000002-epoch-0000"
    folder.keep_best()
    assert [path.name for path in folder.path.glob("step-*")] == ["step-00000002-epoch-0000"]


def test_a_checkpoint_that_can_not_be_removed_does_no_harm(monkeypatch):
    folder = CheckpointFolder(Path("checkpoints"))
    monkeypatch.setattr(os, "rmdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError("busy")))
    for step in (1, 2, 3, 4):
        save(folder, step)
    assert folder.newest()[0].step == 4


def test_what_is_not_ours_in_the_folder_is_left_alone():
    folder = CheckpointFolder(Path("checkpoints"))
    save(folder, 1)
    for name in ("thesis", "step-old", "step-1-epoch-1"):
        (folder.path / name).mkdir()
    for step in (2, 3, 4):
        save(folder, step, keep=1)
    assert {"thesis", "step-old", "step-1-epoch-1", "step-00000004-epoch-0000"} <= {path.name for path in folder.path.iterdir()}


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_disk_that_is_full_at_any_moment_leaves_the_earlier_checkpoint(call, monkeypatch):
    folder = CheckpointFolder(Path("checkpoints"))
    save(folder, 2)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    original, calls = os.fsync, []

    def fsync(number):
        calls.append(number)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(number)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space"):
            save(folder, 4)
    found, complaints = folder.newest()
    assert complaints == []
    assert found.step in (2, 4)  # 4, if it was all there when the rest failed
    assert all(path.read_bytes() == content for path, content in before.items() if "step-" in str(path))
    assert not [path for path in folder.path.rglob("*") if "tmp" in path.name]


def with_limit_from_step(monkeypatch, step: int, size: int) -> None:
    """From this step on the process may write files of this size at most."""
    original = Trainer._update

    def update(self):
        if self.step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        original(self)

    monkeypatch.setattr(Trainer, "_update", update)


def test_file_size_limit_is_said_training_goes_on_and_nothing_is_trained_twice(distill, monkeypatch):
    assert distill("train", *RUN)[0] == 0
    whole = contents("runs/run")
    shutil.rmtree("runs")
    with monkeypatch.context() as patched:
        with_limit_from_step(patched, 9, 1_000_000)
        try:
            code, _, err = distill("train", *RUN)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert code == 3
    assert "the checkpoint of step 10 can't be written to runs/run/checkpoints: File too large; it needs" in err
    assert "training goes on" in err
    assert "the results can't be written to runs/run: File too large" in err
    assert Path("runs/run/checkpoints/latest").read_text() == "step-00000008-epoch-0001"
    assert not list(Path("runs/run/checkpoints").glob(".tmp*"))
    assert distill("train", "--resume", "runs/run")[0] == 0
    assert contents("runs/run") == whole


def test_metrics_wait_for_room_on_the_disk(monkeypatch):
    folder = record.RunFolder(Path("run"))
    folder.open()
    folder.append({"step": 1})
    with monkeypatch.context() as patched:
        patched.setattr(record, "_append", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        folder.append({"step": 2})
        with pytest.raises(OSError, match="No space"):
            folder.metrics_size()
    folder.append({"step": 3})
    assert [line["step"] for line in metrics("run")] == [1, 2, 3]
    assert folder.metrics_size() == Path("run/metrics.jsonl").stat().st_size


def test_half_a_line_is_taken_back():
    path = Path("metrics.jsonl")
    path.write_text("whole\n")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            record._append(path, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
    assert path.read_text() == "whole\n"


def test_too_little_space_is_said_before_anything_is_trained(distill, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    code, _, err = distill("train", *RUN)
    assert code == 3
    assert "runs/run has 1 MB free, and this run writes up to 13 MB more (checkpoints of 3 MB)" in err
    assert not Path("runs/run/metrics.jsonl").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk of memory, as Linux does it")
def test_full_and_read_only_disks_for_real(tmp_path):
    """On a disk of memory that is just large enough to begin; then full; larger; read-only. In a name space of its own, so that no root is needed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent)))}
    command = ["unshare", "--map-root-user", "--mount", sys.executable, str(HERE / "small_disk.py")]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all as it should be" in result.stdout


@pytest.mark.parametrize(
    "link",
    [
        "metrics.jsonl",
        "status.json",
        "student.safetensors",
        ".lock",
        "checkpoints",
        "checkpoints/latest",
        "checkpoints/step-00000002-epoch-0000/state.json",
    ],
)
def test_run_folder_with_a_symbolic_link_in_it_is_refused(link, distill, monkeypatch):
    """In a stranger's folder it could make us write over, or remove, files elsewhere."""
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_end_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert distill("train", *RUN)[0] == 130
    Path("precious").mkdir()
    Path("precious/file").write_text("years of work")
    victim, path = Path("precious") if link == "checkpoints" else Path("precious/file"), Path("runs/run") / link
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(victim.resolve())
    code, _, err = distill("train", "--resume", "runs/run")
    assert code == 3
    assert f"runs/run/{link} is a symbolic link" in err
    assert Path("precious/file").read_text() == "years of work"
    assert [path.name for path in Path("precious").iterdir()] == ["file"]


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def tamper(how: str) -> None:
    """Changes the newest checkpoint of runs/run and makes its manifest fit, as a stranger could."""
    folder = sorted(Path("runs/run/checkpoints").glob("step-*"))[-1]
    optimizer, student = folder / "optimizer.pt", folder / "student.safetensors"
    if how == "a malicious optimizer":
        torch.save({"optimizer": Malicious(), "scaler": {}}, optimizer)
    elif how == "an optimizer of other parameters":
        content = torch.load(optimizer, weights_only=True)
        content["optimizer"]["param_groups"].pop()
        torch.save(content, optimizer)
    elif how == "an optimizer without its state":
        torch.save({"model": {"x": torch.zeros(2)}}, optimizer)
    elif how == "no optimizer":
        optimizer.unlink()
    elif how == "a pickle for a student":
        torch.save({"fc.weight": Malicious()}, student)
    elif how == "a student of another shape":
        tensors = load_file(student)
        save_file({**tensors, "fc.weight": torch.zeros(7, 3)}, student)
    elif how == "a student without a tensor":
        tensors = load_file(student)
        del tensors["fc.weight"]
        save_file(tensors, student)
    elif how == "a state that says nothing":
        (folder / "state.json").write_text(json.dumps({"step": 2, "epoch": 0}))
    elif how == "a state with a recipe that is none":
        (folder / "state.json").write_text(json.dumps(json.loads((folder / "state.json").read_text()) | {"recipe": {"seed": "x"}}))
    elif how == "a state with records that are none":
        (folder / "state.json").write_text(json.dumps(json.loads((folder / "state.json").read_text()) | {"recent": {"rows": "x"}}))
    elif how == "a state beyond the end":
        (folder / "state.json").write_text(json.dumps(json.loads((folder / "state.json").read_text()) | {"step": 10**9}))
    files = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in folder.iterdir() if path.name != "MANIFEST.json"}
    (folder / "MANIFEST.json").write_text(json.dumps({"format": checkpoints.FORMAT, "files": files}))


TAMPERED = {
    "a malicious optimizer": ["optimizer.pt", "run code"],
    "an optimizer of other parameters": ["does not fit this recipe"],
    "an optimizer without its state": ["does not fit this recipe", "optimizer"],
    "no optimizer": ["optimizer.pt"],
    "a pickle for a student": ["student.safetensors", "not a safetensors file"],
    "a student of another shape": ["does not fit this recipe", "fc.weight"],
    "a student without a tensor": ["does not fit this recipe", "fc.weight"],
    "a state that says nothing": ["state.json", "is not what a run writes", "recipe"],
    "a state with a recipe that is none": ["state.json", "is not what a run writes"],
    "a state with records that are none": ["state.json", "is not what a run writes"],
    "a state beyond the end": ["state.json", "is not what a run writes"],
}


@pytest.mark.parametrize("how", TAMPERED)
def test_checkpoint_from_a_stranger_runs_nothing_and_is_explained(how, distill, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_end_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert distill("train", *RUN)[0] == 130
    tamper(how)
    code, _, err = distill("train", "--resume", "runs/run")
    assert code == 3, err
    for words in TAMPERED[how]:
        assert words in " ".join(err.split())
    assert "unexpected" not in err
    assert "Traceback" not in err
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda: None, 2, "--resume runs/run: the folder is not there"),
        (lambda: Path("runs/run").mkdir(parents=True), 2, "it is no run's folder"),
        (lambda: recipe_file("seed: [\n"), 2, "not valid YAML"),
        (lambda: recipe_file("!!python/object/apply:os.mkdir ['owned']\n"), 2, "recipe"),
        (lambda: recipe_file(""), 2, "is empty"),
        (lambda: recipe_file("extends: ../../../../etc/passwd\n"), 2, "extends"),
    ],
)
def test_folder_that_is_no_run_is_explained(make, code, words, distill):
    make()
    found, _, err = distill("train", "--resume", "runs/run")
    assert found == code
    assert words in err
    assert not Path("owned").exists()


def recipe_file(text: str) -> None:
    Path("runs/run").mkdir(parents=True)
    Path("runs/run/recipe.resolved.yaml").write_text(text)


def test_metrics_that_were_cut_are_said_and_training_goes_on(distill, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_end_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert distill("train", *RUN)[0] == 130
    Path("runs/run/metrics.jsonl").unlink()
    code, _, err = distill("train", "--resume", "runs/run")
    assert code == 0
    assert "runs/run/metrics.jsonl has 0 bytes, and had" in err
    assert metrics("runs/run")[-1]["step"] == 22


def test_damaged_checkpoints_do_not_push_out_the_good_ones(distill, monkeypatch):
    with monkeypatch.context() as patched:
        original = Trainer._end_epoch
        patched.setattr(Trainer, "_end_epoch", lambda self: original(self) if self.epoch < 2 else (_ for _ in ()).throw(KeyboardInterrupt))
        assert distill("train", *RUN, "train.keep_checkpoints=1", "train.lr=1e-9")[0] == 130
    newest = sorted(Path("runs/run/checkpoints").glob("step-*"))[-1]
    (newest / "student.safetensors").write_bytes(b"x")
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_end_epoch", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert distill("train", "--resume", "runs/run")[0] == 130
    assert (Path("runs/run/checkpoints") / Path("runs/run/checkpoints/latest").read_text()).is_dir()
    assert CheckpointFolder(Path("runs/run/checkpoints")).newest()[1] == []
    assert (newest.with_name(f"damaged-{newest.name}")).is_dir()


def test_best_survives_a_kill_before_it_is_pointed_to(distill, monkeypatch):
    """The newest checkpoint itself says which is the best."""
    original, calls = checkpoints.write_text, []

    def write_text(path, text):
        calls.append(path.name)
        if calls.count("best") == 3:
            raise KeyboardInterrupt
        original(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "write_text", write_text)
        assert distill("train", *SMALL, "run_name=run")[0] == 130
    newest = CheckpointFolder(Path("runs/run/checkpoints")).newest()[0]
    assert distill("train", "--resume", "runs/run", "train.keep_checkpoints=1")[0] == 0
    assert newest.state["best_checkpoint"] == newest.path.name
    assert distill("train", *SMALL, "run_name=whole")[0] == 0
    assert contents("runs/run") == contents("runs/whole")


def test_run_in_use_is_not_gone_on_with(distill):
    assert distill("train", *RUN, "train.max_steps=2")[0] == 0
    status = Path("runs/run/status.json")
    status.write_text(status.read_text().replace("finished", "running"))
    held = record.RunFolder(Path("runs/run"))
    held.open()
    for arguments in (["--resume", "runs/run"], [*RUN, "train.max_steps=2", "--resume"]):
        code, _, err = distill("train", *arguments)
        assert code == 3
        assert "another job" in err


def test_run_and_recipe_are_not_named_together(distill):
    assert distill("train", *RUN, "train.max_steps=1")[0] == 0
    code, _, err = distill("train", "--recipe", "smoke", "--resume", "runs/run")
    assert code == 2
    assert "leave out --recipe" in err


def test_checkpoint_of_format_1_can_still_be_gone_on_with(distill):
    """Written by version 0.1.0 after 5 of 8 steps. It stays as it is: what a user saved must load in every later version."""
    shutil.copytree(HERE / "checkpoint_format_1", ".", dirs_exist_ok=True)
    code, _, err = distill("train", "--resume", "run")
    assert code == 0, err
    assert "going on from step-00000005-epoch-0001" in err
    assert [line["step"] for line in metrics("run") if line["event"] == "train"] == [2, 4, 6, 8]
    assert [line["step"] for line in metrics("run") if line["event"] == "epoch"] == [4, 8]
