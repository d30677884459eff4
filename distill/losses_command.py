"""`distill losses`: which losses there are, what one of them does, and whether those of a file keep the contract."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.build.arguments import check_arguments
from distill.errors import DistillError, RecipeError
from distill.loss_cards import LossCard, default_recipe, loss_card, losses_section
from distill.losses.base import DistillLoss
from distill.recipe_search import list_recipes, read_text, shown_path
from distill.recipe_yaml import parse, plain_values, recipe_value
from distill.resolve import Catalogue, import_plugin, snake_case, subclasses

KINDS = {
    "logit": "Logit losses: the student answers like the teacher",
    "feature": "Feature losses: the student's features become like the teacher's",
    "relation": "Relation losses: samples relate to each other as they do for the teacher",
    "": "Losses whose docstring does not say their kind",
}


def list_losses(catalogue: Catalogue, *, as_json: bool = False) -> None:
    """Prints every loss of the catalogue, by kind; as JSON with all that its card says."""
    cards, console = [loss_card(name, catalogue.get("losses", name)) for name in catalogue.names("losses")], _console()
    if as_json:
        _print_lines(console, json.dumps([asdict(card) for card in cards], indent=2, ensure_ascii=False, default=str))
        return
    width = max(len(card.name) for card in cards)
    for kind, title in KINDS.items():
        if chosen := [card for card in cards if (card.kind if card.kind in KINDS else "") == kind]:
            console.print(Text(title, style="bold"))
            console.print(_overview(chosen, width))
    _print_lines(console, "distill losses show NAME   its equation, arguments and recipe\ndistill losses new NAME    a file for one of your own")


def show_loss(catalogue: Catalogue, name: str) -> None:
    """Prints a loss's card, its arguments, and how a recipe uses it. Raises RecipeError with the nearest name if there is none."""
    card, console = loss_card(name, catalogue.get("losses", name)), _console()
    console.print(Text.assemble((name, "bold"), f": {card.summary}" if card.summary else ""))
    console.print()
    console.print(_facts(card))
    console.print()
    console.print(_argument_table(card) if card.arguments else "It has no arguments.")
    for paragraph in filter(None, card.notes.split("\n\n")):
        console.print()
        console.print(paragraph)
    title, recipe = _recipe(card)
    console.print(Text(f"\n{title}", style="bold"))
    _print_lines(console, recipe)


def check_file(file: str, overrides: Sequence[str] = ()) -> None:
    """Prints a line for each loss in the file. Raises RecipeError if it can't be used at all, DistillError if a loss breaks the contract."""
    from distill.testing import LossContractError, check_loss  # late: the other commands need none of it

    given = dict(map(_argument, overrides))
    classes = _losses_in(file)
    arguments = {cls: _checked(cls, given) for cls in classes}
    console, broken = _console(), []
    for cls in classes:
        name = snake_case(cls.__name__)
        try:
            check_loss(cls, **arguments[cls])
            _print_lines(console, f"{name}: keeps the contract")
        except LossContractError as error:
            broken.append(name)
            _print_lines(console, "\n".join([f"{name}: breaks the contract", *(textwrap.indent(str(fault), "  ") for fault in error.faults)]))
    if broken:
        raise DistillError(f"{file}: {', '.join(broken)} {'breaks' if len(broken) == 1 else 'break'} the contract of a loss")


def _console() -> Console:
    """To standard output, as wide as the terminal; rich takes 80 columns where there is none, and COLUMNS changes that."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, 120)
    return console


def _print_lines(console: Console, text: str) -> None:
    """As they are: a line that is to be copied must not be broken."""
    console.print(text, soft_wrap=True)


def _overview(cards: Sequence[LossCard], width: int) -> Table:
    table = _borderless("bold", "dim", "")
    table.columns[0].width = width
    for card in cards:
        table.add_row(card.name, "idea", card.summary or "its class has no docstring")
        for label in ("inputs", "paper", "weights", "cost"):
            if text := getattr(card, label):
                table.add_row("", label, text)
        table.add_row()
    return table


def _facts(card: LossCard) -> Table:
    table = _borderless("bold", "")
    for label in ("kind", "inputs", "equation", "paper", "weights", "labels", "cost"):
        if text := getattr(card, label):
            table.add_row(label, text)
    table.add_row("needs", "; ".join(needs(card)))
    return table


def _borderless(*styles: str) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for style in styles:
        table.add_column(style=style, overflow="fold")
    return table


def needs(card: LossCard) -> list[str]:
    """What the loss asks of a run, in words."""
    return [
        "a teacher" if card.needs_teacher else "no teacher",
        *(["all of its logits: no teacher.cache.format=topk"] if card.needs_teacher and card.needs_all_logits else []),
        *(["labels: no data.labels=none"] if card.needs_labels else []),
        *(["the batch of all processes together: it compares samples with each other"] if card.batch_coupled else []),
        *([] if card.takes_soft_labels else ["one class a sample: no mixup, no cutmix"]),
    ]


def _argument_table(card: LossCard) -> Table:
    table = Table()
    for heading in ("argument", "type", "default"):
        table.add_column(heading, overflow="fold")
    for argument in card.arguments:
        table.add_row(argument.name, argument.type or "any", "must be given" if argument.is_required else recipe_value(argument.default))
    return table


def _recipe(card: LossCard) -> tuple[str, str]:
    """(its title, the text): the losses of a recipe that is called after the loss, else one made of the defaults."""
    path = list_recipes().get(f"losses/{card.name}")
    if path and (section := losses_section(read_text(path))):
        return f"distill train --recipe losses/{card.name}   ({shown_path(path)})", section
    return "A recipe with its defaults", default_recipe(card)


def _losses_in(file: str) -> list[type[DistillLoss]]:
    try:
        classes = subclasses(import_plugin(file), DistillLoss)
    except RecipeError as error:
        raise RecipeError(str(error).removeprefix("--plugin ")) from error
    if not classes:
        raise RecipeError(f"{file}: no subclass of DistillLoss is defined there")
    return classes


def _argument(text: str) -> tuple[str, Any]:
    """(key, value) of KEY=VALUE, the value read as a recipe reads it."""
    key, equals, value = text.partition("=")
    node, problems = parse(value, lambda line: f"argument `{text}`")
    if not key or not equals or problems or node is None:
        raise RecipeError("\n".join(map(str, problems)) or f"argument `{text}` is not of the form KEY=VALUE")
    return key, plain_values(node)


def _checked(cls: type[DistillLoss], given: dict[str, Any]) -> dict[str, Any]:
    arguments, wrong = check_arguments(cls, given)
    if wrong:
        raise RecipeError("\n".join(f"{snake_case(cls.__name__)}.{name}: {message}" for name, message in wrong))
    return arguments
