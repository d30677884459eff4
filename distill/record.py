"""What a run leaves behind: its folder, and the few files in it that others read. No torch here, so that reports start fast."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distill.errors import DataError

PACKAGES = ("distill", "torch", "torchvision", "timm", "accelerate", "numpy", "pillow")
RECIPE_FILE, SUMMARY_FILE, STATUS_FILE, METRICS_FILE = "recipe.resolved.yaml", "summary.json", "status.json", "metrics.jsonl"
ENVIRONMENT_FILE, WEIGHTS_FILE, PREDICTIONS_FILE, PICTURES_FILE = "environment.json", "student.safetensors", "predictions.npz", "pictures.npz"
PEER_FILE = "peer.safetensors"  # of the other student, with method=mutual
REPORT_FILE = "report.html"  # the run, beside the same student alone, as a page
TIMING_FILE, DIVERGED_FILE, FAST_FILE, CHECKPOINTS = "timing.jsonl", "diverged.json", "fast.json", "checkpoints"

_OF_THE_CLOCK = ("images_per_second",)  # kept apart from the metrics, which are equal for equal runs


class FolderInUseError(DataError):
    """Another job holds the folder."""


class RunFolder:
    """One run's folder, held by one job at a time. The lock ends with the process, however that ends."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path / ".lock")
        self._unwritten: list[str] = []  # lines of metrics, while the disk is full

    def open(self) -> None:
        """Makes the folder and takes the lock. Raises DataError if another job works in it, it can't be written, or has symbolic links in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_links()
            self._lock.acquire(timeout=0)
            for path in (*self.path.glob(".*.tmp"), *(self.path / CHECKPOINTS).glob(".*.tmp")):  # of a job that was killed while it wrote
                path.unlink(missing_ok=True)
        except Timeout:
            pid = read_json(self.path / STATUS_FILE).get("pid", "unknown")
            raise FolderInUseError(f"another job (process {pid}) is working in {self.path}; wait for it, or set run_name=OTHER") from None
        except OSError as error:
            raise DataError(f"can't write to {self.path}: {error.strerror}; set runs_dir=FOLDER to one that you may write to") from error

    def close(self) -> None:
        self._lock.release()

    def write_text(self, name: str, text: str) -> None:
        write_text(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        write_text(self.path / name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds a line to metrics.jsonl, and what the clock says to timing.jsonl. A value that is not finite is written as null, which JSON can say.

        On a full disk the line is kept and written with a later one; `metrics_size` raises if that never comes to pass.
        """
        finite = {key: None if isinstance(value, float) and not abs(value) < float("inf") else value for key, value in event.items()}
        clock = {key: finite.pop(key) for key in _OF_THE_CLOCK if key in finite}
        self._unwritten.append(json.dumps(finite, allow_nan=False) + "\n")
        with contextlib.suppress(OSError):
            self._write_lines()
            if clock:
                _append(self.path / TIMING_FILE, json.dumps({"step": finite.get("step"), "time": now(), **clock}) + "\n")

    def metrics_size(self) -> int:
        """Bytes of metrics.jsonl, when all of it is safely on the disk. Raises OSError if it can't be."""
        self._write_lines()
        path = self.path / METRICS_FILE
        path.touch()
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return path.stat().st_size

    def cut_metrics(self, size: int) -> str | None:
        """Takes metrics.jsonl back to a size that it had before. If it is shorter now it is left so, and a sentence about it is returned."""
        path = self.path / METRICS_FILE
        path.touch()
        if path.stat().st_size < size:
            return f"{path} has {path.stat().st_size:,} bytes, and had {size:,} when the checkpoint was written: lines are missing in it"
        os.truncate(path, size)
        return None

    def _write_lines(self) -> None:
        if self._unwritten:
            _append(self.path / METRICS_FILE, "".join(self._unwritten))
            self._unwritten = []

    def _refuse_links(self) -> None:
        """In a folder from a stranger they could make us write over files elsewhere."""
        for path in (*self.path.iterdir(), *(self.path / CHECKPOINTS).glob("*"), *(self.path / CHECKPOINTS).glob("*/*")):
            if path.is_symlink():
                raise DataError(f"{path} is a symbolic link: a run uses files of its own folder only; put the file there, or remove the link")

    def set_status(self, state: str, *, exit_code: int | None = None, reason: str | None = None) -> None:
        """Writes status.json: running, finished, failed, stopped (asked to) or interrupted; the exit code that launchers would otherwise hide."""
        self.write_json(STATUS_FILE, {"state": state, "exit_code": exit_code, "reason": reason, "pid": os.getpid(), "time": now()})


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one move, so that a reader sees the old text or the new one and never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Like write_text, for bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Until this returns, a power cut may undo what was made, renamed or removed in the folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _append(path: Path, text: str) -> None:
    """Adds all of the text or, where the disk has no room for it, nothing."""
    with path.open("ab", buffering=0) as file:  # a buffer would be written once more when the file is closed
        size, rest = file.tell(), memoryview(text.encode())
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty where there is no file or not a whole one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def finished_runs(runs_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, summary) of every finished run, the newest first."""
    if runs_dir.is_dir():
        folders = [path for path in runs_dir.iterdir() if path.is_dir()]
        for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
            if read_json(path / STATUS_FILE).get("state") == "finished" and (summary := read_json(path / SUMMARY_FILE)):
                yield path, summary


def environment(device: str, precision: str, num_processes: int) -> dict[str, Any]:
    """Versions and hardware, to stand beside every number."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cores": available_cores(),
        "device": device,
        "precision": precision,
        "num_processes": num_processes,
        "versions": {name: version(name) for name in PACKAGES},
        "command": " ".join(Path(part).name if number == 0 else part for number, part in enumerate(sys.argv)),
    }


def available_cores() -> int:
    """How many cores this process may use, which on a cluster is often fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()


def version(name: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def now() -> str:
    """The time in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
