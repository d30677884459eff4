"""A network tried in eval mode, and left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Each of its modules has its own mode again afterwards, however that ends: a frozen part may be in eval mode inside a model in train mode."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
