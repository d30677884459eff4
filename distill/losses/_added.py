"""The sum of a loss's parts, one for each layer, as a tensor."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

from torch import Tensor


def added(parts: Iterable[Tensor]) -> Tensor:
    """[...] each, of one shape -> [...]: their sum. At least one: sum() would begin with the number 0, which is no tensor."""
    return functools.reduce(operator.add, parts)
