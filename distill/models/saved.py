"""Networks that somebody has saved in timm's way, as config.json and weights in a folder: on the Hugging Face hub (hf-hub:) or here (local-dir:)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from distill.errors import DataError, RecipeError

HUB, LOCAL = "hf-hub:", "local-dir:"
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def is_saved(name: str) -> bool:
    """Whether a model's or weights' name is of this kind."""
    return name.startswith((HUB, LOCAL))


def what_is_wrong(name: str) -> str | None:
    """The sentence that says why a name can't be one; None if it may be. Asks no network."""
    if name.startswith(HUB):
        organisation, _, rest = name.removeprefix(HUB).partition("/")
        is_right = organisation and rest.partition("@")[0] and "/" not in rest
        return (
            None if is_right else f"model {name!r}: write hf-hub:ORGANISATION/NAME, such as hf-hub:timm/resnet50.a1_in1k, with @REVISION if need be"
        )
    try:
        read_config(name)
    except (RecipeError, DataError) as error:
        return str(error)
    return None


def read_config(name: str) -> dict[str, Any]:
    """The network's config.json: "architecture", "num_classes", "pretrained_cfg", "label_names"; fetched first, if it is on the hub.

    Raises RecipeError if there is none, DataError if it can't be had or read.
    """
    path = _file(name, "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"model {name!r}: {path} can't be read ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise DataError(f"model {name!r}: its config.json names no 'architecture', so it is not a network that timm has saved")
    import timm  # takes seconds

    if not timm.is_model(config["architecture"]):
        raise DataError(f"model {name!r}: timm {timm.__version__} has no architecture {config['architecture']!r}; a newer one may have it")
    return config if "pretrained_cfg" in config else config | {"pretrained_cfg": config}  # older files are flat


def as_timm(name: str) -> tuple[str, dict[str, Any]]:
    """(timm/ARCHITECTURE, the arguments that it was built with): the same network by a name that needs neither the folder nor the hub."""
    config = read_config(name)
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if key not in ("num_classes", "in_chans")}
    return f"timm/{config['architecture']}", arguments


def folder_of(name: str) -> Path:
    """Where config.json is, once it is here."""
    return _file(name, "config.json").parent


def weight_file(name: str) -> Path:
    """The file with the weights, fetched first if it is on the hub. Raises DataError."""
    if name.startswith(LOCAL):
        found = [path for file in _WEIGHT_FILES if (path := _file(name, "config.json").parent / file).is_file()]
        if not found:
            raise DataError(f"weights {name!r}: the folder has neither {' nor '.join(_WEIGHT_FILES)}")
        return found[0]
    try:
        return _file(name, _WEIGHT_FILES[0])
    except FileNotFoundError:
        return _file(name, _WEIGHT_FILES[1])


def _file(name: str, file: str) -> Path:
    if name.startswith(HUB):
        return _fetch(name, file)
    folder = Path(name.removeprefix(LOCAL)).expanduser()
    if not (folder / file).is_file():
        what = f"has no {file}; timm's save_for_hf and distill export --to timm write one" if folder.is_dir() else "is not there"
        raise RecipeError(f"model {name!r}: the folder {what}")
    return folder / file


def _fetch(name: str, file: str) -> Path:
    """From the cache or the hub. Raises FileNotFoundError if the hub has the network but not this file of weights."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub import errors as hub

    repository, _, revision = name.removeprefix(HUB).partition("@")
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    address = f"{endpoint}/{repository}/resolve/{revision or 'main'}/{file}"
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None, endpoint=endpoint))
    except hub.GatedRepoError as error:
        raise DataError(
            f"{name!r} is gated: accept its conditions at {endpoint}/{repository} in a browser, then log in here with hf auth login (or HF_TOKEN)"
        ) from error
    except hub.RepositoryNotFoundError as error:  # the hub says the same of one that is private
        raise RecipeError(
            f"{name!r}: the hub has no such network, or it is private and you are not logged in (hf auth login, or HF_TOKEN): "
            f"check {endpoint}/{repository}"
        ) from error
    except hub.RevisionNotFoundError as error:
        raise RecipeError(f"{name!r}: the hub has no revision {revision!r} of it") from error
    except hub.LocalEntryNotFoundError as error:  # neither the hub nor the cache could be asked
        raise _unreachable(name, file, address, error) from error
    except hub.EntryNotFoundError as error:
        if file == _WEIGHT_FILES[0]:
            raise FileNotFoundError(address) from error
        raise DataError(f"{name!r}: it has no {file} on the hub, so it is not a network that timm can build") from error
    except hub.HFValidationError as error:
        raise RecipeError(f"{name!r}: {error}") from error
    except Exception as error:  # each network library below has errors of its own for a hub that can't be reached
        raise _unreachable(name, file, address, error) from error


def _unreachable(name: str, file: str, address: str, error: Exception) -> DataError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return DataError(
        f"{name!r}: {file} could not be had from the hub ({reason[:200]}): without internet here, fetch {address} and config.json elsewhere into "
        f"one folder, and write local-dir:FOLDER; or copy a Hugging Face cache that has it and point HF_HOME there"
    )
