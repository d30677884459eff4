"""Opens the pictures that a recipe names."""

from __future__ import annotations

from distill.build.arguments import check_arguments
from distill.data.sources.base import DataSource
from distill.errors import DataError
from distill.recipe import Data
from distill.resolve import Catalogue


def open_source(data: Data, catalogue: Catalogue) -> DataSource:
    """Raises DataError if the pictures can't be used."""
    cls = catalogue.get("sources", data.source)
    arguments, _ = check_arguments(cls, data.arguments)
    source = cls(root=data.root, image_size=data.image_size, val_fraction=data.val_fraction, **arguments)
    source.check()
    if data.labels == "given" and not source.has_labels:
        raise DataError(f"the training pictures of {data.root} have no labels: sort them into a folder for each class, or set data.labels=none")
    return source
