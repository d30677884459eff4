"""What a recipe may say of one loss: its weight, schedules, and arguments that only the loss itself knows."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from distill.recipe_types import Arguments, NotNegative, Number, Positive, Section, Text, in_schema, must

_AUTO = re.compile(r"auto\(\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*\)")


class Schedule(Section):
    """A number that changes in the course of training, from `start` to `end` in the first `epochs` epochs, where it then stays."""

    schedule: Literal["warmup", "linear", "cosine", "stop_at"] = Field(description="warmup (linear, from 0), linear, cosine or stop_at.")
    start: Number | None = Field(None, description="First value; null is 0, as for warmup. For stop_at the value until it stops.")
    end: Number | None = Field(None, description="Last value; null is 0, as for stop_at.")
    epochs: Positive | None = Field(None, description="How long it takes, in epochs and parts of them; null for the whole run.")

    @model_validator(mode="after")
    def _is_complete(self) -> "Schedule":
        needed = {"warmup": ("end", "epochs"), "stop_at": ("start", "epochs")}.get(self.schedule, ("start", "end"))
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.schedule} needs {' and '.join(needed)}; {' and '.join(missing)} must be given")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Returns the first value and the last."""
        return self.start or 0.0, self.end or 0.0


def is_schedule(value: Any) -> bool:
    """Returns whether an argument's value in a recipe is meant as a schedule."""
    return isinstance(value, Mapping) and "schedule" in value


def auto_ratio(weight: Any) -> float | None:
    """Returns 0.5 for auto(0.5), the share of cross-entropy's gradient norm that a term is scaled to; None for another weight."""
    found = _AUTO.fullmatch(weight) if isinstance(weight, str) else None
    return float(found[1]) if found else None


def _kind_of_weight(weight: Any) -> str:
    if isinstance(weight, str) and weight.lstrip().startswith("auto"):
        return "[auto]"
    return "[schedule]" if isinstance(weight, Mapping | Schedule) else "[number]"


_Auto = Annotated[
    str, must(auto_ratio, "must be auto(R) with R above 0, such as auto(0.5)"), in_schema(pattern=f"^{_AUTO.pattern}$", examples=["auto(0.5)"])
]
_Ends = must(lambda schedule: min(schedule.ends) >= 0, "must not become negative: start and end must be 0 or more", AfterValidator)
Weight = Annotated[
    Annotated[NotNegative, Tag("[number]")] | Annotated[_Auto, Tag("[auto]")] | Annotated[Schedule, _Ends, Tag("[schedule]")],
    Discriminator(_kind_of_weight),
]


class LossEntry(Section, extra="allow"):
    """One term of the loss; further keys are the loss's own arguments, which are checked where the loss is known."""

    __pydantic_extra__: Arguments
    type: Text | None = Field(None, description="Name of the loss; null for the entry's label.")
    weight: Weight = Field(1.0, description="Factor of this term in the total loss: a number, a schedule, or auto(R).")

    def name(self, label: str) -> str:
        """Returns the name of the loss that stands under this label."""
        return self.type or label
