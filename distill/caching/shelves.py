"""`distill cache info` and `distill cache clear`: which caches there are on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from distill.build.notes import size_in_words
from distill.engine.cache_files import MANIFEST
from distill.errors import DataError, RecipeError
from distill.places import cache_folder
from distill.record import read_json


@dataclass(frozen=True)
class Shelf:
    """One cache, as its folder says."""

    folder: str
    teacher: str
    num_pictures: int
    bytes_an_answer: int
    num_views: int
    num_bytes: int  # of all files
    last_used: str  # when a file was last written


def info(folders: Sequence[str], *, as_json: bool = False) -> None:
    """Prints what is in these folders, or in distill's own place. Raises DataError for one that is no cache."""
    shelves = [_shelf(path) for path in _paths(folders)]
    if as_json:
        print(json.dumps([asdict(shelf) for shelf in shelves], indent=2))
        return
    console = Console(highlight=False)
    if not shelves:
        console.print(f"no teacher cache is there ({cache_folder('answers')})")
        return
    for shelf in shelves:
        console.print(shelf.folder, style="bold", soft_wrap=True)
        what = f"{shelf.teacher}, {shelf.num_pictures:,} pictures, {shelf.num_views} view(s), {shelf.bytes_an_answer} bytes an answer"
        console.print(f"  {what}, {size_in_words(shelf.num_bytes)}, last written {shelf.last_used}", soft_wrap=True)


def clear(folders: Sequence[str], *, all_of_them: bool) -> None:
    """Removes caches; a job that is using one goes on with the files that it has open. Raises RecipeError if none is named, DataError for others."""
    if not folders and not all_of_them:
        raise RecipeError("which cache? name folders (distill cache info lists them), or say --all")
    shelves = [_shelf(path) for path in _paths(folders)]
    for shelf in shelves:
        shutil.rmtree(shelf.folder)
        print(f"removed {shelf.folder} ({size_in_words(shelf.num_bytes)})")
    if not shelves:
        print("no teacher cache is there")


def _paths(folders: Sequence[str]) -> Iterator[Path]:
    if folders:
        yield from (Path(folder).expanduser() for folder in folders)
    elif (place := cache_folder("answers")).is_dir():
        yield from (path for path in sorted(place.iterdir()) if (path / MANIFEST).is_file())


def _shelf(path: Path) -> Shelf:
    manifest: dict[str, Any] = read_json(path / MANIFEST)
    identity = manifest.get("identity")
    if not isinstance(identity, dict) or not isinstance(manifest.get("num_rows"), int) or not isinstance(manifest.get("row_bytes"), int):
        raise DataError(f"{path} is no teacher cache: it has no {MANIFEST} that one writes")
    views = list(path.glob("view_*.safetensors"))
    newest = max(file.stat().st_mtime for file in (path / MANIFEST, *views))
    return Shelf(
        str(path),
        str(identity.get("teacher's model")),
        manifest["num_rows"],
        manifest["row_bytes"],
        len(views),
        sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        datetime.fromtimestamp(newest).strftime("%Y-%m-%d %H:%M"),
    )
