"""Where weights come from: a file, a run folder, torchvision:TAG, timm:NAME, hf-hub:NAME or local-dir:FOLDER. Nothing here touches a network that
is to be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distill.errors import DataError, RecipeError
from distill.models.about_weights import About, about_weights
from distill.models.resnet import RESNETS
from distill.models.saved import is_saved, weight_file
from distill.models.weight_files import file_sha256, read_weight_file, tensors_sha256
from distill.models.zoo import model_exists
from distill.suggestion import did_you_mean

_STUDENT_FILE = "student.safetensors"


@dataclass(frozen=True)
class WeightsSource:
    """Tensors as they are in the source, and what it says of them."""

    tensors: dict[str, Tensor]
    sha256: str  # of the file, or of the tensors where a library hands them over
    about: About


def read_source(source: str, model_name: str) -> WeightsSource:
    """Reads any source. Raises RecipeError for a tag that does not exist, DataError for what can't be read or downloaded."""
    library, _, tag = source.partition(":")
    if library == "torchvision":
        return _from_torchvision(tag, model_name)
    if library == "timm":
        return _from_timm(tag)
    if is_saved(source):
        path = weight_file(source)
        return WeightsSource(read_weight_file(path), file_sha256(path), about_weights(source, model_name))
    try:
        path = Path(source).expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, the home of a user who is not there
        raise DataError(f"weights {source[:100]!r}: no file can be there ({_first_line(error)[:100]})") from error
    if is_folder:
        path /= _STUDENT_FILE
        if not path.is_file():
            raise DataError(f"weights {source!r}: the folder has no {_STUDENT_FILE}; name a finished run's folder, or a file")
    elif not is_there:
        hint = did_you_mean(library, ("torchvision", "timm", "hf-hub", "local-dir")) if tag else ""
        kinds = "torchvision:TAG, timm:NAME, hf-hub:NAME or local-dir:FOLDER"
        raise DataError(f"weights {source!r}: there is no such file or folder, and it is not {kinds}{hint}")
    return WeightsSource(read_weight_file(path), file_sha256(path), about_weights(source, model_name))


def _from_torchvision(tag: str, model_name: str) -> WeightsSource:
    from torchvision.models import get_model_weights

    family, _, plain = model_name.rpartition("/")
    if family not in ("", "torchvision") or (not family and plain not in RESNETS):
        raise RecipeError(f"weights 'torchvision:{tag}' are for {', '.join(RESNETS)} and torchvision/NAME, not for {model_name!r}")
    tags = get_model_weights(plain).__members__  # aliases such as DEFAULT too
    name = tag.rpartition(".")[2]  # both IMAGENET1K_V2 and ResNet50_Weights.IMAGENET1K_V2
    if name not in tags:
        known = ", ".join(f"torchvision:{one}" for one in tags)
        raise RecipeError(f"weights 'torchvision:{tag}' do not exist for {plain}: {known}{did_you_mean(name, tags)}")
    weights = tags[name]
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        # weights_only: torchvision would run code from a file that somebody put into its cache
        tensors = weights.get_state_dict(check_hash=True, progress=False, weights_only=True, map_location="cpu")
    # Network, disk, hash and unpickling each fail in their own way, and in new ways with each release.
    except Exception as error:
        advice = (
            f"delete {file}, which is damaged, and try again"
            if file.exists()
            else f"without internet here, fetch {weights.url} elsewhere and put it at {file} (or under another TORCH_HOME)"
        )
        raise DataError(f"weights 'torchvision:{tag}' could not be downloaded or read ({_first_line(error)}): {advice}") from error
    return WeightsSource(dict(tensors), tensors_sha256(tensors), about_weights(f"torchvision:{tag}", model_name))


def _from_timm(name: str) -> WeightsSource:
    import timm

    if problem := model_exists(f"timm/{name}"):
        raise RecipeError(f"weights 'timm:{name}': {problem}")
    if not timm.models.is_model_pretrained(name):
        raise RecipeError(f"weights 'timm:{name}': timm has this network, but no weights for it")
    hub = timm.get_pretrained_cfg(name).hf_hub_id
    try:
        with torch.random.fork_rng(devices=[]):  # the network timm builds must not change the initial weights of ours
            model = timm.create_model(name, pretrained=True)
    except Exception as error:  # as above: each library below timm has its own errors
        raise DataError(
            f"weights 'timm:{name}' could not be downloaded or read ({_first_line(error)}): without internet here, fetch "
            f"https://huggingface.co/{hub}/resolve/main/model.safetensors elsewhere and give that file as weights, "
            "or copy a Hugging Face cache that has it and point HF_HOME there"
        ) from error
    tensors = model.state_dict()
    return WeightsSource(tensors, tensors_sha256(tensors), about_weights(f"timm:{name}", f"timm/{name}"))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
