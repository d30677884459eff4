"""Holds still what a loss takes out of the gradient on purpose, so that slopes can be compared with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Constants(TorchFunctionMode):
    """In the first `with`, keeps what detach() and operations under no_grad() give; in later ones, gives the same again, in the same order.

    A weight that depends on the student and is detached is a constant for the gradient, but not for finite differences: here it is one for both.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Tensor] = []
        self._is_recorded = False

    def __enter__(self) -> Constants:
        self._position, self._depth = 0, [torch.is_grad_enabled()]
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if not self._is_recorded:
            self._is_recorded = True
        elif error[0] is None and self._position != len(self._kept):
            raise RuntimeError(f"{self._position} values without gradient where there were {len(self._kept)}: another branch was taken")

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch._C._set_grad_enabled:  # the user's own no_grad; the one inside an autograd.Function is not seen here
            self._depth.append(args[0])
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or not self._is_constant(func) or any(result is argument for argument in args):
            return result
        if not self._is_recorded:
            self._kept.append(result.detach().clone())
            return result
        self._position += 1
        return self._kept[self._position - 1].clone()

    def _is_constant(self, func: Any) -> bool:
        data: Any = Tensor.data  # on the class it is a descriptor, which torch's stubs don't say
        return func in (Tensor.detach, torch.detach, data.__get__) or not self._depth[-1]
