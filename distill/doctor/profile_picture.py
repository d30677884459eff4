"""A profile as a picture: a bar for the time of each part of a step, and on it the least that this device could need."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill import record
from distill.doctor.profile_show import in_words, milliseconds, what_was_measured
from distill.errors import RecipeError
from distill.places import expanded
from distill.report.console import make_console
from distill.report.drawing import Chart, Range, file_of

_OPTION = "--profile-picture"
_WIDTH, _ROW, _TOP, _LEFT, _BELOW = 760, 26, 70, 150, 132  # pixels: of the picture, of a bar, above the bars, of their names, and below
_ROOM = 1.3  # of the longest bar, for what is written behind it
_STYLE = 1


def picture_path(name: str) -> Path:
    """The file to draw into. Raises RecipeError if that can't work."""
    path = expanded(name)
    try:
        if path.is_dir():
            raise RecipeError(f"{_OPTION} {name}: this is a folder; name a file in it, such as {path / 'profile.svg'}")
        if path.suffix.lower() != ".svg":
            raise RecipeError(f"{_OPTION} {name}: the picture is an SVG; name a file that ends in .svg, such as {path.with_suffix('.svg')}")
        if not path.parent.is_dir():
            raise RecipeError(f"{_OPTION} {name}: there is no folder {path.parent}; make it first (mkdir -p {path.parent}), or name another")
        with tempfile.TemporaryFile(dir=path.parent, prefix=".distill-"):
            pass
    except OSError as error:
        raise RecipeError(f"{_OPTION} {name}: can't be written ({error.strerror or error}); name a file elsewhere") from error
    return path


def write_picture(path: Path, recipe: str, profile: Mapping[str, Any]) -> None:
    """Draws into the file, and says so on standard error. Raises RecipeError if the file can't be written after all."""
    try:
        record.write_text(path.resolve(), draw(recipe, profile))
    except OSError as error:
        raise RecipeError(f"{_OPTION} {path}: can't be written ({error.strerror or error}); name a file elsewhere") from error
    make_console(is_main=True).print(f"written: {path}", soft_wrap=True)


def draw(recipe: str, profile: Mapping[str, Any]) -> str:
    """The text of an SVG file."""
    parts = profile["parts"]
    longest = max(max(part["seconds"], part["floor_seconds"]) for part in parts)
    words = f"{recipe}: where the time of a step goes"
    height = _TOP + _ROW * len(parts) + _BELOW
    chart = Chart(words, Range(0, 1000 * longest * _ROOM), Range(0, len(parts)), size=(_WIDTH, height), left=_LEFT)
    chart.top, chart.bottom = _TOP, height - _BELOW
    chart.words(16, 28, words, kind="heading")
    chart.words(16, 48, f"{what_was_measured(profile)}; medians, in milliseconds")
    chart.axes(lambda value: f"{value:,.4g}", None)
    for number, part in enumerate(parts):
        _draw_part(chart, part, len(parts) - number - 1)
    chart.words(chart.left, chart.bottom + 38, "\u2503 floor: the least that this device could need for it")
    for number, line in enumerate(in_words(profile)):
        chart.words(16, chart.bottom + 64 + 18 * number, line)
    return file_of(chart)


def _draw_part(chart: Chart, part: Mapping[str, Any], low: float) -> None:
    name, took, floor = part["part"], 1000 * part["seconds"], 1000 * part["floor_seconds"]
    said = f"{milliseconds(part['seconds'])} ms, {part['share']:.1%}"
    y = chart.place((0, low + 0.5))[1] + 4
    chart.words(chart.left - 8, y, name if len(name) <= 20 else f"{name[:19]}\u2026", anchor="end")
    chart.bar((0, low + 0.15), (took, low + 0.85), _STYLE, name=f"{name}: {said}")
    if floor:
        chart.line([(floor, low + 0.02), (floor, low + 0.98)], 0, kind="floor")
    chart.words(chart.place((max(took, floor), low))[0] + 7, y, said, kind="value")
