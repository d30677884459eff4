"""Weight files: reading what other tools write without running their code, and writing ours whole or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from distill.errors import DataError
from distill.record import write_bytes

_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
_MAX_NESTING = 10  # dictionaries around the tensors; a file can also put one into itself
_MAX_UNPACKED = 10  # times the file's own size: torch.save does not compress, so this is a file made to fill the memory
_SIMPLE = re.compile(r"[\w./ -]+")
_NESTINGS = ("state_dict", "model_state_dict", "model", "student", "net", "ema", "state_dict_ema", "model_ema")
_CONVERT = (
    "If you trust where it comes from, convert it once:\n"
    "  python -c \"import torch; from safetensors.torch import save_file; c = torch.load('{path}', weights_only=False, map_location='cpu'); "
    "save_file({{k: v.contiguous() for k, v in c.get('state_dict', c.get('model', c)).items()}}, 'weights.safetensors')\""
)


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a checkpoint of torch.save, out of whatever dictionary they are wrapped in.

    Never runs code from the file. Raises DataError for a missing, damaged or foreign file and for one that wants to run code.
    """
    if not path.is_file():
        what = "a device, a pipe or a folder, not a file" if path.exists() else "there is no such file"
        raise DataError(f"weights {str(path)!r}: {what}")
    if path.suffix != ".safetensors" and path.suffix not in _PICKLED:
        raise DataError(f"weights {str(path)!r}: the ending {path.suffix!r} is unknown; .safetensors, {', '.join(_PICKLED)} are read")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _unwrap(read_pickled(path), path)
    for name in tensors:
        if _shown(name) != name:  # names are shown in messages, and a terminal obeys what is hidden in them
            raise DataError(f"weights {str(path)!r}: {_shown(name)} can't be the name of a tensor; save model.state_dict()")
    return tensors


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hexadecimal sha256 over names (sorted), dtypes, shapes and bytes: equal tensors give equal sums, whatever file or device they are on."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # as bytes: numpy has no bfloat16
    return digest.hexdigest()


def save_weights(state_dict: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the tensors to a .safetensors file. A reader sees the old file or the new one, never a half-written one."""
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state_dict.items()}
    # In memory first: safetensors' own writing does not say that a disk is full.
    write_bytes(Path(path), _same_bytes(save(tensors, metadata=dict(metadata or {}))))


def _same_bytes(content: bytes) -> bytes:
    """The file with its header's keys in alphabetical order: safetensors writes metadata in another order each time."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[start:]))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"weights {str(path)!r} is damaged, cut short or not a safetensors file: {error}") from error


def read_pickled(path: Path) -> Any:
    """What torch.save wrote into a file, as far as that is data. Raises DataError where it is more than data, or damaged."""
    try:
        _refuse_bomb(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles before it refuses them
            return torch.load(path, weights_only=True, map_location="cpu")
    except DataError:
        raise
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise DataError(f"weights {str(path)!r} is not a checkpoint that torch.save wrote, or it is damaged") from error
        # a stranger's file name, copied into a shell with the advice, must not become a command there
        convert = _CONVERT.format(path=path if _SIMPLE.fullmatch(str(path)) else "FILE")
        raise DataError(f"weights {str(path)!r} refused: the file wants to run code ({_shown(code[1])}). {convert}") from error
    # What torch.load raises for a damaged file depends on where the damage is: RuntimeError, OSError, EOFError, IndexError, KeyError, ...
    except Exception as error:
        if "weights_only" in str(error):
            raise DataError(
                f"weights {str(path)!r} refused: a TorchScript program, or torch's old .tar format, can't be read without running code; "
                "where the file comes from, save model.state_dict() instead"
            ) from error
        raise DataError(f"weights {str(path)!r} is damaged, cut short or not a checkpoint; copy or download it again") from error


def _refuse_bomb(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # by which torch.load knows its own archives too
            return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _MAX_UNPACKED * path.stat().st_size:
        raise DataError(
            f"weights {str(path)!r} refused: it would unpack to {unpacked:,} bytes, more than {_MAX_UNPACKED} times its size; "
            "a file that torch.save wrote is not compressed"
        )


def _unwrap(content: Any, path: Path, depth: int = 0) -> dict[str, Tensor]:
    """The dictionary of tensors inside a training checkpoint, such as {"epoch": 3, "state_dict": {...}}."""
    if not isinstance(content, Mapping):
        raise DataError(f"weights {str(path)!r} holds a {type(content).__name__}, not named tensors: save model.state_dict()")
    if depth > _MAX_NESTING:
        raise DataError(f"weights {str(path)!r} has its tensors in more than {_MAX_NESTING} dictionaries around each other: save model.state_dict()")
    for key in _NESTINGS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key], path, depth + 1)
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(_shown, list(content)[:10])) or "nothing"
        raise DataError(f"weights {str(path)!r} holds no tensors, only: {keys}. Looked inside: {', '.join(_NESTINGS)}")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.is_quantized:
            raise DataError(f"weights {str(path)!r}: {name!r} is no plain tensor, but sparse, nested, quantised or without values; save plain ones")
    return tensors


def _shown(name: Any) -> str:
    """A name out of a stranger's file as a message may show it: short, and without what would command a terminal."""
    text = str(name)[:200]
    return text if text.isprintable() else ascii(text)
