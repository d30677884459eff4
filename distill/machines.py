"""What all machines of a run must see alike: the run's folder, and the pictures. Said before anything long begins."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from distill import record
from distill.data.sources.base import DataSource
from distill.errors import DataError
from distill.running import Job

SECONDS = 30.0  # after which a network disk should show on one machine what another has written


def require_one_folder(path: Path, job: Job) -> None:
    """Raises DataError in all processes if one does not see the run's folder. A checkpoint is written by the first and read by all."""
    deadline = time.monotonic() + SECONDS
    while not (is_seen := (path / record.RECIPE_FILE).is_file()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for rank, (host, sees, looked_at) in enumerate(_of_all((socket.gethostname(), is_seen, str(path.absolute())), job)):
        if not sees:
            how = "the run's folder must be on a disk that all machines share: set runs_dir=FOLDER to such a one, by its whole path"
            raise _shared(f"process {rank} on {host} does not see {looked_at}, where the first process has begun the run; {how}")


def require_same_pictures(source: DataSource, job: Job) -> None:
    """Raises DataError in all processes if the pictures are not the same for all: each trains on its share of every batch, by their numbers."""
    found = _of_all((socket.gethostname(), source.fingerprint()), job)
    for rank, (host, fingerprint) in enumerate(found):
        if fingerprint != found[0][1]:
            where = f"process {rank} on {host} sees other pictures than process 0 on {found[0][0]}"
            raise _shared(f"{where} (files, labels or classes differ): copy them again, or set data.root=FOLDER to one that all machines share")


def _of_all(mine: Any, job: Job) -> list[Any]:
    """What each process has, in their order."""
    return gather_object([mine]) if job.state.num_processes > 1 else [mine]


def _shared(message: str) -> DataError:
    error = DataError(message)
    error.is_shared = True
    return error
