"""Decodes pictures: files from strangers, of many formats, into three channels of 8 bits."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distill.errors import DataError, RecipeError

DecoderName = Literal["auto", "pillow", "torchcodec"]

# Whatever a file is called, Pillow looks into it for any format that it knows, and runs Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# Pillow only warns of a picture of more than 89 million pixels; twice as many it refuses by itself.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# Damaged EXIF data does not make the pixels any worse.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

_ORIENTATION = 0x0112  # EXIF's tag, and what each of its values asks for
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What makes a PNG one for Pillow: an orientation, which may stand behind the pixels, or more than one picture.
_PNG_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp", b"acTL")
_PNG_BITS = 24  # the byte that says how many bits a value has
_TINY_JPEG_SIZE = (8, 8)


class Decoder:
    """Turns a picture's bytes into pixels, upright as its EXIF orientation says; a class, because worker processes may have to pickle it.

    "torchcodec" decodes JPEGs (grey and RGB) and 8-bit PNGs with torchcodec, and with Pillow all else and what has to be turned. Both names give the
    same pixels and refuse the same pictures: Pillow reads the header first, which limits formats and size, and has the last word on what torchcodec
    refuses.
    """

    def __init__(self, name: Literal["pillow", "torchcodec"]):
        """Raises RecipeError if torchcodec is asked for and can't decode here."""
        self.name, self.version = name, f"pillow {PIL.__version__}"
        if name == "torchcodec":
            if reason := _why_no_torchcodec():
                raise RecipeError(
                    f"data.arguments.decoder=torchcodec can't be used: {reason}; pip install 'torchcodec>=0.16', or take decoder=pillow"
                )
            self.version = f"torchcodec {metadata.version('torchcodec')}, {self.version}"

    def __call__(self, content: Path | bytes, name: str) -> Tensor:
        """[3, H, W] uint8. Raises DataError that names the picture if it can't be read."""
        try:
            if self.name == "torchcodec" and isinstance(content, Path):
                content = content.read_bytes()
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as picture:
                pixels = _by_torchcodec(picture, content) if self.name == "torchcodec" and isinstance(content, bytes) else None
                return _by_pillow(picture) if pixels is None else pixels
        except UnidentifiedImageError as error:
            raise DataError(f"can't read the picture {name}: it is none of {', '.join(FORMATS)}, or damaged; replace or remove the file") from error
        except Exception as error:  # each of Pillow's decoders has its own errors for damaged files, and not only those it documents
            raise DataError(f"can't read the picture {name}: {error or type(error).__name__}; replace or remove the file") from error


def pick_decoder(name: DecoderName = "auto") -> Decoder:
    """The decoder of this name; "auto" is torchcodec where it is installed and works, else Pillow. Raises RecipeError if this one can't be used."""
    if name == "auto":
        name = "pillow" if _why_no_torchcodec() else "torchcodec"
    return Decoder(name)


def _by_pillow(picture: Image.Image) -> Tensor:
    """[3, H, W] uint8."""
    rgb = _to_rgb(picture)
    turn = _UPRIGHT.get(_orientation(picture))  # after the pixels are read: a TIFF's orientation is then done and forgotten
    pixels = np.array(rgb if turn is None else rgb.transpose(turn))
    return torch.from_numpy(pixels).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]


def _by_torchcodec(picture: Image.Image, content: bytes) -> Tensor | None:
    """[3, H, W] uint8, or None if this picture is for Pillow."""
    is_png = picture.format == "PNG" and content[_PNG_BITS] <= 8 and not any(mark in content for mark in _PNG_MARKS)
    is_jpeg = picture.format == "JPEG" and picture.mode in ("L", "RGB") and _orientation(picture) not in _UPRIGHT
    if not (is_png or is_jpeg):
        return None
    try:
        pixels = _torchcodec()[picture.format](content)
    except (RuntimeError, ValueError):
        return None
    return pixels if pixels.shape == (3, picture.height, picture.width) else None


@functools.cache
def _torchcodec() -> Mapping[str, Callable[[bytes], Tensor]]:
    """Format -> function. Imported late: it is optional."""
    from torchcodec.decoders import decode_jpeg, decode_png

    return {"JPEG": decode_jpeg, "PNG": decode_png}


@functools.cache
def _why_no_torchcodec() -> str:
    """What keeps torchcodec from decoding here, empty where it does: it may be there without a library that it needs."""
    tiny = io.BytesIO()
    Image.new("RGB", _TINY_JPEG_SIZE, (255, 0, 0)).save(tiny, "JPEG")
    try:
        is_decoded = _torchcodec()["JPEG"](tiny.getvalue()).shape == (3, *_TINY_JPEG_SIZE)
    except Exception as error:  # ImportError, OSError of a library, RuntimeError of an operation
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if is_decoded else "it decodes a small JPEG to another shape"


def _orientation(picture: Image.Image) -> int:
    """EXIF's number for how the picture lies; 1, upright, where nothing readable is said."""
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # the parser's errors for damaged data are many
        return 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in three channels of 8 bits, transparency dropped. Raises ValueError if its values have no fixed range."""
    if picture.mode.startswith("I;16"):  # Pillow would turn every value above 255 into white
        return Image.fromarray((np.array(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"it has 32-bit values (mode {picture.mode}), of which none is known to be white; save it with 8 bits")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow warns on the direct way, for every picture
    return picture.convert("RGB")
