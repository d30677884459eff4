"""What can be said of one picture file: how it differs from a plain photograph, and what its pixels are. Files are not trusted."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from distill.data.decoding import FORMATS, Decoder
from distill.errors import DataError

SMALL = 32  # pixels: a short side of less is called very small

_ORIENTATION, _UPRIGHT = 0x0112, 1
_FORMAT_OF = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
_SAME_FORMAT = {"MPO": "JPEG"}  # a JPEG with a second picture behind the first


class PictureFacts(NamedTuple):
    """traits: of "greyscale", "cmyk", "deep", "transparent", "misnamed", "turned", "animated" and "small" those that it has; of a file that can't be
    read one word on why: "truncated" or "broken"."""

    path: Path
    traits: tuple[str, ...]
    problem: str = ""  # the decoder's message, where it can't be read
    content: bytes = b""  # equal for equal pixels


def look_at(decoder: Decoder, paths: list[Path]) -> list[PictureFacts]:
    """What is true of each of these files, decoded once. Raises nothing for a bad one."""
    return [_look_at_one(decoder, path) for path in paths]


def _look_at_one(decoder: Decoder, path: Path) -> PictureFacts:
    traits: list[str] = []
    # Pillow's readers raise whatever they like; whether the picture is any good the decoder decides
    with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as picture:
        traits += _traits(picture, path)
    try:
        pixels = decoder(path, str(path))
    except DataError as error:
        return PictureFacts(path, ("truncated" if "truncated" in str(error) else "broken",), problem=str(error))
    if min(pixels.shape[1:]) < SMALL:
        traits.append("small")
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    digest.update(pixels.permute(1, 2, 0).contiguous().numpy().data)
    return PictureFacts(path, tuple(traits), content=digest.digest())


def _traits(picture: Image.Image, path: Path) -> Iterator[str]:
    """From the header, those that can raise an error last."""
    if picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I;16"):
        yield "greyscale"
    if picture.mode == "CMYK":
        yield "cmyk"
    if picture.mode.startswith("I;16") or ";16" in repr(getattr(picture, "tile", "")):  # of colours Pillow keeps 8 bits, and says so only there
        yield "deep"
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        yield "transparent"
    if _SAME_FORMAT.get(picture.format or "", picture.format) != _FORMAT_OF.get(path.suffix.lower()):
        yield "misnamed"
    # A PNG's own getexif would decode all of it first
    if Image.Image.getexif(picture).get(_ORIENTATION, _UPRIGHT) in range(2, 9):
        yield "turned"
    if getattr(picture, "is_animated", False):
        yield "animated"
