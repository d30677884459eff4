"""config.json of an export: read as it was written, and nothing in it is trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.errors import DataError
from distill.handover.config import Config, is_export, read_config

CONFIG = Config("resnet18", "batch", "imagenet", {"width_per_group": 64}, 32, (0.5, 0.25, 0.125), (1.0, 2.0, 3.0), ["cat", "dog"], "timm", "a.bin")


def test_what_is_written_is_read():
    CONFIG.write(Path())
    assert is_export(Path())
    assert read_config(Path()) == CONFIG


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda found: found.pop("label_names"), "'label_names' is missing"),
        (lambda found: found.update(label_names=["cat"]), "at least two classes"),
        (lambda found: found.update(label_names=["cat", 3]), "3 is no text"),
        (lambda found: found.update(file="../../etc/passwd"), "no name of a file beside it"),
        (lambda found: found.update(file=""), "no name of a file beside it"),
        (lambda found: found["preprocessing"].update(image_size=10**9), "no number of pixels"),
        (lambda found: found["preprocessing"].update(image_size=True), "no number of pixels"),
        (lambda found: found["preprocessing"].update(std=[1, 1, 0]), "three numbers each"),
        (lambda found: found["preprocessing"].update(mean=[1, 1]), "three numbers each"),
        (lambda found: found["preprocessing"].update(mean="abc"), "is not one that distill export wrote"),
        (lambda found: found.update(model=None), "is not one that distill export wrote"),
    ],
)
def test_what_a_stranger_has_changed_is_refused_by_name(change, message):
    CONFIG.write(Path())
    found = json.loads(Path("config.json").read_text())
    change(found)
    Path("config.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match=message):
        read_config(Path())


def test_other_folders_are_no_exports():
    assert not is_export(Path())
    Path("config.json").write_text('{"architecture": "resnet18"}')
    assert not is_export(Path())
