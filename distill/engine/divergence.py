"""What is said when a loss or a gradient is not finite: which step, which term, which pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.data.loader import TrainingLoader
from distill.engine.metrics import StepLog
from distill.engine.optim import Schedule
from distill.errors import DivergedError

_NUM_SHOWN = 8


def stop_if_not_finite(recent: StepLog, rows: Tensor, loader: TrainingLoader, step: int, schedule: Schedule) -> None:
    """rows: [processes, micro-batches, names] of `recent`; step: steps done. Raises DivergedError about the first step that had such a value."""
    norms, accumulation = recent.norms(), loader.sampler.accumulation
    of_steps = rows.reshape(len(rows), -1, accumulation, rows.shape[-1]).transpose(0, 1)  # [steps, processes, micro-batches, names]
    bad_rows = (~of_steps.flatten(1).isfinite()).any(dim=1).tolist()
    bad_norms = [not abs(norm) < float("inf") for norm in norms] or [False] * len(bad_rows)
    bad = [index for index, found in enumerate(map(any, zip(bad_rows, bad_norms, strict=True))) if found]
    if bad:
        values = of_steps[bad[0]].flatten(0, 1)  # [processes * micro-batches, names]
        wrong = {name: next((value for value in column if not abs(value) < float("inf")), None) for name, column in _columns(recent.names, values)}
        terms = {name: value for name, value in wrong.items() if value is not None}
        at = step - len(bad_rows) + bad[0]
        raise _error(terms, at, loader.sample_ids(at), schedule(at))


@torch.no_grad()
def stop_if_weights_are_not_finite(parameters: Sequence[Tensor], loader: TrainingLoader, step: int, schedule: Schedule) -> None:
    """Raises DivergedError if a step made weights infinite though its gradient was finite, as a learning rate of 1e38 does."""
    if step and not torch.stack([parameter.isfinite().all() for parameter in parameters]).all():
        raise DivergedError(
            f"by step {step} weights had become infinite though every gradient was finite: train.lr ({schedule(step - 1):.3g}) times the gradient is "
            "too large; a lower train.lr, or train.clip_norm=1.0",
            step=step - 1,
            sample_ids=loader.sample_ids(step - 1),
            terms=[],
        )


def _columns(names: list[str], values: Tensor) -> list[tuple[str, list[float]]]:
    return list(zip(names, values.T.tolist(), strict=True))


def _error(terms: dict[str, float], step: int, sample_ids: list[int], rate: float) -> DivergedError:
    names = [name for name in terms if name != "loss"] or list(terms)
    if names:
        what, weight = " and ".join(f"the loss {name!r} is {terms[name]}" for name in names), f"losses.{names[0]}.weight"
    else:
        what, weight = "all losses are finite, but not the gradient of one of them", "losses.LABEL.weight"
    some = ", ".join(map(str, sample_ids[:_NUM_SHOWN])) + (f" and {len(sample_ids) - _NUM_SHOWN} more" if len(sample_ids) > _NUM_SHOWN else "")
    message = (
        f"step {step + 1}: {what}; nothing of that step reached the weights. Its pictures have the sample ids {some}. Usual causes are a learning "
        f"rate that is too high (train.lr, then {rate:.3g}), a weight that is too large ({weight}), no clipping (train.clip_norm=1.0) or precision "
        "fp16 (train.precision=auto)"
    )
    return DivergedError(message, step=step, sample_ids=sample_ids, terms=[name for name in terms if name != "loss"])
