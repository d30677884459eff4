"""Started by torchrun on two processes (tests/test_two_processes.py): what relates samples to each other sees the global batch.

For every such loss, and some that don't: value, every gradient and every buffer on two processes are those of one process that has the whole batch.
"""

from __future__ import annotations

import copy
import sys

import torch
from accelerate.utils import gather_object

from distill.build.pieces import build_pieces
from distill.data.sources.synthetic import Synthetic
from distill.engine import distiller as distiller_module
from distill.engine.gather import everyones
from distill.engine.gradients import measure_gradients
from distill.engine.runtime import make_accelerator, processes
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue
from distill.structures import Batch

OTHERS = {"kd": "", "ctkd": "", "at": "", "cat_kd": ", normalise: false"}  # without batch norm of their own, which would see the local batch
TOLERANCE = {"fp64": 1e-12, "fp32": 1e-6}
GRADIENT_TOLERANCE = {"fp64": 1e-12, "fp32": 2e-6}  # through 18 layers, whose convolutions round otherwise for half a batch; seen: 9.4e-7 at most


def main(precision: str) -> None:
    state, catalogue, source = processes(), Catalogue(), Synthetic(num_train=64, num_val=8, num_test=8)
    assert state.num_processes == 2, state
    coupled = [name for name in catalogue.names("losses") if catalogue.get("losses", name).batch_coupled]
    assert len(coupled) >= 6, coupled
    for name, arguments in {**dict.fromkeys(coupled, ""), **OTHERS}.items():
        compare(name, arguments, precision, state, catalogue, source)
    gradients_of_gathered_tensors_do_not_mix(state.process_index)
    state.wait_for_everyone()
    torch.distributed.destroy_process_group()
    print("both agree")


def compare(name: str, arguments: str, precision: str, state, catalogue: Catalogue, source: Synthetic) -> None:
    overrides = ["teacher.model=resnet34", "student.norm=group", f"losses.{name}={{weight: 1.0{arguments}}}", f"train.precision={precision}"]
    recipe = load_recipe("smoke", overrides)
    pieces = build_pieces(recipe, catalogue, source, device=state.device, precision=precision, weights={})
    whole = Batch(source.train.pixels[:8], *(torch.from_numpy(v[:8]) for v in (source.train.labels, source.train.sample_ids)), torch.zeros(8).long())
    mine = Batch(*(values[state.process_index :: 2] for values in whole.tensors))
    reference, is_shared = copy.deepcopy(pieces.distiller), distiller_module.is_shared
    reference.student.hooks = type(pieces.distiller.student.hooks)(reference.student.model, pieces.distiller.student.hooks.names)
    for distiller in (reference, pieces.distiller):
        distiller.train()

    distiller_module.is_shared = lambda: False
    expected = reference(whole, pieces.teacher(whole))
    expected.loss.backward()
    distiller_module.is_shared = is_shared
    accelerator = make_accelerator()
    wrapped = accelerator.prepare(pieces.distiller)
    output = wrapped(mine, pieces.teacher(mine))
    accelerator.backward(output.loss)

    value = accelerator.reduce(output.terms[name], "mean")
    close(f"{name}: value", value, expected.terms[name], precision)
    ours, theirs = gradient(pieces.distiller), gradient(reference)
    distance, limit = ((ours - theirs).norm() / theirs.norm()).item(), GRADIENT_TOLERANCE[precision]
    assert distance <= limit, f"{name}: the gradient differs by {distance} of its norm, more than {limit}"
    for (key, ours), theirs in zip(pieces.distiller.named_buffers(), reference.buffers(), strict=True):
        close(f"{name}: {key}", ours.double(), theirs.double(), precision)
    norms = gather_object([measure_gradients(pieces.distiller, mine, pieces.teacher(mine), accelerator)])
    assert norms[0] == norms[1], f"{name}: the processes measured different gradients"


def gradients_of_gathered_tensors_do_not_mix(rank: int) -> None:
    """Autograd may hand one gradient to two gathered tensors; here the mean of (a + b)^2 over all processes, a = 1 and 2, b = 3 and 4."""
    ours, theirs = (torch.tensor([float(value + rank)], requires_grad=True) for value in (1, 3))
    (everyones(ours) + everyones(theirs)).square().mean().backward()
    expected = 2 * (2 * (4 + 2 * rank) / 2)  # of two processes that each compute the loss: DDP's mean takes the first factor away
    assert (ours.grad.item(), theirs.grad.item()) == (expected, expected)


def gradient(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters()])


def close(what: str, ours: torch.Tensor, theirs: torch.Tensor, precision: str) -> None:
    difference, limit = (ours - theirs).abs().max().item() if ours.numel() else 0.0, TOLERANCE[precision]
    assert difference <= limit, f"{what} differs by {difference}, more than {limit}"


if __name__ == "__main__":
    main(sys.argv[1])
