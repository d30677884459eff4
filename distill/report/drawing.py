"""The frame that all charts of a report share: scales, axes and marks, as SVG text. Colours are the page's; shapes tell series apart, too."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

NUM_COLOURS = 8  # of further series the dashes and shapes differ
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 2", "12 4", "5 2 1 2", "3 3")
_CORNERS = {  # of a square, a triangle and a diamond
    1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    2: ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
    3: ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
}
Point = tuple[float, float]


@dataclass(frozen=True)
class Range:
    """What an axis shows; low < high."""

    low: float
    high: float

    @property
    def ticks(self) -> list[float]:
        """About five round numbers inside."""
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def range_of(values: Iterable[float], *, margin: float = 0.06, least: float = 1e-6) -> Range | None:
    """A range that holds all finite values with some room around them; None without any."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    room = max((high - low) * margin, least, abs(high) * 1e-6)
    return Range(low - room, high + room)


class Chart:
    """One chart; `svg` is its text. Everything outside of the plot is in the coordinates of the picture, everything inside in those of the axes."""

    def __init__(self, title: str, x: Range, y: Range, *, x_title: str = "", y_title: str = "", size: tuple[int, int] = (500, 300), left: int = 50):
        self.title, self.x, self.y = title, x, y
        self.width, self.height = size
        self.left, self.right, self.top, self.bottom = left, self.width - 16, 26, self.height - 44
        self._parts: list[str] = []
        self._titles = (x_title, y_title)

    def place(self, point: Point) -> Point:
        """Axes -> picture; what lies outside of a range is put on its edge."""
        across, up = (min(1.0, max(0.0, (value - axis.low) / (axis.high - axis.low))) for value, axis in zip(point, (self.x, self.y), strict=True))
        return self.left + across * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def axes(self, x_label: Callable[[float], str], y_label: Callable[[float], str] | None) -> None:
        """Grid lines with numbers; y_label: None where rows have names instead."""
        for value in self.x.ticks:
            x, _ = self.place((value, self.y.low))
            self._line(x, self.top, x, self.bottom, "grid")
            self.words(x, self.bottom + 16, x_label(value), anchor="middle")
        if y_label is not None:
            for value in self.y.ticks:
                _, y = self.place((self.x.low, value))
                self._line(self.left, y, self.right, y, "grid")
                self.words(self.left - 6, y + 4, y_label(value), anchor="end")
        if self._titles[0]:
            self.words((self.left + self.right) / 2, self.height - 8, self._titles[0], anchor="middle", kind="title")
        if self._titles[1]:
            self.words(self.left - 6, self.top - 12, self._titles[1], anchor="end", kind="title")

    def line(self, points: Sequence[Point], style: int, *, kind: str = "line") -> None:
        """A line through the points; one that is not finite is a gap."""
        path, is_down = [], False
        for point in points:
            if not all(map(math.isfinite, point)):
                is_down = False
                continue
            x, y = self.place(point)
            path.append(f"{'L' if is_down else 'M'}{x:.1f} {y:.1f}")
            is_down = True
        if path:
            pattern = _DASHES[_look(style) % len(_DASHES)]
            dash = f' stroke-dasharray="{pattern}"' if pattern and kind == "line" else ""
            self._parts.append(f'<path class="{kind} s{style % NUM_COLOURS}" d="{" ".join(path)}"{dash}/>')

    def band(self, low: Sequence[Point], high: Sequence[Point], style: int) -> None:
        """The area between two lines; left out where a point is not finite."""
        if low and all(math.isfinite(value) for point in (*low, *high) for value in point):
            corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.place, (*low, *reversed(high))))
            self._parts.append(f'<polygon class="band s{style % NUM_COLOURS}" points="{corners}"/>')

    def bar(self, start: Point, end: Point, style: int, *, name: str = "") -> None:
        """A filled rectangle between two corners."""
        (x1, y1), (x2, y2) = self.place(start), self.place(end)
        shape = f'x="{min(x1, x2):.1f}" y="{min(y1, y2):.1f}" width="{abs(x2 - x1):.1f}" height="{abs(y2 - y1):.1f}"'
        self._parts.append(f'<rect class="bar s{style % NUM_COLOURS}" {shape}><title>{_text(name)}</title></rect>')

    def across(self, value: float, name: str) -> None:
        """A vertical line over the whole height, with its name."""
        x, _ = self.place((value, self.y.low))
        self._line(x, self.top, x, self.bottom, "reference")
        is_right = x > (self.left + self.right) / 2  # where its name would not fit behind it
        self.words(x - 4 if is_right else x + 4, self.top - 6, name, anchor="end" if is_right else "start")

    def mark(self, point: Point, style: int, *, size: float = 4.5, name: str = "", is_round: bool = False) -> None:
        """A dot whose shape says the series, too, unless it is to be round."""
        if not all(map(math.isfinite, point)):
            return
        x, y = self.place(point)
        look, colour = 0 if is_round else _look(style) % 4, style % NUM_COLOURS
        inside = f"<title>{_text(name)}</title>" if name else ""
        if look == 0:
            shape = f'circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"'
        else:
            shape = f'polygon points="{" ".join(f"{x + size * a:.1f},{y + size * b:.1f}" for a, b in _CORNERS[look])}"'
        self._parts.append(f'<{shape} class="mark s{colour}">{inside}</{shape.partition(" ")[0]}>')

    def words(self, x: float, y: float, words: str, *, anchor: str = "start", kind: str = "words") -> None:
        """Text at a place of the picture."""
        self._parts.append(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_text(words)}</text>')

    def _line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._parts.append(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    @property
    def svg(self) -> str:
        shape = f'viewBox="0 0 {self.width} {self.height}" style="max-width:{self.width * 1.3:.0f}px"'
        head = f'<svg {shape} role="img" aria-label="{_text(self.title)}"><title>{_text(self.title)}</title>'
        return head + "".join(self._parts) + "</svg>"


def file_of(chart: Chart) -> str:
    """A chart as a file of its own, with the page's colours, light or dark as its reader likes it."""
    css = resources.files("distill.report").joinpath("report.css").read_text(encoding="utf-8")
    shape = f'<svg xmlns="http://www.w3.org/2000/svg" width="{chart.width}" height="{chart.height}" '
    ground = f'<style>{css}</style><rect class="ground" width="{chart.width}" height="{chart.height}"/>'
    return chart.svg.replace("<svg ", shape, 1).replace("</title>", f"</title>{ground}", 1) + "\n"


def _look(style: int) -> int:
    """Which dashes and which shape: in each further round of colours other ones."""
    return style + style // NUM_COLOURS


def key(names: Sequence[tuple[str, int]]) -> str:
    """Which look belongs to which name, as HTML above a chart."""
    items = []
    for name, style in names:
        sample = Chart(name, Range(0, 1), Range(0, 1), size=(52, 14), left=0)
        sample.right, sample.top, sample.bottom = 36, 0, 14
        sample.line([(0, 0.5), (1, 0.5)], style)
        sample.mark((0.5, 0.5), style, size=4)
        items.append(f"<li>{sample.svg.replace('<svg ', '<svg class={0}sample{0} '.format(chr(34)))}{_text(name)}</li>")
    return f'<ul class="key">{"".join(items)}</ul>'


def _text(words: str) -> str:
    return html.escape("".join(letter if letter.isprintable() else " " for letter in words))
