"""The kinds of values that a recipe is made of, with their limits and what is said of a value that does not fit."""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field


def must(fit: Callable[[Any], Any], words: str, kind: Any = AfterValidator) -> Any:
    """Returns a validator that refuses, in these words, what does not fit."""

    def check(value: Any) -> Any:
        if not fit(value):
            raise ValueError(words)
        return value

    return kind(check)


def _plain(value: Any) -> Any:
    """Returns the value with tuples as lists; raises where a recipe file could not hold it."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("must be text, a number, true, false, null, a list or a mapping with text as keys")
    return value


def numbers(length: int) -> Any:
    """A validator that refuses what is not a list of so many values."""
    fit, words = lambda value: isinstance(value, list | tuple) and len(value) == length, f"must be a list of {length} numbers"
    return must(fit, words, BeforeValidator)


def in_schema(**keywords: Any) -> Any:
    """Returns what adds to the JSON schema a limit that only a validator of ours knows."""
    return Field(json_schema_extra=keywords)


RISING = must(lambda values: list(values) == sorted(values), "must be in increasing order")
DISTINCT = must(lambda values: len(set(values)) == len(values), "must not hold a value twice")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FOLDER = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# pydantic takes true for 1.0, which turns a slip like `temperature: true` into a wrong experiment
NOT_BOOL = must(lambda value: not isinstance(value, bool), "must be a number, not true or false", BeforeValidator)
Number = Annotated[float, NOT_BOOL]
NotNegative = Annotated[float, Field(ge=0), NOT_BOOL]
Positive = Annotated[float, Field(gt=0), NOT_BOOL]
Inside = Annotated[float, Field(gt=0, lt=1), NOT_BOOL]
UpToOne = Annotated[float, Field(gt=0, le=1), NOT_BOOL]
BelowOne = Annotated[float, Field(ge=0, lt=1), NOT_BOOL]
Share = Annotated[float, Field(ge=0, le=1), NOT_BOOL]
_MOST = 10**12  # more steps, epochs or pixels than anybody will see; and no number that overflows later
Whole = Annotated[int, Field(ge=0, le=_MOST), NOT_BOOL]
Count = Annotated[int, Field(ge=1, le=_MOST), NOT_BOOL]
Pixels = Annotated[int, Field(ge=8, le=_MOST), NOT_BOOL]
Seed = Annotated[int, Field(ge=0, lt=2**63), NOT_BOOL]
Text = Annotated[str, Field(min_length=1)]
Arguments = dict[str, Annotated[Any, AfterValidator(_plain)]]
Label = Annotated[str, must(_LABEL.fullmatch, "must be letters, digits and _, and not begin with a digit"), in_schema(pattern=f"^{_LABEL.pattern}$")]
RunName = Annotated[
    str,
    must(_FOLDER.fullmatch, "must be 1 to 100 letters, digits and . _ - (no .., and first a letter or digit)"),
    in_schema(pattern=f"^{_FOLDER.pattern}$"),
]
Scale = Annotated[tuple[UpToOne, UpToOne], numbers(2), RISING]
Ratio = Annotated[tuple[Positive, Positive], numbers(2), RISING]
Milestones = Annotated[list[Inside], RISING, DISTINCT, in_schema(uniqueItems=True)]
Norm = Literal["batch", "sync", "group", "frozen"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
Method = Literal["distill", "ema_teacher", "mutual"]
Tracking = Annotated[list[Literal["tensorboard", "trackio", "wandb", "mlflow"]], DISTINCT, in_schema(uniqueItems=True)]


class Section(BaseModel, extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False):
    """One mapping of a recipe."""
