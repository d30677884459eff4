"""What a loss says of itself: its docstring and its `__init__`, read into a card for the command line and the docs."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distill.losses.base import DistillLoss
from distill.recipe_yaml import recipe_value

LABELS = ("Kind", "Inputs", "Equation", "Paper", "Weights", "Labels", "Cost")
FLAGS = ("needs_teacher", "batch_coupled", "needs_labels", "needs_all_logits", "takes_soft_labels")
_LABEL = re.compile(rf"({'|'.join(LABELS)}):\s*(.*)")
_END_OF_SENTENCE = re.compile(r"(?<!\bal)(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)[.!?](?=\s+[^a-z])")


@dataclass(frozen=True)
class Argument:
    """One argument of a loss's `__init__`; the default is None where it is required."""

    name: str
    type: str
    default: Any = None
    is_required: bool = False


@dataclass(frozen=True)
class LossCard:
    """A loss in words. What its docstring does not say is an empty text."""

    name: str
    summary: str
    kind: str
    inputs: str
    equation: str
    paper: str
    weights: str
    labels: str
    cost: str
    notes: str  # paragraphs with an empty line between them
    arguments: tuple[Argument, ...]
    needs_teacher: bool
    batch_coupled: bool
    needs_labels: bool
    needs_all_logits: bool  # with its default arguments
    takes_soft_labels: bool


def loss_card(name: str, cls: type[DistillLoss]) -> LossCard:
    """The card of the loss that recipes call `name`."""
    summary, fields, notes = _read(inspect.cleandoc(cls.__doc__ or ""))
    flags: dict[str, Any] = {flag: bool(getattr(cls, flag)) for flag in FLAGS}
    words: dict[str, Any] = {label.lower(): fields.get(label, "") for label in LABELS}
    return LossCard(name=name, summary=summary, notes=notes, arguments=tuple(_arguments(cls)), **words, **flags)


def default_recipe(card: LossCard) -> str:
    """A recipe with this loss and its defaults in place of kd; an argument that must be given is left empty."""
    lines = ["extends: r50_to_r18" if card.needs_teacher else "extends: r18_alone", "losses:"]
    if card.name != "ce":
        lines += ["  ce: {weight: 1.0}"]
    if card.name != "kd" and card.needs_teacher:
        lines += ["  kd: null  # removes the loss that r50_to_r18 has"]
    values = {"weight": "1.0"} | {argument.name: recipe_value(argument.default) for argument in card.arguments if not argument.is_required}
    entry = f"  {card.name}: {{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"
    missing = [f"    {argument.name}:  # {argument.type or 'a value'}, must be given" for argument in card.arguments if argument.is_required]
    if missing or len(entry) > 100:
        entry = "\n".join([f"  {card.name}:", *(f"    {name}: {value}" for name, value in values.items()), *missing])
    return "\n".join([*lines, entry])


def losses_section(recipe: str) -> str:
    """The lines of a recipe's text from `losses:` up to the next key, as they are written; empty if there are none."""
    lines = recipe.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("losses:")), len(lines))
    ends = (number for number in range(start + 1, len(lines)) if lines[number][:1] not in ("", " ", "\t", "#"))
    section = lines[start : next(ends, len(lines))]
    while section and (not section[-1].strip() or section[-1].startswith("#")):  # what stands before the next key belongs to that
        section.pop()
    return "\n".join(section)


def _read(docstring: str) -> tuple[str, dict[str, str], str]:
    """(the first sentence, label -> what it says, all the rest)."""
    summary, notes = "", []
    fields: dict[str, str] = {}
    for paragraph in re.split(r"\n\s*\n", docstring):
        free, labelled = _split(paragraph.splitlines())
        for label, text in labelled.items():
            fields.setdefault(label, text)
        if free and not summary:
            first, rest = _first_sentence(_joined(free))
            summary, free = first, [rest] if rest else []
        if free:
            notes.append(_joined(free))
    return summary, fields, "\n\n".join(notes)


def _split(paragraph: list[str]) -> tuple[list[str], dict[str, str]]:
    """(the lines before the first label, label -> its text with the lines that continue it)."""
    free, labelled, label = [], {}, ""
    for line in paragraph:
        if found := _LABEL.match(line):
            label = found[1]
            labelled[label] = found[2].strip()
        elif label:
            labelled[label] = f"{labelled[label]} {line.strip()}".strip()
        else:
            free.append(line)
    return free, labelled


def _joined(lines: list[str]) -> str:
    """The lines of a paragraph as one, but items of a list and indented lines, such as code, each for itself."""
    text = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n(?![ \t]|[-*] |\d+\. )", " ", text)


def _first_sentence(text: str) -> tuple[str, str]:
    end = _END_OF_SENTENCE.search(text)
    return (text[: end.end()], text[end.end() :].strip()) if end else (text, "")


def _arguments(cls: type[DistillLoss]) -> Iterator[Argument]:
    try:
        hints = typing.get_type_hints(cls.__init__)
    except Exception:  # an annotation may name what only a type checker imports; its text is shown then
        hints = {}
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            is_required = parameter.default is parameter.empty
            yield Argument(name, _type_text(hints.get(name, parameter.annotation)), None if is_required else parameter.default, is_required)


def _type_text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
