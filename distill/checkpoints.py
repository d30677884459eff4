"""The folder of a run's checkpoints: each is written whole or not at all, checked before it is used, and removed when newer ones are there."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import DataError
from distill.models.weight_files import file_sha256
from distill.record import read_json, sync_folder, write_text

FORMAT = 1
MANIFEST, STATE = "MANIFEST.json", "state.json"
_NAME = re.compile(r"step-(\d{8,})-epoch-(\d{4,})")

Writer = Callable[[Path], None]


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint: steps and evaluated epochs done, and the state in words and numbers."""

    path: Path
    step: int
    epoch: int
    state: dict[str, Any]


class CheckpointFolder:
    """`step-00000120-epoch-0003/`, ... with `latest` and `best`, two files that name one of them.

    A checkpoint counts if its manifest is there, which is written last, and every file has the size and SHA-256 that the manifest says.
    """

    def __init__(self, path: Path):
        self.path = path
        self._best: str | None = None

    def start_from(self, checkpoint: Checkpoint | None) -> None:
        """Before training goes on: what is newer than this checkpoint is damaged, and gets another name, so that it is not counted any more."""
        self._best = checkpoint.state.get("best_checkpoint") if checkpoint else None
        for path in self._all():
            if checkpoint is not None and path == checkpoint.path:
                break
            path.rename(_unused(path.with_name(f"damaged-{path.name}")))

    def save(self, step: int, epoch: int, state: Mapping[str, Any], writers: Mapping[str, Writer], *, is_best: bool, keep: int) -> Path:
        """Writes a checkpoint, points to it, and removes all but the newest `keep` and the best.

        writers: file name -> writes the file at a path, through to the disk. Raises OSError if it can't be written; then everything is as before.
        """
        final = self.path / f"step-{step:08d}-epoch-{epoch:04d}"
        self._best = final.name if is_best else self._best
        if not (final.exists() and _problem(final) is None):  # the same moment again: a run is stopped twice in one evaluation
            self._write(final, {**state, "step": step, "epoch": epoch, "best_checkpoint": self._best}, writers)
        write_text(self.path / "latest", final.name)
        if self._best is not None:
            write_text(self.path / "best", self._best)
        self._keep(keep)
        return final

    def _write(self, final: Path, state: Mapping[str, Any], writers: Mapping[str, Writer]) -> None:
        temporary = self.path / f".tmp-{final.name}-{os.getpid()}"
        self.path.mkdir(exist_ok=True)
        self._remove_leftovers()
        try:
            temporary.mkdir()
            text = json.dumps(state, allow_nan=False)
            for name, write in {**writers, STATE: lambda path: write_text(path, text)}.items():
                write(temporary / name)
            files = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(temporary.iterdir())}
            write_text(temporary / MANIFEST, json.dumps({"format": FORMAT, "files": files}, indent=2) + "\n")
            sync_folder(temporary)
            if final.exists():
                final.rename(_unused(final.with_name(f"damaged-{final.name}")))
            temporary.rename(final)
            sync_folder(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def keep_best(self) -> None:
        """Of a finished run: removes all but the best."""
        newest, _ = self.newest()
        self._best = newest.state.get("best_checkpoint") if newest else None
        self._keep(0)
        for name in ("latest", "best"):
            (self.path / name).unlink(missing_ok=True)
            if self._best is not None:
                write_text(self.path / name, self._best)
        for path in self._entries():
            if path.name.startswith("damaged-"):
                shutil.rmtree(path, ignore_errors=True)

    def _keep(self, count: int) -> None:
        """Removes all but the newest and the best. What can't be removed stays: that does no harm."""
        self._remove_leftovers()
        for path in self._all()[count:]:
            if path.name != self._best:
                shutil.rmtree(path, ignore_errors=True)

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, and what is wrong with each newer one. Raises DataError if it is of a later format."""
        complaints = []
        for path in self._all():
            if problem := _problem(path):
                complaints.append(f"checkpoint {path} is damaged: {problem}")
                continue
            state = read_json(path / STATE)
            return Checkpoint(path, state["step"], state["epoch"], state), complaints
        return None, complaints

    def _all(self) -> list[Path]:
        """Checkpoints under their final names, the newest first."""
        found = [path for path in self._entries() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: tuple(map(int, _NAME.fullmatch(path.name).groups())), reverse=True)

    def _entries(self) -> Iterator[Path]:
        return self.path.iterdir() if self.path.is_dir() else iter(())

    def _remove_leftovers(self) -> None:
        """Half-written ones of jobs that were killed: whoever calls this holds the run folder."""
        for path in self._entries():
            if path.name.startswith(".tmp-"):
                shutil.rmtree(path, ignore_errors=True)


def _unused(path: Path) -> Path:
    """The path, with a number where something is there already."""
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain((path,), others) if not candidate.exists())


def _problem(path: Path) -> str | None:
    """Why a checkpoint can't be used; None if it can."""
    manifest = read_json(path / MANIFEST)
    files = manifest.get("files")
    if not isinstance(manifest.get("format"), int) or not isinstance(files, dict) or STATE not in files:
        return f"{MANIFEST} is missing or cut short"
    if manifest["format"] > FORMAT:
        raise DataError(f"checkpoint {path} was written by a newer distill (format {manifest['format']}, this one knows {FORMAT}); update distill")
    for name, expected in files.items():
        file = path / name
        if Path(name).name != name or file.is_symlink() or not file.is_file() or not isinstance(expected, dict):
            return f"{name} is missing"
        if file.stat().st_size != expected.get("bytes"):
            return f"{name} has {file.stat().st_size:,} bytes, not {expected.get('bytes')}"
        if file_sha256(file) != expected.get("sha256"):
            return f"{name} has changed since it was written (another SHA-256)"
    state = read_json(path / STATE)
    if not all(isinstance(state.get(key), int) and state[key] >= 0 for key in ("step", "epoch")):
        return f"{STATE} does not say its step and epoch"
    return None
