"""The lines of Python that ask an exported student, without distill where that can be."""

from __future__ import annotations

from distill.handover.config import Config
from distill.handover.formats import PROGRAMS
from distill.models.resnet import RESNETS
from distill.models.zoo import OWN

PICTURE = """\
import json, torch
from pathlib import Path
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F

config = json.loads(Path("config.json").read_text())
size, mean, std = (config["preprocessing"][key] for key in ("image_size", "mean", "std"))
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGB")
side = min(picture.size)
left, top = (picture.width - side) // 2, (picture.height - side) // 2
picture = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
pixels = F.normalize(F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True), mean, std)[None]"""
_ANSWER = 'print(config["label_names"][logits.argmax()])'


def usage(config: Config) -> str:
    """As Markdown."""
    needs_plugin = config.format == "safetensors" and "/" not in config.model and config.model not in OWN
    more = " --plugin FILE" if needs_plugin else " --trust" if config.file.endswith(PROGRAMS) else ""
    command = f"distill predict FOLDER picture.png{more}"
    return f"```python\n{PICTURE}\n\n{_network(config)}\n{_ANSWER}\n```\n\n`{command}` does the same."


def _network(config: Config) -> str:
    if config.format == "onnx" or config.file.endswith(".onnx"):
        session = f'import onnxruntime\nsession = onnxruntime.InferenceSession("{config.file}")\n'
        return f"{session}logits = torch.from_numpy(session.run(None, {{session.get_inputs()[0].name: pixels.numpy()}})[0])"
    if config.file.endswith(PROGRAMS):
        kinds = "import torchao.quantization.pt2e.quantize_pt2e  # the 8-bit operators\n" if config.format == "int8" else ""
        load = f'model = torch.export.load("{config.file}").module()  # a program: it can do anything, so trust who made it'
        return f"{kinds}{load}\nlogits = model(pixels)"
    return f"{_weights(config)}\nlogits = model.eval()(pixels)"


def _weights(config: Config) -> str:
    family, _, plain = config.model.rpartition("/")
    if config.format == "timm":
        return 'import timm\nmodel = timm.create_model("local-dir:.", pretrained=True)'
    load = f'from safetensors.torch import load_file\nmodel.load_state_dict(load_file("{config.file}"))'
    arguments = "".join(f", {name}={value!r}" for name, value in config.arguments.items())
    if family == "timm":
        return f'import timm\nmodel = timm.create_model("{plain}", num_classes={config.num_classes}{arguments})\n{load}'
    is_plain = config.norm in ("batch", "sync") and config.stem == "imagenet"
    if family == "torchvision" or (plain in RESNETS and is_plain):
        return f'import torchvision\nmodel = torchvision.models.get_model("{plain}", num_classes={config.num_classes}{arguments})\n{load}'
    if plain not in OWN:
        return f"model = ...  # the plug-in's {config.model}, with num_classes={config.num_classes}{arguments}\n{load}"
    norm = "batch" if config.norm == "sync" else config.norm  # the same network, and it needs no CUDA
    said = {"norm": (norm, "batch"), "stem": (config.stem, "imagenet"), "arguments": (config.arguments, {})}
    options = "".join(f", {name}={value!r}" for name, (value, default) in said.items() if value != default)
    create = "from distill.models.zoo import create_model  # a network that only distill has"
    return f'{create}\nmodel = create_model("{config.model}", num_classes={config.num_classes}{options})\n{load}'
