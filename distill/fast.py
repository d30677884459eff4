"""What `fast` decides before training: how the teacher computes its answers, and what is compiled. Each decision is said, and kept in the run folder
with its reason: a run that is gone on with must compute as it did before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from distill.build.loaders import evaluation_loader
from distill.build.pieces import Pieces
from distill.data.sources.base import DataSource
from distill.engine.evaluation import predict
from distill.engine.half_weights import hold_weights
from distill.engine.network import Network
from distill.models.folding import fold_batch_norms
from distill.recipe import Recipe
from distill.running import Job

NUM_COMPARED = 1000  # validation pictures on which the two forms of the teacher are compared
LEAST_FOLDED, LEAST_HALF = 0.999, 0.99  # of them, that must be given the same class

Decision = dict[str, Any]
Same = Callable[[], float]  # the share of pictures that the network gives the class now that it gave them at first
_RANDOM = "its weights are random: nothing was compared"


def form_of_teacher(
    recipe: Recipe, source: DataSource, pieces: Pieces, accelerator: Accelerator, job: Job, *, before: Mapping[str, Any] | None = None
) -> Decision | None:
    """Folds the teacher's batch norms and holds its weights in half precision, in place, where its answers stay the same; None without a teacher.

    before: what was decided when the run began, which is done again without a comparison. Returns what was done, and why. To be called when every
    loss is set up and the teacher has answered once, for its hooks to know what is overwritten.
    """
    teacher = pieces.teacher
    if teacher is None:
        return None
    teacher.checksum  # noqa: B018 - of the weights as they were given: from here on they have another form
    network, example = teacher.network, _example(teacher.network, source)
    if recipe.fast == "off":
        return {"batch_norms_folded": 0, "weights": "as given", "why": ["fast=off"]}
    if before is not None:
        _do_again(network, example, before)
        teacher.form = _form(before)
        return dict(before)
    half, network.autocast_dtype = network.autocast_dtype, None  # what it is compared with is the teacher as given, in its own precision
    is_random = recipe.teacher.weights == "random"
    same = (lambda: 1.0) if is_random else _comparison(recipe, source, network, accelerator, job)
    made = _folded(network, example, same)
    if half is not None:
        network.autocast_dtype = half
        made |= _halved(network, same, made["why"])
    if is_random:
        made |= {"agreement": None, "why": [_RANDOM]}
    teacher.form = _form(made)
    job.say(in_words(made))
    return made


def _example(network: Network, source: DataSource) -> Tensor:
    """[2, 3, H, W] as the model sees pictures; what they show does not matter."""
    size = network.image_size or source.image_size
    return torch.zeros(2, 3, size, size, dtype=network.mean.dtype, device=network.mean.device).to(memory_format=network.memory_format)


def _comparison(recipe: Recipe, source: DataSource, network: Network, accelerator: Accelerator, job: Job) -> Same:
    positions = np.linspace(0, len(source.val) - 1, min(NUM_COMPARED, len(source.val))).astype(int)
    loader = evaluation_loader(recipe, source, source.val.subset(positions), accelerator, job.say)
    at_first = predict(network, loader, accelerator, job.stopper.check)
    return lambda: float((predict(network, loader, accelerator, job.stopper.check) == at_first).mean())


def _folded(network: Network, example: Tensor, same: Same) -> Decision:
    folding = fold_batch_norms(network.model, example)
    share = same() if folding.num_folded else 1.0
    made = {"batch_norms": folding.num_norms, "batch_norms_folded": folding.num_folded, "weights": "as given", "agreement": share, "why": []}
    if share < LEAST_FOLDED:
        folding.undo()
        why = f"batch norms are not folded: {share:.2%} of the pictures would get the same class, and {LEAST_FOLDED:.1%} must"
        made |= {"batch_norms_folded": 0, "agreement": 1.0, "why": [why]}
    return made


def _halved(network: Network, same: Same, why: list[str]) -> Decision:
    """The network answers under autocast from here on, or, if its answers change too much, in its own precision."""
    half, undo = network.autocast_dtype, hold_weights(network, network.autocast_dtype)
    share = same()
    if share < LEAST_HALF:
        undo()
        network.autocast_dtype = None
        why.append(f"it answers in float32: in {_name(half)} {share:.2%} of the pictures would get the same class, and {LEAST_HALF:.0%} must")
        return {"weights": "float32"}
    return {"weights": _name(half), "agreement": share}


def _do_again(network: Network, example: Tensor, before: Mapping[str, Any]) -> None:
    if before["batch_norms_folded"]:
        fold_batch_norms(network.model, example)
    if network.autocast_dtype is not None:
        if before["weights"] == _name(network.autocast_dtype):
            hold_weights(network, network.autocast_dtype)
        else:
            network.autocast_dtype = None


def _form(made: Mapping[str, Any]) -> str:
    if not made["batch_norms_folded"] and made["weights"] == "as given":
        return "as given"
    return f"{made['batch_norms_folded']} batch norms folded, weights {made['weights']}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def in_words(made: Decision) -> str:
    """What was done to the teacher, in a line."""
    folded = f"{made['batch_norms_folded']} of {made['batch_norms']} batch norms folded" if made["batch_norms"] else "no batch norms to fold"
    weights = "" if made["weights"] in ("as given", "float32") else f", weights held in {made['weights']}"
    same = "" if made["agreement"] is None else f"; {made['agreement']:.2%} of its answers are the same class"
    return f"teacher: {folded}{weights}{same}" + "".join(f"; {reason}" for reason in made["why"])
