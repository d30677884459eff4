"""When a run is saved, where to, and where it goes on from: what the trainer is told about checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.checkpoints import Checkpoint, Writer

Save = Callable[[int, int, Mapping[str, Any], Mapping[str, Writer], bool], None]


@dataclass(frozen=True)
class Saving:
    """save: (steps done, epochs done, the trainer's own state, writers of its files, whether val_top1 was never higher); called by the first process
    only. every_steps, every_minutes: None for never; a run is also saved when it stops, ends, or is better on val than before."""

    save: Save | None = None
    every_steps: int | None = None
    every_minutes: float | None = None
    start: Checkpoint | None = None
