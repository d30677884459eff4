"""What every step gave, kept on the device and read back only when somebody wants to see it."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distill.structures import StepOutput


class StepLog:
    """The loss, its terms and the training accuracy of every micro-batch, and the gradient's norm of every step, since the last read."""

    def __init__(self, labels: list[str]):
        """labels: the names of the loss's terms."""
        self.names = ["loss", *labels, "top1"]
        self._rows: list[Tensor] = []  # [number of names] each
        self._norms: list[Tensor] = []  # [] each

    @torch.no_grad()
    def add(self, output: StepOutput, labels: Tensor) -> None:
        """Notes one micro-batch without waiting for the device. Of mixed pictures the class with the largest share counts."""
        classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
        top1 = (output.logits.argmax(dim=1) == classes).to(output.loss.dtype).mean()
        self._rows.append(torch.stack([output.loss.detach(), *output.terms.values(), top1]))

    def add_norm(self, norm: Tensor) -> None:
        """Notes the norm [] of a step's gradient."""
        self._norms.append(norm.detach())

    @torch.no_grad()
    def rows(self, accelerator: Accelerator) -> Tensor:
        """[processes, micro-batches, names] float64, all that was noted, in all processes; waits for the device."""
        rows = torch.stack(self._rows) if self._rows else torch.zeros(0, len(self.names), device=accelerator.device)
        return accelerator.gather(rows[None]).cpu().double()

    def norms(self) -> list[float]:
        """The noted norms, the same in all processes; waits for the device."""
        return torch.stack(self._norms).tolist() if self._norms else []

    def clear(self) -> None:
        self._rows, self._norms = [], []

    def means(self, rows: Tensor) -> dict[str, float]:
        """The mean by name over processes and micro-batches, and "gradient_norm" where norms were noted."""
        norms, means = self.norms(), dict(zip(self.names, rows.mean(dim=(0, 1)).tolist(), strict=True))
        return means | ({"gradient_norm": math.fsum(norms) / len(norms)} if norms else {})

    def state(self, rows: Tensor) -> dict[str, Any]:
        """What a checkpoint keeps."""
        dtypes = {str(values[0].dtype).removeprefix("torch.") for values in (self._rows, self._norms) if values}
        return {"rows": rows.tolist(), "norms": self.norms(), "dtype": dtypes.pop() if dtypes else "float32"}

    def restore(self, state: dict[str, Any], accelerator: Accelerator) -> None:
        """Each process gets its own rows again; where there were more or fewer processes, the mean of all, which gives the same means."""
        dtype = {"float32": torch.float32, "float64": torch.float64}[state["dtype"]]
        rows = torch.tensor(state["rows"], dtype=torch.float64).reshape(len(state["rows"]), -1, len(self.names))
        mine = rows[accelerator.process_index] if len(rows) == accelerator.num_processes else rows.mean(dim=0)
        self._rows = list(mine.to(accelerator.device, dtype))
        self._norms = list(torch.tensor(state["norms"], dtype=dtype, device=accelerator.device))
