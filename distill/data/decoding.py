"""Decodes pictures: files from strangers, of many formats, into three channels of 8 bits."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distill.errors import DataError

# Whatever a file is called, Pillow looks into it for any format that it knows, and runs Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
# Pillow only warns of a picture of more than 89 million pixels; twice as many it refuses by itself.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class Decoder:
    """Turns a picture's bytes into pixels; a class, because worker processes may have to pickle it."""

    def __init__(self, name: str):
        self.name, self.version = name, f"pillow {PIL.__version__}"

    def __call__(self, content: Path | bytes, name: str) -> Tensor:
        """[3, H, W] uint8. Raises DataError that names the picture if it can't be read."""
        try:
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=FORMATS) as picture:
                pixels = np.array(_to_rgb(picture))
        except UnidentifiedImageError as error:
            raise DataError(f"can't read the picture {name}: it is none of {', '.join(FORMATS)}, or damaged; replace or remove the file") from error
        except Exception as error:  # each of Pillow's decoders has its own errors for damaged files, and not only those it documents
            raise DataError(f"can't read the picture {name}: {error or type(error).__name__}; replace or remove the file") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]


def pick_decoder(name: Literal["auto", "pillow", "torchcodec"]) -> Decoder:
    """The decoder of this name."""
    return Decoder("pillow")


def _to_rgb(picture: Image.Image) -> Image.Image:
    """The picture in three channels of 8 bits, transparency dropped. Raises ValueError if its values have no fixed range."""
    if picture.mode.startswith("I;16"):  # Pillow would turn every value above 255 into white
        return Image.fromarray((np.array(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError(f"it has 32-bit values (mode {picture.mode}), of which none is known to be white; save it with 8 bits")
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # Pillow warns on the direct way, for every picture
    return picture.convert("RGB")
