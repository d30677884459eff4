"""What all runs of one command share, and how a run's folder says what became of it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass

import torch.distributed as dist
from accelerate import PartialState
from rich.console import Console

from distill.engine.stopping import Stopper
from distill.errors import DataError, DistillError, StoppedError
from distill.record import RunFolder
from distill.resolve import Catalogue


@dataclass(frozen=True)
class Job:
    """What all runs of one command share."""

    catalogue: Catalogue
    state: PartialState
    console: Console
    stopper: Stopper

    @property
    def is_main(self) -> bool:
        return self.state.is_main_process

    def say(self, text: str) -> None:
        """A line on the console of the first process, not cut to its width."""
        self.console.print(text, soft_wrap=True)


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENOENT}


class OtherProcessError(DistillError):
    """Another process of this run has failed; it has said why."""


@contextlib.contextmanager
def status_of(folder: RunFolder, job: Job) -> Iterator[None]:
    """Keeps status.json true while a run goes on. Any process that fails writes it, because the first may not live to."""
    try:
        if job.is_main:
            folder.set_status("running")
        yield
        if job.is_main:
            folder.set_status("finished", exit_code=0)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            named = as_data_error(error)
            with contextlib.suppress(OSError):
                _write_failure(folder, named)
            raise named from error
        if _is_of_another(error):
            raise OtherProcessError("another process of this run has failed; its message and status.json say why") from error
        if not isinstance(error, OtherProcessError):
            with contextlib.suppress(OSError):
                _write_failure(folder, error)
        raise


def as_data_error(error: OSError) -> DataError:
    """What the disk or its folders refuse, in words that a person can do something about."""
    where = f"{error.filename}: " if error.filename else ""
    return DataError(f"{where}{error.strerror or error}; mend that and add --resume")


def _write_failure(folder: RunFolder, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        folder.set_status("interrupted", exit_code=130, reason="interrupted by the user")
    elif isinstance(error, StoppedError):
        folder.set_status("stopped", exit_code=error.exit_code, reason=f"{error}")
    else:
        code = error.exit_code if isinstance(error, DistillError) else 1
        folder.set_status("failed", exit_code=code, reason=f"{error}" or type(error).__name__)


def _is_of_another(error: BaseException) -> bool:
    """Whether this is what the survivors' collective calls raise when a process is gone."""
    if not (dist.is_initialized() and dist.get_world_size() > 1 and isinstance(error, RuntimeError)):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("by peer", "gloo", "NCCL", "Broken pipe"))
