"""Both decoders give the same pixels, refuse the same pictures, and turn pictures upright; what is picked where torchcodec does not work."""

import io
import pickle
import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps

from distill.data import decoding
from distill.data.decoding import Decoder, pick_decoder
from distill.errors import DataError, RecipeError

HAS_TORCHCODEC = not decoding._why_no_torchcodec()
NAMES = [
    "pillow",
    pytest.param("torchcodec", marks=pytest.mark.skipif(not HAS_TORCHCODEC, reason="torchcodec is optional, and does not work here")),
]
needs_torchcodec = pytest.mark.skipif(not HAS_TORCHCODEC, reason="torchcodec is optional, and does not work here")

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (13, 21, 3), dtype=np.uint8))
SMOOTH = NOISE.resize((170, 110), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_of_16_bits(values: np.ndarray) -> bytes:
    """values [H, W, 3] uint16; written here because Pillow writes grey ones only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def as_pillow_shows(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


UPRIGHT = {
    "jpeg": encoded(SMOOTH, "JPEG", quality=80),
    "jpeg without subsampling": encoded(SMOOTH, "JPEG", quality=95, subsampling=0),
    "progressive jpeg": encoded(SMOOTH, "JPEG", progressive=True),
    "grey jpeg": encoded(SMOOTH.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(SMOOTH.convert("CMYK"), "JPEG"),
    "jpeg that says that it lies upright": encoded(SMOOTH, "JPEG", exif=turned(1)),
    "jpeg with an orientation that is none": encoded(SMOOTH, "JPEG", exif=turned(9)),
    "jpeg with damaged exif": encoded(SMOOTH, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03"),
    "png": encoded(SMOOTH, "PNG"),
    "grey png": encoded(SMOOTH.convert("L"), "PNG"),
    "bits": encoded(SMOOTH.convert("1"), "PNG"),
    "transparent png": encoded(SMOOTH.convert("RGBA"), "PNG"),
    "palette": encoded(SMOOTH.quantize(8), "PNG"),
    "16-bit png": png_of_16_bits(np.random.default_rng(1).integers(0, 2**16, (5, 7, 3))),
    "webp": encoded(SMOOTH, "WEBP"),
    "gif": encoded(SMOOTH.quantize(8), "GIF"),
    "bmp": encoded(SMOOTH, "BMP"),
    "animated gif": encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(180)], duration=10),
    "animated png": encoded(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(180)], duration=10),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow; the module passes over it, but here warnings are set anew for each test
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", UPRIGHT)
def test_upright_picture_has_the_pixels_that_pillow_shows(name, case):
    pixels = Decoder(name)(UPRIGHT[case], "a")
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, as_pillow_shows(UPRIGHT[case]))


@pytest.mark.parametrize("name", NAMES)
def test_grey_picture_of_16_bits_keeps_its_high_bytes(name):
    content = encoded(Image.fromarray(np.array([[0x0000, 0x00FF], [0x0180, 0xFFFF]], dtype=np.uint16)), "PNG")
    assert Decoder(name)(content, "a").tolist() == [[[0, 0], [1, 255]]] * 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind, options", [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_turned_upright(name, kind, options, orientation):
    content = encoded(SMOOTH, kind, exif=turned(orientation), **options)
    with Image.open(io.BytesIO(content)) as picture:
        expected = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    assert expected.shape == ((170, 110, 3) if orientation > 4 else (110, 170, 3))
    assert torch.equal(Decoder(name)(content, "a"), torch.from_numpy(expected).permute(2, 0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_camera_on_its_side_is_turned_clockwise(name):
    # Orientation 6: the first row is the right side, the first column the top (EXIF 2.3, table 6).
    picture = Image.fromarray(np.array([[[1] * 3, [2] * 3, [3] * 3], [[4] * 3, [5] * 3, [6] * 3]], dtype=np.uint8))
    assert Decoder(name)(encoded(picture, "PNG", exif=turned(6)), "a")[0].tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize("name", NAMES)
def test_path_and_bytes_give_the_same(name, tmp_path):
    (tmp_path / "a.jpg").write_bytes(UPRIGHT["jpeg"])
    assert torch.equal(Decoder(name)(tmp_path / "a.jpg", "a"), Decoder(name)(UPRIGHT["jpeg"], "a"))


JPEG, PNG = UPRIGHT["jpeg"], UPRIGHT["png"]
BAD = {
    "empty": (b"", "it is none of JPEG, PNG"),
    "text": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is none of JPEG, PNG"),
    "jpeg cut short": (JPEG[: len(JPEG) // 2], "truncated"),
    "png cut short": (PNG[: len(PNG) // 2], "truncated"),
    "png with a wrong checksum": (PNG[:40] + b"xx" + PNG[42:], "can't read"),
    "floats": (encoded(Image.fromarray(np.zeros((8, 8), dtype=np.float32)), "TIFF"), "32-bit values"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", BAD)
def test_bad_picture_is_named(name, case):
    content, part = BAD[case]
    with pytest.raises(DataError, match=r"^can't read the picture shard\.tar: 7\.jpg: .*; replace or remove the file$") as caught:
        Decoder(name)(content, "shard.tar: 7.jpg")
    assert part in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_missing_file_is_named(name, tmp_path):
    with pytest.raises(DataError, match=r"can't read the picture a\.png: .*No such file"):
        Decoder(name)(tmp_path / "a.png", "a.png")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["jpeg", "png"])
def test_picture_of_too_many_pixels_is_refused_before_it_is_decoded(name, case, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 110 * 170 - 1)
    monkeypatch.setattr(decoding, "_by_torchcodec", None)
    with pytest.raises(DataError, match="decompression bomb"):
        Decoder(name)(UPRIGHT[case], "a")


@needs_torchcodec
@pytest.mark.parametrize("case", ["jpeg", "grey jpeg", "png", "palette", "jpeg that says that it lies upright"])
def test_torchcodec_does_decode_what_is_said(case, monkeypatch):
    monkeypatch.setattr(decoding, "_by_pillow", None)
    assert Decoder("torchcodec")(UPRIGHT[case], "a").shape == (3, 110, 170)


@needs_torchcodec
def test_damage_anywhere_is_judged_alike_by_both():
    dice, num_refused = np.random.default_rng(0), 0
    for index in range(300):
        data = bytearray(encoded(NOISE, "JPEG") if index % 2 else encoded(NOISE, "PNG"))
        for place in dice.integers(0, len(data), 3):
            data[place] = dice.integers(256)
        answers = []
        for name in ("pillow", "torchcodec"):
            try:
                answers.append(Decoder(name)(bytes(data), "a").shape)
            except DataError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]
        num_refused += isinstance(answers[0], str)
    assert 0 < num_refused < 300


def test_versions_are_those_installed():
    assert Decoder("pillow").version == f"pillow {PIL.__version__}"


@needs_torchcodec
def test_torchcodec_is_taken_where_it_works():
    decoder = pick_decoder()
    assert decoder.name == "torchcodec"
    assert decoder.version.startswith("torchcodec 0.")
    assert decoder.version.endswith(f", pillow {PIL.__version__}")


@pytest.fixture
def torchcodec_is(monkeypatch):
    """Puts a module in torchcodec's place."""

    def put(module):
        for cached in (decoding._torchcodec, decoding._why_no_torchcodec):
            cached.cache_clear()
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)

    yield put
    monkeypatch.undo()
    for cached in (decoding._torchcodec, decoding._why_no_torchcodec):
        cached.cache_clear()


def lacks_a_library(content):
    raise OSError("libjpeg.so.62: cannot open shared object file")


BROKEN = {
    "not installed": (None, "ModuleNotFoundError|ImportError"),
    "of a time before pictures": (types.SimpleNamespace(), "ImportError: cannot import name 'decode_jpeg'"),
    "without a library": (types.SimpleNamespace(decode_jpeg=lacks_a_library, decode_png=None), "OSError: libjpeg"),
    "odd": (types.SimpleNamespace(decode_jpeg=lambda content: torch.zeros(1), decode_png=None), "it decodes a small JPEG to another shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_pillow_is_taken_where_torchcodec_does_not_work(case, torchcodec_is):
    module, reason = BROKEN[case]
    torchcodec_is(module)
    assert pick_decoder("auto").name == "pillow"
    with pytest.raises(RecipeError, match=rf"decoder=torchcodec can't be used: ({reason}).*pip install 'torchcodec>=0\.16'.*decoder=pillow"):
        pick_decoder("torchcodec")


@pytest.mark.parametrize("name", NAMES)
def test_decoder_travels_to_another_process(name):
    decoder = pickle.loads(pickle.dumps(pick_decoder(name)))
    assert (decoder.name, decoder.version) == (name, pick_decoder(name).version)
    assert torch.equal(decoder(UPRIGHT["jpeg"], "a"), as_pillow_shows(UPRIGHT["jpeg"]))


def test_no_decoder_reads_a_pipe_or_follows_a_name(tmp_path: Path):
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(DataError, match="can't read the picture folder"):
        Decoder("pillow")(tmp_path / "a.jpg", "folder")
