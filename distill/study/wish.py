"""What a person wants compared, before it is known what that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Wish:
    """What is to be compared: every recipe with every student, teacher and variant, for each seed, and each student alone."""

    recipes: Sequence[str]
    seeds: Sequence[int]
    losses: Sequence[str] = ()  # each in place of the recipe's own losses, at the weights of its own recipe losses/NAME
    students: Sequence[str] = ()
    teachers: Sequence[str] = ()
    variants: Mapping[str, Sequence[str]] | None = None  # name -> overrides
    ablate: bool = False  # also leave out each of the recipe's losses in turn
    overrides: Sequence[str] = ()  # for all
