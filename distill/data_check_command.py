"""`distill data check FOLDER|FILE`: prints what is to be said of a folder of pictures, or of a packed file, before it is trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from distill.data.class_folders import survey
from distill.data.decoding import pick_decoder
from distill.data.packing.check import damaged_pictures
from distill.data.packing.file import read_packed_file
from distill.data.picture_check import HARMS, NOTE, STOPS, Finding, Report, check_folder
from distill.data.processes import usual_workers
from distill.errors import DataError
from distill.report.console import make_console, printable
from distill.report.count_progress import CountProgress

_NAMES_SHOWN, _DAMAGED_SHOWN = 3, 10
_STYLES = {STOPS: "bold red", HARMS: "bold yellow", NOTE: "bold"}


def check(place: str, *, workers: int | None = None, as_json: bool = False) -> None:
    """Prints the findings; as JSON with all the names. Raises DataError if there is no such folder or file, or training can't go well with it."""
    path = Path(place).expanduser()
    if path.is_file():
        _check_packed(path, as_json=as_json)
    else:
        _check_folder(path, workers, as_json=as_json)


def _check_packed(path: Path, *, as_json: bool) -> None:
    packed = read_packed_file(path)
    num, missing = len(packed.layout), int((packed.filled == 0).sum())
    with CountProgress(make_console(is_main=True), "checking", num) as progress:
        damaged = damaged_pictures(packed, progress)
    if as_json:
        print(json.dumps({"file": str(path), "num_pictures": num, "num_missing": missing, "damaged": damaged}, indent=2))
    if damaged:
        some = "\n  ".join(damaged[:_DAMAGED_SHOWN]) + ("\n  ..." if len(damaged) > _DAMAGED_SHOWN else "")
        raise DataError(f"{path} is damaged: {len(damaged):,} of {num:,} pictures are not as they were packed; copy or pack it again:\n  {some}")
    if missing:
        raise DataError(f"{path} is not whole: {missing:,} of {num:,} pictures are still to be packed; distill data prepare goes on")
    if not as_json:
        print(printable(f"{path}: {num:,} pictures, all as they were packed"))


def _check_folder(root: Path, workers: int | None, *, as_json: bool) -> None:
    files = survey(root)
    num = sum(len(pictures) for classes in files.parts.values() for pictures in classes.values())
    if workers is None:
        workers = usual_workers(num)
    with CountProgress(make_console(is_main=True), "checking", num) as progress:
        report = check_folder(root, files, pick_decoder("auto"), workers=workers, progress=progress)
    if as_json:
        print(json.dumps({**asdict(report), "would_stop": report.would_stop}, indent=2))
    else:
        _print(report)
    if report.would_stop:
        stopping = ", ".join(finding.title for finding in report.findings if finding.severity == STOPS)
        raise DataError(f"a training run with {root} would stop: {stopping}")


def _print(report: Report) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, 120)
    parts = ", ".join(f"{part} {num:,}" for part, num in report.num_pictures.items()) if len(report.num_pictures) > 1 else ""
    num = sum(report.num_pictures.values())
    console.print(
        Text(printable(f"{report.root}: {num:,} pictures of {report.num_classes:,} classes" + (f" ({parts})" if parts else ""))), soft_wrap=True
    )
    for finding in report.findings:
        _print_finding(console, finding)
    if not report.findings:
        console.print("\nNothing to remark.")
    elif not report.would_stop:
        console.print("\nNothing here would stop a training run.")


def _print_finding(console: Console, finding: Finding) -> None:
    console.print()
    console.print(Text(f"{len(finding.found):,}  {finding.title}", style=_STYLES[finding.severity]))
    for line in Text(finding.meaning).wrap(console, console.width - 2):
        console.print(Text("  ").append_text(line))
    for names in finding.found[:_NAMES_SHOWN]:
        text = names if isinstance(names, str) else " = ".join(names[:_NAMES_SHOWN]) + (" = ..." if len(names) > _NAMES_SHOWN else "")
        shown = printable(text).replace("\n", "\\n")
        console.print(Text(f"    {shown}", style="dim"), soft_wrap=True)  # a name that is to be copied must not be broken
    if len(finding.found) > _NAMES_SHOWN:
        console.print(Text(f"    and {len(finding.found) - _NAMES_SHOWN:,} more (--json has all)", style="dim"))
