"""What every step gave, kept on the device and read back only when somebody wants to see it."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distill.structures import Batch, StepOutput

_REPLACED = "num_replaced"


class StepLog:
    """The loss, its terms and the training accuracy of every micro-batch, and the gradient's norm of every step, since the last read."""

    def __init__(self, terms: list[str], *, has_labels: bool = True, counts_replaced: bool = False):
        """terms: the names of the loss's terms. has_labels: False where training has none, and so no accuracy. counts_replaced: whether to note how
        many pictures others stood in for."""
        self.has_labels, self.counts_replaced = has_labels, counts_replaced
        self.names = ["loss", *terms, *(["top1"] if has_labels else []), *([_REPLACED] if counts_replaced else [])]
        self._rows: list[Tensor] = []  # [number of names] each
        self._norms: list[Tensor] = []  # [] each

    def add(self, output: StepOutput, batch: Batch) -> None:
        """Notes one micro-batch without waiting for the device. Of mixed pictures the class with the largest share counts."""
        values = [output.loss.detach(), *output.terms.values()]
        if self.has_labels:
            classes = batch.labels if batch.labels.ndim == 1 else batch.labels.argmax(dim=1)
            values.append((output.logits.argmax(dim=1) == classes).to(output.loss.dtype).mean())
        if self.counts_replaced:
            values.append(output.loss.new_full((), batch.host.num_replaced))
        self._rows.append(torch.stack(values))

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
        """The mean by name over processes and micro-batches, "gradient_norm" where norms were noted, and the sum of "num_replaced"."""
        norms, means = self.norms(), dict(zip(self.names, rows.mean(dim=(0, 1)).tolist(), strict=True))
        if self.counts_replaced:
            means[_REPLACED] = round(rows[..., -1].sum().item())
        return means | ({"gradient_norm": math.fsum(norms) / len(norms)} if norms else {})

    def state(self, rows: Tensor) -> dict[str, Any]:
        """What a checkpoint keeps."""
        dtypes = {str(values[0].dtype).removeprefix("torch.") for values in (self._rows, self._norms) if values}
        return {"rows": rows.tolist(), "norms": self.norms(), "dtype": dtypes.pop() if dtypes else "float32"}

    def restore(self, state: dict[str, Any], accelerator: Accelerator) -> None:
        """Each process gets its own rows again; where there were more or fewer processes, the mean of all, which gives the same means, and its share
        of what is summed."""
        dtype = {"float32": torch.float32, "float64": torch.float64}[state["dtype"]]
        rows = torch.tensor(state["rows"], dtype=torch.float64).reshape(len(state["rows"]), -1, len(self.names))
        if len(rows) == accelerator.num_processes:
            mine = rows[accelerator.process_index]
        else:
            mine = rows.mean(dim=0)
            if self.counts_replaced:
                mine[:, -1] *= len(rows) / accelerator.num_processes
        self._rows = list(mine.to(accelerator.device, dtype))
        self._norms = list(torch.tensor(state["norms"], dtype=dtype, device=accelerator.device))
