"""From the parts that a data set comes with to train, val and test. What is missing is cut off, and the test part is never used to choose on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distill.data.sources.base import stratified_cut
from distill.errors import DataError


def three_parts(
    labels: Mapping[str, np.ndarray], val_fraction: float, class_names: Sequence[str], *, is_folders: bool = False
) -> tuple[dict[str, np.ndarray], str]:
    """({"train", "val", "test"} -> rows of the whole source, what was cut off in a sentence).

    labels: those of the parts that there are, "train" at least; rows are counted through the parts in their order. is_folders: whether
    the parts are folders, which the sentence then says.

    train, val and test    used as they are
    train and test         a stratified `val_fraction` of train is set aside as val
    train and val          the same, and val is the test part: on it nothing is chosen, as with ImageNet's
    train only             `val_fraction` of all is set aside as test, and as much again as val

    Raises DataError if a class has too few pictures to be cut.
    """
    starts = dict(zip(labels, np.cumsum([0, *(len(part) for part in labels.values())]), strict=False))
    rows = {name: starts[name] + np.arange(len(part)) for name, part in labels.items()}
    every, note = np.concatenate(list(labels.values())), ""
    val_name, train_name = ("the folder val/", "train/") if is_folders else ("the set's own val", "train")
    if "test" not in rows and "val" in rows:
        rows["test"] = rows.pop("val")
        note = f"test is {val_name}; val is {val_fraction:.0%} of {train_name}, set aside"
    elif "test" not in rows:
        if val_fraction >= 0.5:
            raise DataError(
                f"data.val_fraction={val_fraction} is set aside twice, as val and as test, and leaves nothing to train on; take less than 0.5"
            )
        kept, cut = stratified_cut(every[rows["train"]], val_fraction, class_names)
        rows["train"], rows["test"] = rows["train"][kept], rows["train"][cut]
        note = f"val and test are {val_fraction:.0%} of the pictures each, set aside"
        val_fraction /= 1 - val_fraction  # of what is left: as many pictures as were cut for test
    if "val" not in rows:
        kept, cut = stratified_cut(every[rows["train"]], val_fraction, class_names)
        rows["train"], rows["val"] = rows["train"][kept], rows["train"][cut]
        note = note or f"val is {val_fraction:.0%} of {train_name}, set aside"
    return rows, note


def parts_without_train_labels(
    labels: Mapping[str, np.ndarray], val_fraction: float, class_names: Sequence[str], *, is_folders: bool = False
) -> tuple[dict[str, np.ndarray], str]:
    """The same where train has no labels, -1 each, of which no val can be cut: val comes from the labelled part where there is only one.

    Raises DataError if a class has too few pictures to be cut.
    """
    starts = dict(zip(labels, np.cumsum([0, *(len(part) for part in labels.values())]), strict=False))
    rows = {name: starts[name] + np.arange(len(part)) for name, part in labels.items()}
    if "val" in rows and "test" in rows:
        return rows, "train has no labels"
    name = "val" if "val" in rows else "test"
    kept, cut = stratified_cut(labels[name], val_fraction, class_names)
    rows["test"], rows["val"] = starts[name] + kept, starts[name] + cut
    return rows, f"train has no labels; val is {val_fraction:.0%} of {name}{'/' if is_folders else ''}, set aside, and test the rest of it"
