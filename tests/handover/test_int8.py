"""The int8 file is a quarter of the student, decides nearly always as it does, and can be read without a compiler."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from students import FAMILIES, SIZE, assert_equal_states, family, pictures, sample, state, trained
from torch import nn

from distill.errors import DataError, DistillError
from distill.handover import int8

pytest.importorskip("torchao", reason="torchao is not installed: pip install -e '.[int8]'")


def num_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The file of the trained network, which tests may read only."""
    return int8.write(trained(), tmp_path_factory.mktemp("int8"), 28, sample()[0][:300])


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_quantised_for_any_number_of_pictures(name, tmp_path, capfd):
    model = family(name)
    before = state(model)
    path = int8.write(model, tmp_path, SIZE, pictures(32))
    assert_equal_states(before, state(model))
    answer = int8.load(path)
    for count in (1, 7):
        with torch.no_grad():
            expected = model(pictures(count))
        assert (answer(pictures(count)) - expected).norm() < 0.5 * expected.norm()
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")


def test_trained_network_keeps_its_answers_in_a_quarter_of_the_bytes(written):
    model, answer = trained(), int8.load(written)
    images, labels = sample()[0][2000:], sample()[1][2000:]
    with torch.no_grad():
        expected, found = model(images).argmax(1), answer(images).argmax(1)
    assert (expected == labels).float().mean() > 0.6  # it has learned something, or agreement would mean nothing
    assert (expected == found).float().mean() >= 0.98
    assert written.stat().st_size < 0.3 * num_bytes(model)


def test_weights_are_whole_numbers_and_unpacked_once_for_the_same_answers(written):
    program = torch.export.load(written)
    assert all(tensor.dtype == torch.int8 for tensor in program.state_dict.values() if tensor.numel() > 2000)
    assert "batch_norm" not in str(program.graph)
    with torch.no_grad():
        torch.testing.assert_close(int8.load(written)(sample()[0][:9]), program.module()(sample()[0][:9]))


def test_file_names_nothing_of_this_machine(written):
    with zipfile.ZipFile(written) as archive:
        text = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(torch.__file__).parents[1]).encode() not in text
    assert str(Path(__file__).parents[2]).encode() not in text


def test_file_is_read_by_a_process_that_knows_nothing_of_us(written, tmp_path):
    torch.save(sample()[0][:3].clone(), tmp_path / "pictures.pt")
    program = (
        "import torch, torchao.quantization.pt2e.quantize_pt2e\n"
        f"answer = torch.export.load({str(written)!r}).module()\n"
        "torch.save(answer(torch.load('pictures.pt')).detach(), 'logits.pt')\n"
        "import sys; assert 'distill' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), int8.load(written)(sample()[0][:3]))


def test_network_that_can_not_be_exported_is_an_error_in_a_sentence(tmp_path):
    class Odd(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(DistillError, match="Odd can't be written in int8"):
        int8.write(Odd().eval(), tmp_path, SIZE, pictures(4))
    assert not list(tmp_path.iterdir())


def test_nothing_to_calibrate_with_is_refused(tmp_path):
    with pytest.raises(ValueError, match="calibrate"):
        int8.write(trained(), tmp_path, 28, None)


def test_folder_that_is_not_there_is_the_system_s_error(tmp_path):
    with pytest.raises(OSError, match=r"model\."):
        int8.write(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).eval(), tmp_path / "none", 8, pictures(4, 8))


def test_damaged_file_is_named(written, tmp_path, capfd):
    damaged = tmp_path / "damaged.pt2"
    content = written.read_bytes()
    for cut in (content[: len(content) // 2], b"\xff" * 100):
        damaged.write_bytes(cut)
        with pytest.raises(DataError, match=r"damaged\.pt2"):
            int8.load(damaged)
    with pytest.raises(DataError, match="no such file"):
        int8.load(tmp_path / "none.pt2")
    assert capfd.readouterr() == ("", "")
