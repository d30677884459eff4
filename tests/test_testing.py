"""The kit for losses: it names the fault of every broken loss, passes every mended one, and leaves the process as it was."""

from __future__ import annotations

import logging
import random
import re
import warnings

import broken_losses
import numpy as np
import pytest
import torch
from broken_losses import KL, PAIRS, Hint

from distill.losses.base import DistillLoss, label_shares
from distill.testing import CHECKS, LossContractError, check_loss
from distill.testing.attributes import attributes
from distill.testing.constants import Constants
from distill.testing.subject import Subject


def faults(loss_class, **arguments) -> dict[str, str]:
    """name -> what was seen."""
    with pytest.raises(LossContractError) as caught:
        check_loss(loss_class, **arguments)
    return {fault.name: fault.seen for fault in caught.value.faults}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.broken.__name__)
def test_the_fault_of_a_broken_loss_is_named_and_no_other(pair):
    assert set(faults(pair.broken)) == {pair.fault, *pair.also}


@pytest.mark.parametrize("mended", dict.fromkeys(pair.mended for pair in PAIRS), ids=lambda mended: mended.__name__)
def test_a_mended_loss_passes(mended):
    assert check_loss(mended) is None


def names() -> list[str]:
    return [check.__name__.removeprefix("check_").replace("_", " ") for check in CHECKS]


def test_every_check_has_a_broken_loss_that_it_finds():
    assert {"construction", "forward", *names()} == {pair.fault for pair in PAIRS}


def test_every_check_is_in_the_docstring_and_says_what_it_means():
    for name in names():
        assert f"\n    {name} " in check_loss.__doc__
    for check in CHECKS:
        assert "Usual fix: " in check.__doc__


def test_no_broken_or_mended_loss_of_the_file_is_left_out():
    defined = {value for value in vars(broken_losses).values() if isinstance(value, type) and issubclass(value, DistillLoss)} - {DistillLoss}
    tried = {pair.broken for pair in PAIRS} | {pair.mended for pair in PAIRS}
    assert {cls for cls in defined if not cls.__name__.startswith("_")} == tried


class TwoDefects(KL):
    reduction = "sum"

    def forward(self, student, teacher, batch):
        self.last = super().forward(student, teacher, batch)
        return self.last


def test_all_faults_are_listed_at_once_with_numbers_meaning_and_fix():
    with pytest.raises(LossContractError) as caught:
        check_loss(TwoDefects)
    text = str(caught.value)
    assert text.startswith("TwoDefects breaks the contract of a loss in 2 ways\n")
    before, after = map(float, re.search(r"\nmean: (\S+) became (\S+) when", text).groups())
    assert after == pytest.approx(2 * before, rel=1e-4)
    assert "Usual fix: .mean()" in text
    assert "kept: last is a tensor [] with a graph" in text


def test_arguments_are_checked_too():
    assert "unexpected keyword argument 'temprature'" in faults(KL, temprature=2.0)["construction"]
    assert "is not a subclass of DistillLoss" in faults(dict)["construction"]


def test_a_layer_that_does_not_fit_is_reported_in_the_loss_s_own_words():
    class OnAVector(Hint):
        def __init__(self):
            DistillLoss.__init__(self, layers=["pooled"])

    assert faults(OnAVector) == {"construction": "KeyError: 'layer3'"}


def test_the_process_is_left_as_it_was_even_by_broken_losses():
    def state():
        settings = torch.is_grad_enabled(), torch.get_default_dtype(), list(warnings.filters), logging.getLogger("torch.__trace").disabled
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(), settings

    before = state()
    for name in ("RandomTemperature", "LeavesGradientsOn", "DirectionsFromNumpy", "MaskedGlobally", "Branches"):
        faults(getattr(broken_losses, name))
        assert state() == before


def test_the_same_loss_gives_the_same_report():
    first = faults(broken_losses.MaskedGlobally)
    torch.rand(7)
    assert faults(broken_losses.MaskedGlobally) == first


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)])
def test_it_does_not_matter_where_it_is_called(context):
    with context():
        check_loss(Hint)


def test_a_float_given_as_a_whole_number_can_still_be_scheduled():
    assert Subject(broken_losses.Sharpened, {"sharpness": 1}).loss().sharpness == 1.0
    assert "schedule" in faults(broken_losses.SharpenedByMath, sharpness=1)


def test_the_fault_of_labels_says_what_changed_and_where_labels_came_from():
    seen = faults(broken_losses.MaskedByLabelsUndeclared)["labels"]
    assert re.search(r"with other labels the value \S+, \S+ became \S+, \S+; ", seen)
    assert seen.endswith("became -0, -0")  # all are masked
    assert faults(broken_losses.PushedUndeclared)["labels"].startswith("needs_labels is False, but with other labels the gradient changed")
    assert "labels of -1: RuntimeError" in faults(broken_losses.LabelledUndeclared)["labels"]


def test_a_loss_whose_arguments_leave_out_the_labels_may_still_say_that_it_needs_them():
    class PartlyLabelled(KL):
        needs_labels = True

        def __init__(self, is_labelled: bool = True):
            super().__init__()
            self.is_labelled = is_labelled

        def forward(self, student, teacher, batch):
            value = super().forward(student, teacher, batch)
            if not self.is_labelled:
                return value
            return value - (label_shares(batch.labels, student.logits) * torch.log_softmax(student.logits, dim=1)).sum(dim=1).mean()

    PartlyLabelled.zero_at_identity = False
    check_loss(PartlyLabelled)
    check_loss(PartlyLabelled, is_labelled=False)


def test_whether_all_logits_are_needed_may_depend_on_an_argument_but_not_without_one():
    class PartlyAll(KL):
        needs_all_logits = False

        def __init__(self, compares_logits: bool = False):
            super().__init__()
            self.needs_all_logits = compares_logits

        def forward(self, student, teacher, batch):
            return (student.logits - teacher.logits).square().mean() if self.needs_all_logits else super().forward(student, teacher, batch)

    check_loss(PartlyAll)
    check_loss(PartlyAll, compares_logits=True)
    PartlyAll.needs_all_logits = True
    assert faults(PartlyAll) == {"declarations": "needs_all_logits is True in the class and False in the loss"}


def test_what_is_detached_is_a_constant_also_for_finite_differences():
    constants, function = Constants(), lambda x: x.detach() * x
    values = []
    for x in (2.0, 3.0):
        with constants:
            values.append(function(torch.tensor(x, requires_grad=True)).item())
    assert values == [2 * 2, 2 * 3]  # the factor stays 2


def test_what_is_made_without_gradient_is_a_constant_too():
    def function(x):
        with torch.no_grad():
            weight = x * 10
        return weight * x

    constants, values = Constants(), []
    for x in (2.0, 3.0):
        with constants:
            values.append(function(torch.tensor(x, requires_grad=True)).item())
    assert values == [20 * 2, 20 * 3]


def test_attributes_are_found_in_lists_dicts_and_objects():
    module = torch.nn.Linear(2, 2)
    module.kept = {"a": [torch.zeros(1), (1, "x")]}
    module.kept["itself"] = module.kept
    assert {path for path, _ in attributes(module) if path.startswith("kept")} == {
        "kept",
        "kept['a']",
        "kept['a'][0]",
        "kept['a'][1]",
        "kept['a'][1][0]",
        "kept['a'][1][1]",
    }
