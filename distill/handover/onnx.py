"""The student as one ONNX file, for the many programs that run those; read here with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distill import record
from distill.errors import DataError, DistillError
from distill.handover.libraries import quiet, read_file, reason
from distill.models.zoo import NO_PLUGINS, Builders

if TYPE_CHECKING:
    from onnx import ModelProto

FILE = "model.onnx"
INPUT, OUTPUT = "image", "logits"
_OPSET = 18  # what torch's exporter writes without converting, and what every runtime of the last years reads


def write(model: nn.Module, folder: Path, image_size: int, calibration: Tensor | None = None) -> Path:
    """The written file: "image" [N, 3, H, W], normalised float32, any N >= 1 -> "logits" [N, K]. The weights are inside; batch norms are folded.

    model: in eval mode, float32, on the CPU; it is left as it is. calibration is not used.
    Raises DistillError for a network that has no ONNX form, OSError if the folder can't be written to.
    """
    example = torch.zeros(2, 3, image_size, image_size)  # two: of a batch of one, export concludes that there is always one
    with quiet(), torch.no_grad():
        import onnx

        try:
            program = torch.onnx.export(
                model,
                (example,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
            content = program.model_proto
            _forget_origin(content)
            onnx.checker.check_model(content, full_check=True)
        except Exception as error:  # the exporter raises what the network's own code does, and errors of four libraries
            raise DistillError(f"{type(model).__name__} can't be written as ONNX: {reason(error)}") from error
    record.write_bytes(folder / FILE, content.SerializeToString(deterministic=True))
    return folder / FILE


def describe(path: Path, facts: Mapping[str, str]) -> None:
    """Writes the facts into the file's metadata_props, beside those of other names that are there. A reader sees the old file or the new one.

    Raises DataError for a missing or damaged file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    content = read_file(path)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise _damaged(path) from error
    onnx.helper.set_model_props(model, {one.key: one.value for one in model.metadata_props} | dict(facts))
    record.write_bytes(path, model.SerializeToString(deterministic=True))


def load(path: Path, plugins: Builders = NO_PLUGINS) -> Callable[[Tensor], Tensor]:
    """What answers for the file, with ONNX Runtime on the CPU: normalised float32 pictures [N, 3, H, W] -> float32 logits [N, K].

    plugins are not used. Raises DataError for a missing, damaged or foreign file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes past Python's own streams; errors are raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    content = read_file(path)
    try:
        # from its bytes: a file has no say then in which other files are read
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a class of its own for each way to fail, below Exception
        raise _damaged(path) from error
    names = [one.name for one in session.get_inputs()], [one.name for one in session.get_outputs()]
    if names != ([INPUT], [OUTPUT]):
        raise DataError(f"{str(path)!r} is not a student of ours: it takes {', '.join(names[0])} and gives {', '.join(names[1])}")

    def answer(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.detach().contiguous().numpy()})[0])

    return answer


def _damaged(path: Path) -> DataError:
    return DataError(f"{str(path)!r} is damaged, cut short or not an ONNX file; export it again")


def _forget_origin(content: ModelProto) -> None:
    """The exporter notes with every node which lines of which files on this machine it came from: nobody's business, and other bytes each time."""
    graph = content.graph
    for one in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del one.metadata_props[:]
        one.doc_string = ""
