"""Numbers that change in the course of training, as pure functions of the step, so that there is nothing to save."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def make_schedule(kind: str, *, start: float, end: float, num_steps: int) -> Schedule:
    """step -> value: from `start` at step 0 to `end` at step `num_steps`, where it stays.

    kind: "linear" and "warmup" go straight, "cosine" along half a cosine, "stop_at" holds `start` and then drops to `end`.
    """

    def value(step: int) -> float:
        done = min(1.0, step / max(1, num_steps))
        if kind == "stop_at":
            return start if done < 1 else end
        if kind == "cosine":
            done = 0.5 * (1 - math.cos(math.pi * done))
        return start + (end - start) * done

    return value
