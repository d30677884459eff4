"""The pictures of a report on which a student and its teacher name different classes, as they are put into the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from distill import record
from distill.errors import DataError
from distill.report.comparison import Comparison
from distill.report.runs import Run, read_arrays

_COLUMNS = ("kind", "confidence", "label", "student", "teacher", "picture")
_MOST = 24


@dataclass(frozen=True)
class Picture:
    """source: a data address with the picture in it. side: pixels that it is shown with."""

    source: str
    side: int
    label: str
    student: str
    teacher: str
    confidence: float  # the student's, in its answer


@dataclass(frozen=True)
class DifferingPictures:
    """Of one run."""

    run: Run
    pictures: list[Picture]


def differing_pictures(comparison: Comparison) -> DifferingPictures | None:
    """Of the first run of the best student that has any; None where none has."""
    for row in sorted(comparison.rows, key=lambda row: -row.top1.mean):
        for run in row.student.runs:
            if (run.path / record.PICTURES_FILE).is_file():
                return DifferingPictures(run, _pictures(run))
    return None


def _pictures(run: Run) -> list[Picture]:
    """Raises DataError for a file that no run wrote."""
    path = run.path / record.PICTURES_FILE
    columns = read_arrays(path, _COLUMNS)
    pixels, num = columns["picture"], len(columns["label"])
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != np.uint8 or any(len(columns[name]) != num for name in _COLUMNS):
        raise DataError(f"{path} is damaged; remove it, and the report is made without its pictures")
    names = run.class_names
    return [
        Picture(
            _address(pixels[row]),
            max(64, min(128, pixels.shape[-1])),
            _name(names, columns["label"][row]),
            _name(names, columns["student"][row]),
            _name(names, columns["teacher"][row]),
            confidence=float(columns["confidence"][row]),
        )
        for row in range(min(num, _MOST))
    ]


def _address(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _name(names: list[str], label: np.integer) -> str:
    return names[label] if 0 <= label < len(names) else str(int(label))
