"""Is an export the student that the run trained? Both answer the run's val pictures, before anything is put in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from distill import record
from distill.errors import DistillError
from distill.evaluating.latency import latency
from distill.handover.config import Config
from distill.handover.formats import Format
from distill.handover.student import Student, as_network
from distill.report.count_progress import CountProgress

BATCH_SIZE = 64  # that is timed


@dataclass(frozen=True)
class Check:
    """What the two have answered. Shares, bytes and milliseconds; both in float32 on the CPU."""

    num_pictures: int
    num_val: int  # of which these are
    num_agreeing: int  # pictures for which both name the same class
    num_ties: int  # of the others, those where the run's own logits are as near to each other as the limit of the difference allows
    largest_difference: float  # of a logit
    largest_logit: float
    run_top1: float
    export_top1: float
    run_bytes: int
    export_bytes: int
    run_ms: float  # one picture alone
    export_ms: float
    run_batch_ms: float  # a picture, in a batch of 64
    export_batch_ms: float

    @property
    def agreement(self) -> float:
        return self.num_agreeing / self.num_pictures

    @property
    def difference(self) -> float:
        """Of a logit, as a share of the largest; 0 where all are 0."""
        return self.largest_difference / self.largest_logit if self.largest_logit else self.largest_difference

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"agreement": self.agreement, "difference": self.difference}


class _Answering(nn.Module):
    """What a format's `load` gives, as a network: its own parts, if it has any, are nobody's business."""

    def __init__(self, answer: Callable[[Tensor], Tensor]):
        super().__init__()
        self._answer = (answer,)  # in a tuple: a program of torch.export refuses what a network is asked for

    def forward(self, pictures: Tensor) -> Tensor:
        return self._answer[0](pictures)


def answering(answer: Callable[[Tensor], Tensor], config: Config) -> nn.Module:
    """uint8 pictures in, logits out."""
    return as_network(_Answering(answer), config)


@torch.no_grad()
def check(student: Student, file: Path, answer: Callable[[Tensor], Tensor], limit: float | None, console: Console) -> Check:
    """limit: of a logit's difference, as a share of the largest.

    Raises DataError if a picture can't be read, DistillError for an answer that is none.
    """
    export, loader = answering(answer, student.config), student.val_pictures()
    labels, ours, theirs = [], [], []
    with CountProgress(console, f"checking {file.name}", len(loader.part)) as progress:
        for _, batch in loader:
            labels.append(batch.labels)
            ours.append(student.network(batch.images).logits)
            theirs.append(export(batch.images).logits)
            progress(len(batch.labels))
    found = _compared(torch.cat(labels), torch.cat(ours), torch.cat(theirs), limit, file.name)
    sizes = (student.run.path / record.WEIGHTS_FILE).stat().st_size, sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))
    with console.status("timing run and export"):
        run_ms, export_ms = (latency(network, student.config.image_size, BATCH_SIZE) for network in (student.network, export))
    return Check(
        num_pictures=len(loader.part),
        num_val=len(student.source.val),
        **found,
        run_bytes=sizes[0],
        export_bytes=sizes[1],
        run_ms=run_ms["one_picture_ms"],
        export_ms=export_ms["one_picture_ms"],
        run_batch_ms=run_ms["batch_ms"] / BATCH_SIZE,
        export_batch_ms=export_ms["batch_ms"] / BATCH_SIZE,
    )


def _compared(labels: Tensor, ours: Tensor, theirs: Tensor, limit: float | None, name: str) -> dict[str, Any]:
    """labels [N], both logits [N, K]."""
    if theirs.shape != ours.shape or not theirs.isfinite().all():
        what = "values that are nan or infinite" if theirs.shape == ours.shape else f"{list(theirs.shape)} instead of {list(ours.shape)} values"
        raise DistillError(f"{name} answers the val pictures with {what}: nothing was put in place; take another --to")
    best, chosen = ours.argmax(dim=1), theirs.argmax(dim=1)
    largest = ours.abs().max().item()
    lead = ours.amax(dim=1) - ours.gather(1, chosen[:, None])[:, 0]  # of the run's answer over the export's, in the run's own logits
    is_tie = (best != chosen) & (lead <= 2 * (limit or 0.0) * largest)
    return {
        "num_agreeing": int((best == chosen).sum()),
        "num_ties": int(is_tie.sum()),
        "largest_difference": (ours - theirs).abs().max().item(),
        "largest_logit": largest,
        "run_top1": (best == labels).double().mean().item(),
        "export_top1": (chosen == labels).double().mean().item(),
    }


def why_not_good(found: Check, target: Format, min_agreement: float | None) -> str | None:
    """What is wrong by the limits, in a sentence; None if nothing is. min_agreement: a share that somebody has set in place of all of them."""
    wanted = target.min_agreement if min_agreement is None else min_agreement
    agreeing = found.num_agreeing + (found.num_ties if min_agreement is None else 0)
    problems = []
    if agreeing < math.ceil(wanted * found.num_pictures - 1e-9):
        problems.append(f"it agrees with the run on {found.agreement:.2%} of {found.num_pictures:,} val pictures, and {wanted:.2%} is the least")
    if min_agreement is None and target.max_difference is not None and found.difference > target.max_difference:
        problems.append(f"a logit differs by {found.difference:.1e} of the largest, and {target.max_difference:.0e} is the most")
    lost = found.run_top1 - found.export_top1
    if min_agreement is None and target.max_lost and lost > target.max_lost + 1e-9:
        problems.append(f"it loses {100 * lost:.2f} points of val top-1, and {100 * target.max_lost:.1f} is the most")
    return "; ".join(problems) or None
