"""The ONNX file answers as the network does, in any program, and holds nothing of the machine that it was written on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from students import FAMILIES, SIZE, assert_equal_states, family, pictures, state
from torch import nn

from distill.errors import DataError, DistillError
from distill.handover import onnx

library = pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[onnx]'")
for package in ("onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[onnx]'")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, images):
        return self.fc(self.norm(self.conv(images)).mean((2, 3)))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[nn.Module, Path]:
    """A network and its file, which tests may read only."""
    model = Tiny().eval()
    return model, onnx.write(model, tmp_path_factory.mktemp("tiny"), SIZE, None)


@pytest.mark.parametrize("name", FAMILIES)
def test_file_answers_as_the_network_for_any_number_of_pictures(name, tmp_path, capfd):
    model = family(name)
    before = state(model)
    path = onnx.write(model, tmp_path, SIZE, None)
    assert_equal_states(before, state(model))
    answer = onnx.load(path)
    for count in (1, 7):
        with torch.no_grad():
            torch.testing.assert_close(answer(pictures(count)), model(pictures(count)), atol=1e-4, rtol=0)
    assert capfd.readouterr() == ("", "")


def test_file_is_alone_and_names_nothing_of_this_machine(tiny):
    _, path = tiny
    assert list(path.parent.iterdir()) == [path]
    content = path.read_bytes()
    assert str(Path(torch.__file__).parents[1]).encode() not in content
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"BatchNormalization" not in content


def test_same_network_gives_the_same_bytes(tiny, tmp_path):
    model, path = tiny
    assert onnx.write(model, tmp_path, SIZE, None).read_bytes() == path.read_bytes()


def test_hooks_of_the_network_stay(tmp_path):
    model, seen = Tiny().eval(), []
    model.conv.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    onnx.write(model, tmp_path, SIZE, None)
    seen.clear()
    model(pictures(1))
    assert len(seen) == 1


def test_file_is_read_by_a_process_that_knows_nothing_of_us(tiny, tmp_path):
    model, path = tiny
    torch.save(pictures(3), tmp_path / "pictures.pt")
    program = (
        "import numpy, onnxruntime, torch\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        "numpy.save('logits.npy', session.run(['logits'], {'image': torch.load('pictures.pt').numpy()})[0])\n"
        "import sys; assert 'distill' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    import numpy

    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(numpy.load(tmp_path / "logits.npy")), model(pictures(3)), atol=1e-4, rtol=0)


def test_facts_are_added_and_the_answers_stay(tiny, tmp_path):
    model, path = tiny
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(path.read_bytes())
    onnx.describe(copy, {"class_names": '["cat", "dog"]', "mean": "0.5"})
    onnx.describe(copy, {"mean": "0.4"})
    facts = {one.key: one.value for one in library.load(copy).metadata_props}
    assert facts == {"class_names": '["cat", "dog"]', "mean": "0.4"}
    with torch.no_grad():
        torch.testing.assert_close(onnx.load(copy)(pictures(2)), model(pictures(2)), atol=1e-4, rtol=0)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy.onnx"]


def test_network_without_an_onnx_form_is_an_error_in_a_sentence(tmp_path):
    class Odd(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(DistillError, match="Odd can't be written as ONNX"):
        onnx.write(Odd().eval(), tmp_path, SIZE, None)
    assert not list(tmp_path.iterdir())


def test_folder_that_is_not_there_is_the_system_s_error(tmp_path):
    with pytest.raises(OSError, match=r"model\."):
        onnx.write(Tiny().eval(), tmp_path / "none", SIZE, None)


@pytest.mark.parametrize("use", [onnx.load, lambda path: onnx.describe(path, {})])
def test_damaged_file_is_named(tiny, tmp_path, use, capfd):
    damaged = tmp_path / "damaged.onnx"
    content = tiny[1].read_bytes()
    for cut in (content[: len(content) // 2], b"\xff" * 100):
        damaged.write_bytes(cut)
        with pytest.raises(DataError, match=r"damaged\.onnx"):
            use(damaged)
    with pytest.raises(DataError, match="no such file"):
        use(tmp_path / "none.onnx")
    assert capfd.readouterr() == ("", "")


def test_file_of_another_program_is_refused(tmp_path):
    value = library.helper.make_tensor_value_info("x", library.TensorProto.FLOAT, [1])
    other = library.helper.make_tensor_value_info("y", library.TensorProto.FLOAT, [1])
    graph = library.helper.make_graph([library.helper.make_node("Neg", ["x"], ["y"])], "other", [value], [other])
    path = tmp_path / "other.onnx"
    library.save(library.helper.make_model(graph, opset_imports=[library.helper.make_opsetid("", 18)], ir_version=10), path)
    with pytest.raises(DataError, match="not a student of ours: it takes x and gives y"):
        onnx.load(path)
