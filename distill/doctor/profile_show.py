"""How a profile looks on standard output: the parts of a step with a bar each, and the floor in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from distill.doctor.layout import table, title

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BESIDE = 54  # columns that a line needs for all but the bar
_MOST_BAR = 48


def show_profile(profile: Mapping[str, Any], console: Console) -> None:
    """The table, and what the device could do at most."""
    title(f"Where the time of a step goes, {what_was_measured(profile)}", console)
    width = max(8, min(_MOST_BAR, console.width - _BESIDE))
    largest = max(part["share"] for part in profile["parts"])
    rows = [_row(part, bar(part["share"] / largest, width, is_ascii=console.options.ascii_only)) for part in profile["parts"]]
    whole = {"part": "step", "seconds": profile["seconds_per_step_in_parts"], "share": 1.0, "floor_seconds": profile["floor_seconds"]}
    rows.append(_row({**whole, "share_of_floor": profile["floor_seconds"] / whole["seconds"]}, ""))
    table(("part", "", "ms", "share", "floor ms", "reached"), rows, console, left=2)
    for line in in_words(profile):
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def what_was_measured(profile: Mapping[str, Any]) -> str:
    """Pictures a step, precision, device and processes, as a sentence begins."""
    one = f", in one of {profile['num_processes']} processes" if profile["num_processes"] > 1 else ""
    return f"{profile['images_per_step']} pictures in {profile['precision']} on {profile['device']}{one}"


def bar(fraction: float, width: int, *, is_ascii: bool) -> str:
    """At most `width` columns, in eighths of one where the output can show them; never nothing for something."""
    if is_ascii:
        return "#" * max(round(fraction * width), int(fraction > 0))
    full, eighths = divmod(max(round(8 * fraction * width), int(fraction > 0)), 8)
    return _EIGHTHS[-1] * full + _EIGHTHS[eighths].strip()


def in_words(profile: Mapping[str, Any]) -> list[str]:
    """Speed, ceilings, costs of a picture, and the floor."""
    ceilings, num_images = profile["ceilings"], profile["images_per_step"]
    seconds, in_parts = profile["seconds_per_step"], profile["seconds_per_step_in_parts"]
    speed = f"{milliseconds(seconds)} ms a step, {profile['images_per_second']:,.0f} images/s"
    if seconds != in_parts:
        speed += f"; {milliseconds(in_parts)} ms where each part is waited for, as in the table"
    limits = {"arithmetic": f"{_number(ceilings['flops_per_second'] / 1e9)} GFLOP/s", "memory": f"{_number(ceilings['bytes_per_second'] / 1e9)} GB/s"}
    flops, num_bytes = profile["flops"] / num_images / 1e9, profile["bytes"] / num_images / 1e6
    floor = f"{milliseconds(profile['floor_seconds'])} ms a step, set by {profile['limited_by']}"
    return [
        speed,
        f"This device at most: {limits['arithmetic']} ({ceilings['flops_of']}, {profile['precision']}), {limits['memory']} (copy)",
        f"A picture takes {_number(flops)} GFLOP and {_number(num_bytes)} MB of memory traffic",
        f"Floor: {floor}; training runs at {profile['share_of_floor']:.0%} of that speed",
    ]


def milliseconds(seconds: float) -> str:
    """1,012, 12.3, 0.45, <0.01"""
    if 0 < seconds < 1e-5:
        return "<0.01"
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.1f}" if seconds >= 1e-3 else f"{1000 * seconds:.2f}"


def _row(part: Mapping[str, Any], drawn: str) -> tuple[str, ...]:
    floor, reached = part["floor_seconds"], part["share_of_floor"]
    floors = (milliseconds(floor), f"{reached:.0%}") if floor and reached else ("", "")
    return part["part"], drawn, milliseconds(part["seconds"]), f"{part['share']:.1%}", *floors


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
