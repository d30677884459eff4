"""The student in int8, for processors: a program of torch.export (.pt2) with weights of 8 bits, made by torchao after training."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from distill import record
from distill.errors import DataError, DistillError
from distill.handover.libraries import quiet, read_file, reason
from distill.models.zoo import NO_PLUGINS, Builders

FILE = "model.int8.pt2"
_BATCH = 32  # pictures that are calibrated on at a time


def write(model: nn.Module, folder: Path, image_size: int, calibration: Tensor | None) -> Path:
    """The written file: normalised float32 pictures [N, 3, H, W], any N >= 1 -> logits [N, K].

    model: in eval mode, float32, on the CPU; it is left as it is. calibration: some hundreds of pictures as training saw them, [N, 3, H, W], which
    decide the range of every activation. Batch norms are folded; convolutions and linear layers are quantised, all else stays float.
    Raises ValueError without calibration, DistillError for a network that torch.export can't take, OSError if the folder can't be written to.
    """
    if calibration is None or not len(calibration):
        raise ValueError("int8 needs pictures to calibrate with")
    with quiet(), torch.no_grad():
        content = _as_file(_quantised(model, torch.zeros(2, 3, image_size, image_size), calibration))
    record.write_bytes(folder / FILE, content)
    return folder / FILE


def load(path: Path, plugins: Builders = NO_PLUGINS) -> Callable[[Tensor], Tensor]:
    """What answers for the file: normalised float32 pictures [N, 3, H, W] -> float32 logits [N, K].

    The same numbers as of 8-bit arithmetic, computed in float.
    torch.export.load alone can't read the file: importing torchao.quantization.pt2e.quantize_pt2e tells torch of the operations in it.
    Only for files of one's own: torch can be made to run code by what is in such a file. plugins are not used.
    Raises DataError for a missing or damaged file.
    """
    content = read_file(path)
    with quiet():
        import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401

        try:
            module = torch.export.load(io.BytesIO(content)).module()
        except Exception as error:  # it depends on where the damage is: RuntimeError, KeyError, UnicodeDecodeError, ...
            raise DataError(f"{str(path)!r} is damaged, cut short or not a program of torch.export; export it again") from error
    run = _with_unpacked_weights(module)

    def answer(images: Tensor) -> Tensor:
        with quiet(), torch.no_grad():
            return run(images.detach().contiguous())

    return answer


def _quantised(model: nn.Module, example: Tensor, calibration: Tensor) -> ExportedProgram:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    try:
        observed = _observed(model, example)
    except Exception as error:  # the network's own code runs in it, and two tracers that each have their own errors
        raise DistillError(f"{type(model).__name__} can't be written in int8: {reason(error)}") from error
    for images in calibration.split(_BATCH):
        observed(images)
    converted = convert_pt2e(observed)
    _drop_unused(converted)
    return _exported(converted, example)


def _observed(model: nn.Module, example: Tensor) -> GraphModule:
    """The network as a graph whose activations are watched.

    reduce_range: 7 bits for them. The sum of two products of 8 bits does not fit into the 16 bits that processors without VNNI have for it, and these
    would give other answers than those with it.
    """
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    def attempt(strict: bool) -> GraphModule:
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config(reduce_range=True))
        return prepare_pt2e(_exported(model, example, strict).module(), quantizer)

    # strict: the quantizer finds convolutions by the module that was called, and takes two calls of one ReLU for one unless the tracer counts them
    try:
        return attempt(strict=True)
    except Exception:  # of code that this tracer can't follow; the other one may
        return attempt(strict=False)


def _exported(model: nn.Module, example: Tensor, strict: bool = False) -> ExportedProgram:
    return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=strict)


def _drop_unused(module: GraphModule) -> None:
    """The float weights: conversion leaves them beside the quantised ones, and they would be saved."""
    used = tuple(f"{node.target}." for node in module.graph.nodes if node.op in ("get_attr", "call_module"))
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name in [name for name, _ in tensors if not f"{name}.".startswith(used)]:
        parent, _, leaf = name.rpartition(".")
        delattr(module.get_submodule(parent), leaf)


def _as_file(program: ExportedProgram) -> memoryview:
    """The program's file, without where each operation came from, which names files of this machine and is longer than the program.

    The rest of the text is compressed: it is half of a small network's file.
    """
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    program.example_inputs = None
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.export.save(program, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as target:
        for entry in source.infolist():
            copy = zipfile.ZipInfo(entry.filename)  # of 1980, as torch dates them all
            copy.compress_type = zipfile.ZIP_DEFLATED if entry.filename.endswith(".json") else zipfile.ZIP_STORED
            target.writestr(copy, source.read(entry))
    return packed.getbuffer()


def _with_unpacked_weights(module: GraphModule) -> GraphModule:
    """Each weight turned into float once and not in each call; the answers stay what they are."""
    for node in list(module.graph.nodes):
        if not str(node.target).startswith("quantized_decomposed.dequantize") or any(one.op != "get_attr" for one in node.all_input_nodes):
            continue
        value = node.target(*[_value(module, one) for one in node.args], **{key: _value(module, one) for key, one in node.kwargs.items()})
        module.register_buffer(f"unpacked_{node.name}", value)
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(f"unpacked_{node.name}"))
        module.graph.erase_node(node)
    module.recompile()
    return module


def _value(module: GraphModule, argument: object) -> object:
    if not isinstance(argument, Node):
        return argument
    assert isinstance(argument.target, str)  # it names an attribute, not a function
    parent, _, leaf = argument.target.rpartition(".")
    return getattr(module.get_submodule(parent), leaf)
