"""Everything that a training run consists of between two steps, into files and back, bit for bit.

Random numbers are no part of it: the order of samples, the views and what losses draw are functions of seed, epoch, step and sample.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from distill.checkpoints import Writer
from distill.engine.batch_statistics import average_statistics, read_statistics, write_statistics
from distill.engine.distiller import Distiller
from distill.errors import DataError
from distill.models.weight_files import read_pickled, read_weight_file, save_weights
from distill.record import write_bytes

_STUDENT, _LOSSES, _AVERAGE = "student.safetensors", "losses.safetensors", "average.safetensors"
_STATISTICS, _OPTIMIZER = "statistics.safetensors", "optimizer.pt"
_PREFIX = "student.model."


class Trained:
    """The parts of a run that training changes."""

    def __init__(
        self,
        distiller: Distiller,
        optimizer: torch.optim.Optimizer,
        averaged: AveragedModel | None,
        scaler: torch.amp.GradScaler,
        accelerator: Accelerator,
    ):
        """distiller and optimizer not wrapped."""
        self.distiller, self.optimizer, self.averaged, self.scaler, self.accelerator = distiller, optimizer, averaged, scaler, accelerator

    @property
    def modules(self) -> list[nn.Module]:
        return [module for module in (self.distiller, self.averaged) if module is not None]

    def average_statistics(self) -> None:
        average_statistics(self.modules, self.accelerator)

    def writers(self) -> dict[str, Writer]:
        """File name -> what writes it, for the first process; to be called by all."""
        losses = {name: tensor for name, tensor in self.distiller.state_dict().items() if not name.startswith(_PREFIX)}
        files = {_STUDENT: self.distiller.student.model.state_dict(), _LOSSES: losses}
        if self.averaged is not None:
            files[_AVERAGE] = self.averaged.state_dict()
        if self.accelerator.num_processes > 1:  # [processes, n]; the student's own file has those of the first
            files[_STATISTICS] = {"statistics": self.accelerator.gather(read_statistics(self.modules)[None])}
        # losses without weights have no file: safetensors can't read what it writes for no tensors
        return {**{name: partial(save_weights, tensors) for name, tensors in files.items() if tensors}, _OPTIMIZER: self._write_optimizer}

    def restore(self, path: Path) -> None:
        """Raises DataError if the files in this folder are not those of such a run."""
        student = {f"{_PREFIX}{name}": tensor for name, tensor in _read(path / _STUDENT).items()}
        _load(self.distiller, {**student, **_read(path / _LOSSES)}, path)
        if self.averaged is not None:
            _load(self.averaged, _read(path / _AVERAGE), path)
        if (path / _STATISTICS).exists():
            rows = _read(path / _STATISTICS)["statistics"].to(self.accelerator.device)
            # a process that was not there before has no statistics of its own: all then go on from the mean
            mine = rows[self.accelerator.process_index] if len(rows) == self.accelerator.num_processes else rows.mean(dim=0)
            write_statistics(self.modules, mine)
        content = read_pickled(path / _OPTIMIZER)
        try:
            self.optimizer.load_state_dict(content["optimizer"])
            self.scaler.load_state_dict(content["scaler"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _misfit(path, error) from error

    def _write_optimizer(self, path: Path) -> None:
        buffer = io.BytesIO()  # torch's own writing reports a full disk as a defect of the file
        torch.save({"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}, buffer)
        write_bytes(path, buffer.getbuffer())


def _read(path: Path) -> dict[str, Tensor]:
    return read_weight_file(path) if path.exists() else {}  # what is missing is named when it is loaded


def _load(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise _misfit(path, error) from error


def _misfit(path: Path, why: object) -> DataError:
    return DataError(f"checkpoint {path} does not fit this recipe's networks, losses and optimizer: {why}")
