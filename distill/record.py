"""What a run leaves behind: its folder, and the few files in it that others read. No torch here, so that reports start fast."""

from __future__ import annotations

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
ENVIRONMENT_FILE, WEIGHTS_FILE, PREDICTIONS_FILE = "environment.json", "student.safetensors", "predictions.npz"

_BEFORE_TRAINING = {".lock", RECIPE_FILE, STATUS_FILE, ENVIRONMENT_FILE}


class FolderInUseError(DataError):
    """Another job holds the folder."""


class RunFolder:
    """One run's folder, held by one job at a time. The lock ends with the process, however that ends."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = FileLock(path / ".lock")

    def open(self) -> None:
        """Makes the folder and takes the lock. Raises DataError if another job works in it or it can't be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
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
        """Adds a line to metrics.jsonl. A value that is not finite is written as null, which JSON can say."""
        finite = {key: None if isinstance(value, float) and not abs(value) < float("inf") else value for key, value in event.items()}
        with (self.path / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")

    def set_status(self, state: str, *, exit_code: int | None = None, reason: str | None = None) -> None:
        """Writes status.json: running, finished, failed or interrupted; the exit code that launchers would otherwise hide."""
        self.write_json(STATUS_FILE, {"state": state, "exit_code": exit_code, "reason": reason, "pid": os.getpid(), "time": now()})


def write_text(path: Path, text: str) -> None:
    """Replaces the file in one move, so that a reader sees the old text or the new one and never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Like write_text, for bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file; empty where there is no file or not a whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def claim_run_folder(runs_dir: Path, base_name: str, *, is_fixed: bool) -> RunFolder:
    """A folder for a new run, opened: `base_name`, else base_name-2, -3, ...; one in which nothing was trained yet is used again.

    Raises DataError if the user fixed the name and there is a run of that name already, or if the folder can't be had.
    """
    folder, number = RunFolder(runs_dir / base_name), 1
    while True:
        if not _holds_a_run(folder.path):
            try:
                folder.open()
                return folder
            except FolderInUseError:
                if is_fixed:
                    raise
        elif is_fixed:
            raise DataError(f"{folder.path} holds a run already; set run_name=OTHER, or remove the folder")
        number += 1
        folder = RunFolder(runs_dir / f"{base_name}-{number}")


def _holds_a_run(path: Path) -> bool:
    if not path.is_dir():
        return path.exists()
    return any(entry.name not in _BEFORE_TRAINING for entry in path.iterdir())


def finished_runs(runs_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, summary) of every finished run, the newest first."""
    if runs_dir.is_dir():
        for path in sorted(runs_dir.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
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
        "versions": {name: _version(name) for name in PACKAGES},
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


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def now() -> str:
    """The time in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
