"""How a replayed step looks on standard output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from distill.doctor.layout import listed, number, output_console, print_json, table, title

_NUM_PICTURES = 16  # of those that nothing is wrong with


def show_replay(report: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints notes, each part of the batch, and the verdict."""
    console = output_console()
    if as_json:
        print_json(report, console)
        return
    start = f"from {report['started_from']}" if report["started_from"] else "from the beginning, as there is no checkpoint"
    console.print(Text(f"{report['run']}: step {report['step'] + 1} again, {start}", style="bold"))
    listed([f"note: {note}" for note in report["notes"]], console, "yellow")
    if "lr" in report:
        console.print(f"  learning rate {report['lr']:.3g}")
    for index, part in enumerate(report.get("parts", ())):
        _show_part(part, f"Part {index + 1} of {len(report['parts'])} of the batch" if len(report["parts"]) > 1 else "The batch", console)
    console.print()
    console.print(Text(report["verdict"], style="green" if report["reproduced"] else "yellow"))


def _show_part(part: Mapping[str, Any], heading: str, console: Console) -> None:
    title(heading, console)
    where = f"first not finite: {part['places'][0]}" if part["places"] else "all values are finite"
    console.print(Text(f"  {where}; largest logit {number(part['largest_logit'])}"))
    rows = [(row["term"], number(row["value"]), number(row["weight"]), number(row["gradient_norm"]), _wrong(row)) for row in part["terms"]]
    table(("term", "value", "weight", "gradient", "not finite"), rows, console)
    pictures = sorted(part["pictures"], key=lambda picture: not _is_wrong(picture))
    num_wrong = sum(map(_is_wrong, pictures))
    shown = pictures[: max(num_wrong, _NUM_PICTURES)]
    cells = [
        (str(picture["sample_id"]), str(picture["label"]), number(picture["largest_logit"]), number(picture["cross_entropy"]), _of_picture(picture))
        for picture in shown
    ]
    table(("sample", "label", "largest logit", "ce", "not finite"), cells, console)
    if len(pictures) > len(shown):
        console.print(f"  and {len(pictures) - len(shown)} more, all finite")


def _wrong(row: Mapping[str, Any]) -> str:
    what = ["value"] if not math.isfinite(row["value"]) else []
    if row["num_wrong_parameters"] or row["wrong_at"]:
        what.append(f"gradient ({', '.join([*row['wrong_at'], str(row['num_wrong_parameters']) + ' parameters'])})")
    return ", ".join(what)


def _is_wrong(picture: Mapping[str, Any]) -> bool:
    return bool(_of_picture(picture))


def _of_picture(picture: Mapping[str, Any]) -> str:
    what = [] if picture["are_logits_finite"] else ["logits"]
    what += [] if math.isfinite(picture["cross_entropy"]) else ["cross-entropy"]
    what += picture["terms"]
    return ", ".join(what + ([] if picture["is_gradient_finite"] else ["gradient"]))
