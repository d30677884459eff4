"""check_loss: does a loss keep the contract that every loss keeps? The kit for the losses shipped here and for those of others."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from distill.losses.base import DistillLoss
from distill.testing import edges, gradients, needs, places, promises, samples, state
from distill.testing.faults import Fault, LossContractError, describe_error, fault_of, run_check
from distill.testing.subject import Subject

__all__ = ["CHECKS", "Fault", "LossContractError", "check_loss"]

CHECKS = (
    edges.check_half_precision,
    edges.check_extreme_logits,
    edges.check_dead_features,
    edges.check_equal_samples,
    edges.check_small_batches,
    edges.check_hidden_nan,
    samples.check_mean,
    samples.check_order,
    samples.check_coupling,
    samples.check_soft_labels,
    needs.check_labels,
    needs.check_sample_ids,
    needs.check_all_logits,
    gradients.check_student_gradient,
    gradients.check_own_parameters,
    gradients.check_hidden_parameters,
    gradients.check_gradcheck,
    state.check_state_dict,
    state.check_initial_values,
    state.check_kept,
    state.check_eval_mode,
    state.check_randomness,
    state.check_inputs,
    state.check_grad_mode,
    places.check_float64,
    places.check_channels_last,
    places.check_autocast,
    places.check_compile,
    places.check_device,
    places.check_data_dependence,
    places.check_warnings,
    promises.check_declarations,
    promises.check_identity,
    promises.check_schedule,
    promises.check_other_networks,
)


def check_loss(loss_class: type[DistillLoss], **arguments: Any) -> None:
    """Returns None if the loss, made with these arguments, keeps the contract of losses; else raises LossContractError with every fault.

    The loss is set up for two small networks, a student that is narrower than its teacher, and called with random values. It takes about a second.
    A fault has the name of what was checked, the numbers that were seen, what they mean, and the usual fix. First, and alone if it fails:

    construction      the class can be made and set up, also copied
    forward           it answers a finite scalar [] for six ordinary samples

    Then, all of them:

    half precision    features in float16 and bfloat16, also times 100: finite, float32, near the value in float32
    extreme logits    times 100, all equal, saturated, of either network: finite, with the gradient
    dead features     maps that are 0 or constant: finite, with the gradient
    equal samples     two equal samples, all equal, the student equal to its teacher: finite, with the gradient
    small batches     one and two samples: finite, with the gradient, or a clear refusal of one
    hidden nan        a student that answers nan gets nan, not some number
    mean              every sample twice: the same value, unless batch_coupled
    order             samples in another order: the same value
    coupling          a batch has the mean value of its halves, unless batch_coupled
    soft labels       one-hot rows count as labels, other shares count, unless takes_soft_labels = False
    labels            no label changes anything, none of the batch and none of the data, unless needs_labels = True
    sample ids        neither the pictures' ids nor their views change anything, unless needs_sample_ids = True
    all logits        how the teacher's smallest logits share next to nothing does not matter, unless needs_all_logits = True
    student gradient  a gradient comes to the student, and to each feature that the value depends on
    own parameters    each has a gradient and changes in training
    hidden parameters nothing is trained that parameters() does not name
    gradcheck         in float64 the gradient is the slope of the value
    state dict        a loss that loads the state of a trained one gives its value
    initial values    the same seed, the same loss
    kept              a call leaves nothing behind: no tensor, graph, counter or new buffer
    eval mode         a call in eval mode changes no buffer
    randomness        the same call, the same value; the process's random numbers are left alone
    inputs            nothing that is given is changed
    grad mode         the process's settings are left alone
    float64           float64 in, float64 out
    channels last     another memory format, the same value and gradient
    autocast          called under autocast: about the same value
    compile           torch.compile(backend="aot_eager", fullgraph=True) takes it: the same value and gradient
    device            it can be moved to another device
    data dependence   no tensor's value is looked at from Python, no size depends on one
    warnings          no warning
    declarations      flags and extra_bytes can be used
    identity          0 where the student answers what the teacher answers, and not below 0 elsewhere, if zero_at_identity
    schedule          a float argument can be a tensor that changes
    other networks    other widths, map sizes and classes, no batch norm, no linear classifier: refused in setup, or work
    """
    __tracebackhide__ = True  # pytest then shows the faults, not this function
    with _as_it_was():
        faults = _opening_fault(loss_class, arguments)
        if not faults:
            subject = Subject(loss_class, arguments)
            faults = [fault for check in CHECKS for fault in run_check(check, subject)]
    if faults:
        raise LossContractError(getattr(loss_class, "__name__", repr(loss_class)), faults)


def _opening_fault(loss_class: type[DistillLoss], arguments: dict[str, Any]) -> list[Fault]:
    """What makes all else useless: then nothing more is looked at."""
    for check in (promises.check_construction, promises.check_forward):
        try:
            seen = list(check(loss_class, arguments))
        except Exception as error:
            seen = [describe_error(error)]
        if seen:
            return [fault_of(check, seen)]
    return []


@contextmanager
def _as_it_was() -> Iterator[None]:
    """The process's settings as the kit needs them; afterwards as they were."""
    python_state, numpy_state, dtype = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one check looks at them
        torch.set_default_dtype(torch.float32)
        for seed in (random.seed, np.random.seed, torch.default_generator.manual_seed):
            seed(0)
        try:
            with torch.autocast("cpu", enabled=False):
                yield
        finally:
            torch.set_default_dtype(dtype)
            random.setstate(python_state)
            np.random.set_state(numpy_state)
