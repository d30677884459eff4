"""What a training step costs, told without a clock: against the loop by hand in benchmarks/contenders.py, on the same pictures and networks."""

from __future__ import annotations

import functools
import gc
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from distill.build.pieces import build_pieces
from distill.data.sources.synthetic import Synthetic
from distill.models.zoo import create_model
from distill.recipe_files import load_recipe
from distill.resolve import Catalogue
from distill.structures import Batch, HostKeys

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks import contenders
from benchmarks.contenders import Setting, framework, framework_cached, hand_written
from benchmarks.step import CONTENDERS, require_same_losses

CPU = torch.device("cpu")
BATCH, SIZE, TEACHER = 4, 32, "resnet18"  # small and quick: what is counted does not depend on the size
Make = Callable[[Setting], tuple[Callable[[], None], list[float]]]


class Operators(TorchDispatchMode):
    """Counts what torch is asked to compute, forward, backward and in the optimizer."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def epoch(make: Make, num_steps: int, precision: str = "fp32", everything: bool = False) -> Callable[[], None]:
    """Runs that many steps; once already, so that what only the first does is done."""
    source = Synthetic(image_size=SIZE, num_classes=10, num_train=BATCH * num_steps, num_val=10, num_test=10)
    run, _ = make(Setting(source, BATCH, CPU, precision, TEACHER, everything))
    run()
    return run


def operators_of_a_step(make: Make, precision: str = "fp32", everything: bool = False) -> dict[str, float]:
    """What two steps more bring, halved: what an epoch does once cancels out."""
    found = {}
    for num_steps in (1, 3):
        run = epoch(make, num_steps, precision, everything)
        with Operators() as operators:
            run()
        found[num_steps] = operators.found
    return {name: (num - found[1][name]) / 2 for name, num in found[3].items() if num != found[1][name]}


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def saved_bytes(run: Callable[[], object]) -> int:
    """Of all tensors that autograd keeps for the backward, each counted as often as it is kept."""
    total = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return total


@pytest.mark.parametrize(("precision", "everything"), [("fp32", False), ("bf16", False), ("fp32", True)])
def test_step_asks_for_as_much_as_one_written_by_hand(precision, everything):
    ours, theirs = (operators_of_a_step(make, precision, everything) for make in (framework, hand_written))
    differing = {name: (ours.get(name, 0), theirs.get(name, 0)) for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    assert sum(ours.values()) <= sum(theirs.values()) + 5, differing


@pytest.mark.parametrize("name", CONTENDERS)
def test_what_is_timed_side_by_side_computes_the_same(name):
    losses = {}
    for contender in ("framework", name):
        source = Synthetic(image_size=SIZE, num_classes=10, num_train=2 * BATCH, num_val=10, num_test=10)
        run, losses[contender] = getattr(contenders, contender)(Setting(source, BATCH, CPU, "fp32", TEACHER))
        run()
    require_same_losses(losses, "fp32")
    if name == "hand_written":
        assert losses[name] == pytest.approx(losses["framework"], rel=1e-5)


def test_contender_that_computes_something_else_is_refused():
    with pytest.raises(SystemExit, match="naive does not compute the framework's loss"):
        require_same_losses({"framework": [2.0], "naive": [2.1]}, "bf16")


def test_step_waits_for_nothing():
    assert not [name for name in operators_of_a_step(framework) if "_local_scalar_dense" in name or "nonzero" in name or "is_nonzero" in name]


def test_waiting_would_be_seen():
    def waits(setting: Setting) -> tuple[Callable[[], None], list[float]]:
        run, losses = framework(setting)
        num_steps = len(setting.source.train) // BATCH
        return lambda: (run(), [torch.ones(1).item() for _ in range(num_steps)]), losses

    assert "aten._local_scalar_dense.default" in operators_of_a_step(waits)


def test_step_computes_as_much_as_one_written_by_hand():
    ours, theirs = (flops(epoch(make, 1)) for make in (framework, hand_written))
    assert ours == theirs


def test_teacher_is_asked_once_and_never_differentiated():
    """The student's share is three times its forward, but for the gradient to the pictures, which nobody asks for."""
    pictures = torch.zeros(BATCH, 3, SIZE, SIZE)
    teacher, student = (flops(functools.partial(create_model(name, num_classes=10), pictures)) for name in (TEACHER, "resnet18"))
    first = 2 * BATCH * 3 * 64 * 7 * 7 * (SIZE // 2) ** 2  # of resnet18's first convolution
    assert flops(epoch(framework, 1)) == teacher + 3 * student - first
    assert flops(epoch(framework_cached, 1)) == 3 * student - first


def test_backward_keeps_as_much_as_one_written_by_hand():
    ours, theirs = (saved_bytes(epoch(make, 1)) for make in (framework, hand_written))
    assert ours == theirs


def alive() -> tuple[int, int]:
    """(tensors, their bytes)"""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]  # isinstance would wake up torch's deprecated names
    return len(tensors), sum(one.numel() * one.element_size() for one in tensors)


def test_nothing_is_left_of_a_step():
    """After each epoch as many tensors are alive: no feature, batch or graph is held."""
    run, found = epoch(framework, 2), []
    for _ in range(3):
        run()
        found.append(alive())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["r50_to_r18", "losses/dkd", "losses/fitnet", "losses/at", "losses/crd"])
def test_student_and_losses_are_one_graph(name):
    """torch.compile finds no break and compiles once for all steps, also where a weight or an argument follows a schedule."""
    source = Synthetic(image_size=SIZE, num_classes=10, num_train=8, num_val=10, num_test=10)
    recipe = load_recipe(name, [f"teacher.model={TEACHER}", "teacher.weights=random", "data.source=synthetic", "data.global_batch_size=8"])
    pieces = build_pieces(recipe, Catalogue(), source, device=CPU, precision="fp32", weights={})
    distiller, ids = pieces.distiller.train(), torch.arange(8)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(distiller, fullgraph=True, backend="eager")
    for step in range(3):
        labels = torch.from_numpy(source.train.labels[:8])
        batch = Batch(source.train.pixels[:8], labels, ids, torch.full_like(ids, step), HostKeys(np.arange(8), step, 0))
        distiller.set_step(step)
        compiled(batch, pieces.teacher(batch)).loss.backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
