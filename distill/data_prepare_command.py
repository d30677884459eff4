"""`distill data prepare FOLDER`: packs a folder's pictures into one file. Says first what that takes, and at the end which pictures can't be read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from rich.console import Console

from distill.build.notes import size_in_words
from distill.data.decoding import DecoderName, pick_decoder
from distill.data.packing.file import FILLED, LEFT_OUT, read_packed_file
from distill.data.packing.fill import is_packed_already, only_packer, pack
from distill.data.packing.plan import Plan, list_pictures, make_plan, settings_for
from distill.data.packing.start import begin, discard_damaged, missing_bytes, partial_path
from distill.data.processes import usual_workers
from distill.errors import DataError
from distill.report.console import make_console, printable
from distill.report.count_progress import CountProgress


def prepare(
    folder: str,
    *,
    size: int,
    square: bool = False,
    output: str | None = None,
    workers: int | None = None,
    decoder: DecoderName = "auto",
    on_bad_image: Literal["error", "skip"] = "error",
) -> None:
    """Prints where the file is. Raises DataError if the folder, a picture or the file's place can't be used, RecipeError if the decoder can't."""
    root, decode = Path(folder).expanduser(), pick_decoder(decoder)
    target = Path(output).expanduser() if output else _usual_target(root, size, square)
    if target.is_dir():
        raise DataError(f"{target} is a folder; name the file in it: -o {target / _usual_target(root, size, square).name}")
    listing = list_pictures(root)
    if workers is None:
        workers = usual_workers(len(listing))
    console = make_console(is_main=True)
    with only_packer(target):
        if not is_packed_already(listing, settings_for(size, square, decode), target):
            with CountProgress(console, "sizes", len(listing)) as progress:
                plan = make_plan(listing, size, square=square, decoder=decode, workers=workers, progress=progress)
            num_missing = _begin(plan, target, console)
            try:
                with CountProgress(console, "packing", num_missing) as progress:
                    bad = pack(plan, target, workers=workers, on_bad_image=on_bad_image, progress=progress)
            except KeyboardInterrupt:
                _say(console, "what was packed is kept, and the same command goes on")
                raise
            _name_bad(bad, len(listing), target, console, is_error=on_bad_image == "error")
    _print_result(target)


def _usual_target(root: Path, size: int, square: bool) -> Path:
    """In the folder where one is."""
    return Path(f"{root.resolve().name}-{size}{'-square' if square else ''}.safetensors")


def _begin(plan: Plan, target: Path, console: Console) -> int:
    """Says what it takes, and makes room for it; returns how many pictures are to be packed. Raises DataError if there is too little room."""
    num, needed, lacking = len(plan.listing), plan.layout.num_bytes, missing_bytes(plan, target)
    free = shutil.disk_usage(target.parent).free
    room = f"{size_in_words(needed)} in {target}; the disk has {size_in_words(free)} free"
    if lacking:
        raise DataError(
            f"{num:,} pictures would take {room}: {size_in_words(lacking)} too little; make room, take a smaller --size, or another -o FILE"
        )
    _say(console, f"{num:,} pictures of {len(plan.layout.class_names):,} classes will take {room}")
    num_done = begin(plan, target)
    if num_done:
        _say(console, f"going on with a file that has {num_done:,} of them")
        with CountProgress(console, "checking", num) as progress:
            num_damaged = discard_damaged(target, progress)
        if num_damaged:
            _say(console, f"{num_damaged:,} of these are not as they were packed, and are packed again: is the disk sound?")
    return int((read_packed_file(partial_path(target)).filled != FILLED).sum()) - len(plan.bad)


def _name_bad(bad: dict[int, str], num: int, target: Path, console: Console, *, is_error: bool) -> None:
    """Raises DataError with all of them if they keep the file from being finished."""
    if not bad:
        return
    lines = "\n  ".join(bad[row] for row in sorted(bad))
    found = f"{len(bad):,} of {num:,} pictures can't be read"
    if is_error:
        raise DataError(
            f"{found}, and {target} is not finished; mend or remove them and give the same command again, which keeps what is packed, or leave them "
            f"out with --on-bad-image skip:\n  {lines}"
        )
    _say(console, f"{found}, and are left out:\n  {lines}")


def _print_result(target: Path) -> None:
    packed = read_packed_file(target)
    num_left_out = int((packed.filled == LEFT_OUT).sum())
    left_out = f" ({num_left_out:,} that can't be read are left out)" if num_left_out else ""
    num, layout = len(packed.filled) - num_left_out, packed.layout
    print(printable(f"{target}: {num:,} pictures of {len(layout.class_names):,} classes, {size_in_words(layout.num_bytes)}{left_out}"))
    print(printable(f"train on it with data.source=packed data.root={target}"))


def _say(console: Console, text: str) -> None:
    console.print(printable(text), soft_wrap=True)
