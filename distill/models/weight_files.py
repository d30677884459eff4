"""Weight files: reading what other tools write without running their code, and writing ours whole or not at all."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill.errors import DataError

_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")
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
        raise DataError(f"weights {str(path)!r}: there is no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in _PICKLED:
        raise DataError(f"weights {str(path)!r}: the ending {path.suffix!r} is unknown; .safetensors, {', '.join(_PICKLED)} are read")
    return _unwrap(_read_pickled(path), path)


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
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())  # as bytes: numpy has no bfloat16
    return digest.hexdigest()


def save_weights(state_dict: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the tensors to a .safetensors file. A reader sees the old file or the new one, never a half-written one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # Copies: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state_dict.items()}
    try:
        save_file(tensors, temporary, metadata=dict(metadata or {}))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"weights {str(path)!r} is damaged, cut short or not a safetensors file: {error}") from error


def _read_pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles before it refuses them
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise DataError(f"weights {str(path)!r} is not a checkpoint that torch.save wrote, or it is damaged") from error
        convert = _CONVERT.format(path=path)
        raise DataError(f"weights {str(path)!r} refused: the file wants to run code ({code[1]}). {convert}") from error
    # What torch.load raises for a damaged file depends on where the damage is: RuntimeError, OSError, EOFError, IndexError, KeyError, ...
    except Exception as error:
        raise DataError(f"weights {str(path)!r} is damaged, cut short or not a checkpoint; copy or download it again") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors inside a training checkpoint, such as {"epoch": 3, "state_dict": {...}}."""
    if not isinstance(content, Mapping):
        raise DataError(f"weights {str(path)!r} holds a {type(content).__name__}, not named tensors: save model.state_dict()")
    for key in _NESTINGS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(content[key], path)
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:10])) or "nothing"
        raise DataError(f"weights {str(path)!r} holds no tensors, only: {keys}. Looked inside: {', '.join(_NESTINGS)}")
    return tensors
