"""What a check says: faults, the error that lists them, and how a check is run."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import NamedTuple

from distill.errors import DistillError
from distill.testing.subject import Answer, Subject

Check = Callable[[Subject], Iterator[str]]  # yields what it saw, where that is a fault; its docstring says what it means and what to do

_MOST_SHOWN = 6


class Fault(NamedTuple):
    """One way in which a loss breaks the contract."""

    name: str  # the check's: "order"
    seen: str  # with the numbers
    meaning: str  # what it means, and the usual fix

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}\n{textwrap.indent(self.meaning, '    ')}"


class LossContractError(DistillError):
    """A loss breaks the contract of losses. `faults` has every fault."""

    def __init__(self, loss: str, faults: list[Fault]):
        self.faults = tuple(faults)
        count = "1 way" if len(faults) == 1 else f"{len(faults)} ways"
        super().__init__("\n".join([f"{loss} breaks the contract of a loss in {count}", *map(str, faults)]))


def run_check(check: Check, subject: Subject) -> list[Fault]:
    """At most one fault, with everything that the check saw; what it raises is seen too."""
    seen: list[str] = []
    try:
        seen.extend(check(subject))
    except Exception as error:  # the loss's own code runs in there
        seen.append(describe_error(error))
    return [fault_of(check, seen)] if seen else []


def fault_of(check: Callable[..., object], seen: list[str]) -> Fault:
    """The fault that a check's name and docstring stand for."""
    name = check.__name__.removeprefix("check_").replace("_", " ")
    more = [f"and {len(seen) - _MOST_SHOWN} more"] if len(seen) > _MOST_SHOWN else []
    return Fault(name, "; ".join(seen[:_MOST_SHOWN] + more), inspect.getdoc(check) or "")


def describe_error(error: BaseException) -> str:
    """Its class and message on one line, shortened."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 400)}"


def trouble(answer: Answer) -> str | None:
    """What is not finite in an answer; None if all is well."""
    if not answer.value.isfinite():
        return f"the value is {answer.value.item()}"
    if not answer.has_graph:
        return f"the value {answer.value.item():.4g} has no gradient at all"
    for name, gradient in {**answer.student, **answer.own}.items():
        if gradient is not None and (count := int((~gradient.isfinite()).sum())):
            return f"the value is {answer.value.item():.4g}, but {count} of {gradient.numel()} numbers in the gradient of {name} aren't finite"
    return None
