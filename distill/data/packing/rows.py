"""What worker processes do to pack pictures: read a picture's size, or decode, resize and write one into its place. Files are not trusted."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image
from torch import Tensor

from distill.data.decoding import FORMATS, Decoder
from distill.data.resizing import plain_view
from distill.errors import DataError

_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF's tag, and those of its values that exchange height and width
_PNG_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # where a PNG may have it


class Job(NamedTuple):
    """The same for all pictures."""

    target: Path  # the packed file
    pixels_start: int  # bytes before its first pixel
    decoder: Decoder
    square: bool


class Row(NamedTuple):
    """One picture."""

    row: int
    path: Path
    offset: int  # in the packed file's pixels
    height: int  # as packed
    width: int
    full_height: int  # as its file's header says
    full_width: int


def resize_name(square: bool) -> str:
    """What resizes, and its version where its results may depend on it."""
    return "exact" if square else f"pillow {PIL.__version__} bilinear"


def packed_size(height: int, width: int, size: int, square: bool) -> tuple[int, int]:
    """(height, width) as packed: the short side is `size`, or as it was if that is less."""
    short = min(height, width)
    side = min(size, short)
    if square:
        return side, side
    return max(1, round(height * side / short)), max(1, round(width * side / short))


def header_sizes(rows: list[tuple[int, Path]]) -> list[tuple[int, tuple[int, int] | str]]:
    """(row, (height, width)) of each picture after it was turned as its EXIF says, or why it can't be read. Decodes nothing."""
    return [(row, _header_size(path)) for row, path in rows]


def _header_size(path: Path) -> tuple[int, int] | str:
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            return (width, height) if _lies_on_its_side(picture, path) else (height, width)
    except Exception as error:  # each of Pillow's decoders has its own errors for damaged files
        reason = "unknown format or damaged" if isinstance(error, PIL.UnidentifiedImageError) else error or type(error).__name__
        return f"can't read the picture {path}: {reason}; replace or remove the file"


def _lies_on_its_side(picture: Image.Image, path: Path) -> bool:
    """Whether the decoder will turn it by a quarter."""
    if picture.format == "TIFF":  # its size is that of the turned picture already
        return False
    if picture.format == "PNG" and not any(mark in path.read_bytes() for mark in _PNG_MARKS):
        return False  # Pillow would decode all of it, because its orientation may stand behind the pixels
    try:
        return picture.getexif().get(_ORIENTATION) in _ON_ITS_SIDE
    except Exception:  # of damaged data the decoder takes no notice either
        return False


def pack_rows(job: Job, rows: list[Row]) -> list[tuple[int, int | str]]:
    """(row, the CRC-32 of its pixels, which are now in the file, or else why its picture can't be read) for each.

    Raises OSError if the file can't be written.
    """
    number = os.open(job.target, os.O_WRONLY)
    try:
        return [(row.row, _pack_row(job, row, number)) for row in rows]
    finally:
        os.close(number)


def _pack_row(job: Job, row: Row, number: int) -> int | str:
    try:
        picture = job.decoder(row.path, str(row.path))
        if picture.shape[1:] != (row.full_height, row.full_width):
            height, width = picture.shape[1:]
            raise DataError(
                f"can't use the picture {row.path}: its header says {row.full_width} x {row.full_height} pixels, decoded it has {width} x {height}; "
                "save it again with another program"
            )
    except DataError as error:
        return str(error)
    pixels = resize(picture, row.height, row.width, square=job.square)
    write_all(number, pixels, job.pixels_start + row.offset)
    return zlib.crc32(pixels.data)


def resize(picture: Tensor, height: int, width: int, *, square: bool) -> np.ndarray:
    """[3, H, W] uint8 -> [height, width, 3] uint8, never enlarged.

    Of a square the result is the loader's own plain view, bit for bit. Otherwise Pillow's bilinear resize is used, the same antialiasing triangle
    in whole numbers; it is several times as fast for large photographs, because it has no products with zeros.
    """
    if square:
        return np.ascontiguousarray(plain_view(picture[None], height)[0].permute(1, 2, 0).numpy())
    pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def write_all(number: int, content: np.ndarray | bytes, place: int) -> None:
    """Writes at a place of an open file. Not through a memory map, where a disk that is full would end the process without a word."""
    rest = memoryview(content if isinstance(content, bytes) else content.data).cast("B")
    while rest:
        written = os.pwrite(number, rest, place)
        rest, place = rest[written:], place + written


def as_picture(pixels: Tensor, height: int, width: int) -> Tensor:
    """A row's pixels, flat, as a view [3, H, W]."""
    return pixels.view(height, width, 3).permute(2, 0, 1)
