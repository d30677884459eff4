"""How the doctor's report looks: sections of plain tables on standard output, or all of it as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from distill.doctor.findings import size
from distill.doctor.layout import listed, number, output_console, print_json, table, title
from distill.doctor.profile_show import show_profile


def show(report: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints the sections that the report has, and last what was found."""
    console = output_console()
    if as_json:
        print_json(report, console)
        return
    for name, shown in _SECTIONS.items():
        if report.get(name):
            shown(report[name], console)
    _show_found(report, console)


def _show_machine(machine: Mapping[str, Any], console: Console) -> None:
    console.print(Text("This machine", style="bold"))
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    gpus = ", ".join(f"{gpu['name']} ({size(gpu['memory_bytes'])})" for gpu in machine["gpus"]) or "none"
    free = "unknown" if machine["free_memory_bytes"] is None else size(machine["free_memory_bytes"])
    processor = f"{machine['processor']}, {machine['num_cores']} cores"
    facts = [("versions", f"python {machine['python']}, {versions}"), ("processor", processor), ("GPUs", gpus), ("free memory", free)]
    facts += [(name, f"{'yes' if is_there else 'no'}{f' ({meaning})' if meaning else ''}") for name, is_there, meaning in machine["features"]]
    table(("", ""), facts, console, left=2)


def _show_lines(heading: str) -> Any:
    def shown(lines: Sequence[str], console: Console) -> None:
        title(heading, console)
        for line in lines:
            indent = 2 + len(line) - len(line.lstrip())
            console.print(Padding(Text(line.strip()), (0, 0, 0, indent), expand=False))

    return shown


def _show_data(data: Mapping[str, Any], console: Console) -> None:
    title("Data", console)
    tried = f"{data['num_pictures_tried']} pictures and all labels were looked at"
    rows = [("pictures", " / ".join(f"{data[part]:,}" for part in ("train", "val", "test")) + " to train / validate / test")]
    table(("", ""), [*rows, ("classes", f"{data['num_classes']:,}, {data['image_size']} px"), ("tried", tried)], console, left=2)


def _show_features(features: Sequence[Mapping[str, Any]], console: Console) -> None:
    title("What the losses see of the networks", console)
    rows = [(row["layer"], _shape(row["student"]), "" if row["teacher"] is None else _shape(row["teacher"])) for row in features]
    table(("layer", "student", "teacher"), rows, console, left=3)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _show_losses(losses: Sequence[Mapping[str, Any]], console: Console) -> None:
    listed(
        [
            f"{row['loss']} ({row['type']}): uses {', '.join(row['layers']) or 'logits or the head only'}; "
            f"trains {'; '.join(row['trains']) if row['trains'] else 'nothing of its own'}"
            for row in losses
        ],
        console,
    )


def _show_terms(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    title("Terms at the first step, on one batch", console)
    names = ("value", "weight", "gradient_norm", "weighted_norm", "ratio", "cosine")
    shown = [(row["term"], *(number(row[name]) for name in names[:-1]), f"{row['cosine']:+.2f}") for row in rows]
    table(("term", "value", "weight", "gradient", "x weight", "of ce's", "cosine"), shown, console)
    note = "gradient: its norm on the student; of ce's: times plain cross-entropy's norm; cosine: whether it points the same way as that."
    console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2), expand=False))


def _show_memory(memory: Mapping[str, Any], console: Console) -> None:
    title("Memory of a process, about", console)
    for what, needs in memory["needs"].items():
        console.print(f"  {what}")
        rows = [(name, size(num_bytes)) for name, num_bytes in needs.items()]
        table(("", ""), [*rows, ("together", size(sum(needs.values())))], console)
    shared = f", shared by {memory['processes_sharing_it']} processes" if memory["processes_sharing_it"] > 1 else ""
    console.print(f"  free: {'unknown' if memory['free_bytes'] is None else size(memory['free_bytes'])}{shared}")


def _show_speed(speed: Mapping[str, Any], console: Console) -> None:
    title("Speed of a process, each part alone", console)
    words = {"loader": "reads and varies pictures", "teacher": "answers", "student": "forward, losses, backward, step"}
    rows = [(name, what, f"{speed[key]:,.0f} images/s") for name, what in words.items() if (key := f"{name}_images_per_second") in speed]
    table(("", "", ""), rows, console, left=2)
    console.print(Padding(Text(speed["advice"]), (0, 0, 0, 2), expand=False))


def _show_disk(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    title("Disk, at most", console)
    shown = [(row["run"], row["folder"], size(row["written_bytes"]), size(row["free_bytes"])) for row in rows]
    table(("run", "folder", "writes", "free then"), shown, console, left=2)


def _show_found(report: Mapping[str, Any], console: Console) -> None:
    for name, style in (("warnings", "yellow"), ("problems", "red")):
        if report[name]:
            console.print()
            console.print(Text(name.capitalize(), style=f"bold {style}"))
            listed([found if isinstance(found, str) else found["message"] for found in report[name]], console, style)
    if not report["problems"]:
        console.print()
        console.print(Text("No problem was found.", style="green"))


_SECTIONS = {
    "machine": _show_machine,
    "plan": _show_lines("What will be done"),
    "data": _show_data,
    "teacher": _show_lines("Teacher"),
    "features": _show_features,
    "losses": _show_losses,
    "terms": _show_terms,
    "memory": _show_memory,
    "speed": _show_speed,
    "disk": _show_disk,
    "profile": show_profile,
}
