"""Loading: every form weights come in, and one clear sentence for each way they can be wrong."""

import argparse
import hashlib
import os
import pickle
import urllib.error
import zipfile

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from distill.errors import DataError, RecipeError
from distill.models.norms import make_norm_layer
from distill.models.resnet import resnet18, resnet34
from distill.models.weights import checksum, load_weights, save_weights
from distill.models.zoo import create_model


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network whose weights differ from any fresh one, with five classes."""
    torch.manual_seed(1)
    model = resnet18(num_classes=5)
    model.bn1.running_mean.uniform_()
    model.bn1.num_batches_tracked.fill_(7)
    return model


@pytest.fixture
def fresh() -> nn.Module:
    torch.manual_seed(2)
    return resnet18(num_classes=5)


def _save(content, path):
    torch.save(content, path)
    return str(path)


def _refused(model, source, *parts, name="resnet18", error=DataError, **options):
    """Loading fails with a message that has all parts and none of torch's own text, and the network keeps every bit."""
    before = checksum(model)
    with pytest.raises(error) as caught:
        load_weights(model, name, str(source), num_classes=options.pop("num_classes", 5), **options)
    message = str(caught.value)
    for part in parts:
        assert part in message
    for noise in ("Traceback", "weights_only=True", "Error(s) in loading", "documentation of torch.load"):
        assert noise not in message
    assert checksum(model) == before
    return message


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".ckpt", ".pth.tar"])
def test_checkpoint_of_torch_save_is_loaded(trained, fresh, tmp_path, ending):
    load_weights(fresh, "resnet18", _save(trained.state_dict(), tmp_path / f"file{ending}"), num_classes=5)
    assert checksum(fresh) == checksum(trained)


def test_safetensors_and_run_folder_are_loaded_and_reported_with_the_files_hash(trained, fresh, tmp_path):
    path = tmp_path / "student.safetensors"
    save_weights(trained.state_dict(), path, {"model": "resnet18"})
    for source in (path, tmp_path):
        report = load_weights(resnet18(num_classes=5), "resnet18", str(source), num_classes=5)
        assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (report.source, report.mean, report.image_size, report.new_head) == (str(source), None, None, False)
    load_weights(fresh, "resnet18", str(tmp_path), num_classes=5)
    assert checksum(fresh) == checksum(trained)


@pytest.mark.parametrize("nesting", [["model"], ["state_dict"], ["model_state_dict"], ["net"], ["student"], ["ema"], ["checkpoint", "model"]])
def test_nested_checkpoint_is_understood(trained, fresh, tmp_path, nesting):
    content = trained.state_dict()
    for key in reversed(nesting):
        content = {key: content, "epoch": 3, "loss": torch.tensor(0.5), "optimizer": {"state": {}}}
    if nesting[0] == "checkpoint":
        _refused(fresh, _save(content, tmp_path / "a.pth"), "not in the network (1): loss")
        return
    load_weights(fresh, "resnet18", _save(content, tmp_path / "a.pth"), num_classes=5)
    assert checksum(fresh) == checksum(trained)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.", "student.", "_orig_mod.", "encoder.", "module._orig_mod.", "model.backbone."])
def test_prefixes_are_stripped_also_when_stacked(trained, fresh, tmp_path, prefix):
    content = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    load_weights(fresh, "resnet18", _save(content, tmp_path / "a.pth"), num_classes=5)
    assert checksum(fresh) == checksum(trained)


def test_prefix_that_the_network_has_itself_is_kept(tmp_path):
    model = nn.Sequential()
    model.encoder = nn.Linear(2, 3)
    path = _save({"module.encoder.weight": torch.ones(3, 2), "module.encoder.bias": torch.ones(3)}, tmp_path / "a.pth")
    load_weights(model, "mine", path, num_classes=3)
    assert torch.equal(model.encoder.weight, torch.ones(3, 2))


def test_two_networks_in_one_file_are_not_mixed(trained, fresh, tmp_path):
    content = {prefix + name: tensor for name, tensor in trained.state_dict().items() for prefix in ("student.", "model.")}
    _refused(fresh, _save(content, tmp_path / "a.pth"), "several networks", "'model.conv1.weight'")


def test_half_precision_file_is_cast_to_the_networks_precision(trained, fresh, tmp_path):
    load_weights(fresh, "resnet18", _save(trained.half().state_dict(), tmp_path / "a.pth"), num_classes=5)
    trained.float()
    assert fresh.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(fresh.conv1.weight, trained.conv1.weight)
    assert fresh.bn1.num_batches_tracked.dtype == torch.int64


def test_missing_num_batches_tracked_is_fine(trained, fresh, tmp_path):
    content = {name: tensor for name, tensor in trained.state_dict().items() if "num_batches" not in name}
    load_weights(fresh, "resnet18", _save(content, tmp_path / "a.pth"), num_classes=5)
    assert torch.equal(fresh.bn1.running_mean, trained.bn1.running_mean)


def test_frozen_norms_take_a_checkpoint_of_batch_norms(trained, tmp_path):
    model = resnet18(num_classes=5, norm_layer=make_norm_layer("frozen"))
    load_weights(model, "resnet18", _save(trained.state_dict(), tmp_path / "a.pth"), num_classes=5)
    assert torch.equal(model.bn1.running_mean, trained.bn1.running_mean)


def test_every_key_that_does_not_fit_is_listed_in_its_group(trained, fresh, tmp_path):
    content = dict(trained.state_dict())
    del content["layer1.0.conv1.weight"], content["layer2.1.bn1.bias"]
    content["extra.one"] = content["extra.two"] = torch.zeros(1)
    content["bn1.weight"] = torch.zeros(3)
    _refused(
        fresh,
        _save(content, tmp_path / "a.pth"),
        "do not fit teacher.model=resnet18",
        "missing in the file (2): layer1.0.conv1.weight, layer2.1.bn1.bias",
        "not in the network (2): extra.one, extra.two",
        "of another shape (1): bn1.weight [3] instead of [64]",
    )


def test_weights_of_another_resnet_are_recognised(fresh, tmp_path):
    content = {"module." + name: tensor for name, tensor in resnet34(num_classes=9).state_dict().items()}
    _refused(fresh, _save(content, tmp_path / "a.pth"), "these are resnet34 weights: set student.model=resnet34", role="student")


def test_weights_of_another_stem_point_to_the_stem(trained, tmp_path):
    model = resnet18(num_classes=5, stem="small")
    message = _refused(model, _save(trained.state_dict(), tmp_path / "a.pth"), "only the first convolution differs; check teacher.stem")
    assert "resnet18 weights" not in message


def test_teachers_head_of_another_class_count_is_an_error_with_both_counts(trained, tmp_path):
    path = _save(trained.state_dict(), tmp_path / "a.pth")
    _refused(resnet18(num_classes=3), path, "the file's head has 5 classes, the data has 3", num_classes=3)


def test_students_head_of_another_class_count_points_to_new_head(trained, tmp_path):
    path = _save(trained.state_dict(), tmp_path / "a.pth")
    _refused(resnet18(num_classes=3), path, "has 5 classes, the data has 3; student.new_head: true", num_classes=3, role="student")


def test_new_head_stays_as_it_was_initialised_and_is_reported(trained, tmp_path):
    model = resnet18(num_classes=3)
    head = model.fc.weight.detach().clone()
    report = load_weights(model, "resnet18", _save(trained.state_dict(), tmp_path / "a.pth"), num_classes=3, new_head=True, role="student")
    assert report.new_head
    assert torch.equal(model.fc.weight, head)
    assert torch.equal(model.layer4[1].conv2.weight, trained.layer4[1].conv2.weight)


def test_file_without_head_needs_new_head(trained, fresh, tmp_path):
    content = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith("fc.")}
    path = _save(content, tmp_path / "a.pth")
    _refused(fresh, path, "teacher.new_head: true", "missing in the file (2): fc.weight, fc.bias")
    assert load_weights(fresh, "resnet18", path, num_classes=5, new_head=True).new_head


def test_new_head_does_not_hide_other_misfits(trained, fresh, tmp_path):
    content = dict(trained.state_dict())
    del content["bn1.weight"]
    message = _refused(fresh, _save(content, tmp_path / "a.pth"), "missing in the file (1): bn1.weight", new_head=True)
    assert "fc" not in message


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def test_pickle_that_wants_to_run_code_is_refused_and_run_is_not(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _save({"model": _Evil()}, tmp_path / "evil.pth")
    _refused(fresh, path, "wants to run code (posix.mkdir)", "save_file", "weights.safetensors")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model": _Evil()}, protocol=2))
    _refused(fresh, tmp_path / "plain.pth", "wants to run code (posix.mkdir)")
    assert not (tmp_path / "hacked").exists()


def test_the_advice_for_a_pickle_with_objects_works(trained, fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _save({"args": argparse.Namespace(lr=0.1), "model": trained.state_dict()}, tmp_path / "reference.pth")
    message = _refused(fresh, path, "wants to run code (argparse.Namespace)")
    code = message.split('python -c "')[1].rstrip('"')
    exec(code, {})  # the printed line, as the user would run it
    load_weights(fresh, "resnet18", "weights.safetensors", num_classes=5)
    assert checksum(fresh) == checksum(trained)


def _write_unreadable(kind, trained, path):
    torch.save(trained.state_dict(), path)
    whole = path.read_bytes()
    if kind == "empty archive":
        zipfile.ZipFile(path, "w").close()
        return
    path.write_bytes({"cut short": whole[: len(whole) // 2], "text": b"<html>Not found</html>", "empty": b"", "noise": b"\x17" * 999}[kind])


@pytest.mark.parametrize("kind", ["cut short", "text", "empty", "noise", "empty archive"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_unreadable_file_is_one_clear_sentence(trained, fresh, tmp_path, kind, ending):
    path = tmp_path / f"a{ending}"
    _write_unreadable(kind, trained, path)
    message = _refused(fresh, path, str(path), "damaged")
    assert len(message.splitlines()) == 1


def test_safetensors_cut_short_is_one_clear_sentence(trained, fresh, tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(trained.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    _refused(fresh, path, "damaged, cut short")


@pytest.mark.parametrize(
    "source, part",
    [
        ("missing.pth", "no such file or folder"),
        ("torchvison:IMAGENET1K_V1", "did you mean 'torchvision'"),
        (".", "no student.safetensors"),
        ("weights.onnx", "the ending '.onnx' is unknown"),
        ("list.pth", "holds a list, not named tensors"),
        ("numbers.pth", "holds no tensors, only: epoch"),
    ],
)
def test_source_that_is_no_weights_is_named(fresh, tmp_path, monkeypatch, source, part):
    monkeypatch.chdir(tmp_path)
    torch.save([1, 2], "list.pth")
    torch.save({"epoch": 3}, "numbers.pth")
    (tmp_path / "weights.onnx").touch()
    _refused(fresh, source, repr(source) if source != "." else "'.'", part)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's cache in a folder of the test; any attempt to download fails as it does offline."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_, **__):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18"])
@pytest.mark.parametrize("tag", ["IMAGENET1K_V1", "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"])
def test_torchvision_weights_come_with_their_normalisation(trained, hub, name, tag):
    torch.save(trained.state_dict(), hub / "resnet18-f37072fd.pth")
    model = create_model(name, num_classes=5)
    report = load_weights(model, name, f"torchvision:{tag}", num_classes=5)
    assert checksum(model) == checksum(trained) == report.sha256
    assert (report.mean, report.std, report.image_size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)


def test_torchvision_weights_offline_say_what_to_fetch_and_where_to_put_it(fresh, hub):
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    _refused(fresh, "torchvision:IMAGENET1K_V1", url, str(hub / "resnet18-f37072fd.pth"), "TORCH_HOME")


def test_damaged_torchvision_cache_says_what_to_delete(fresh, hub):
    (hub / "resnet18-f37072fd.pth").write_bytes(b"half a file")
    _refused(fresh, "torchvision:IMAGENET1K_V1", f"delete {hub / 'resnet18-f37072fd.pth'}")


def test_torchvision_cache_runs_no_code(fresh, hub, monkeypatch):
    monkeypatch.chdir(hub)
    torch.save({"model": _Evil()}, hub / "resnet18-f37072fd.pth")
    _refused(fresh, "torchvision:IMAGENET1K_V1", "could not be downloaded or read")
    assert not (hub / "hacked").exists()


@pytest.mark.parametrize(
    "source, name, part",
    [
        ("torchvision:IMAGENET1K_V3", "resnet18", "torchvision:IMAGENET1K_V1"),
        ("torchvision:IMAGENET1K_V1", "timm/resnet18", "not for 'timm/resnet18'"),
        ("timm:resnet18.a9_in1k", "resnet18", "did you mean 'timm/resnet18."),
        ("timm:resnet9000", "resnet18", "is unknown"),
    ],
)
def test_tag_that_does_not_exist_is_the_recipes_fault(fresh, source, name, part):
    _refused(fresh, source, part, name=name, error=RecipeError)


def _pretend_download(monkeypatch, answer):
    """timm.create_model(pretrained=True) with the network replaced by `answer`; everything around it is timm's own."""
    create = timm.create_model

    def stand_in(name, pretrained=False, **arguments):
        assert pretrained
        return answer(create(name, pretrained=False, num_classes=5, **arguments))

    monkeypatch.setattr(timm, "create_model", stand_in)


def test_timm_weights_come_with_their_normalisation_and_draw_no_random_numbers(trained, fresh, monkeypatch):
    def download(model):
        model.load_state_dict(trained.state_dict())
        return model

    _pretend_download(monkeypatch, download)
    state = torch.get_rng_state()
    report = load_weights(fresh, "resnet18", "timm:resnet18.a1_in1k", num_classes=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert checksum(fresh) == checksum(trained) == report.sha256
    assert (report.mean, report.std, report.image_size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)


def test_timm_weights_offline_say_what_to_fetch(fresh, monkeypatch):
    def offline(model):
        raise OSError("cannot find the file in the cache\nand a long story")

    _pretend_download(monkeypatch, offline)
    url = "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    message = _refused(fresh, "timm:resnet18.a1_in1k", url, "HF_HOME")
    assert "long story" not in message


def test_saved_file_replaces_the_old_one_whole_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    tied = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    shared = torch.randn(3)
    save_weights({"one": tied, "two": tied, "three": shared, "four": shared}, path, {"model": "mine"})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"model": "mine"}
        assert torch.equal(file.get_tensor("two"), tied)
        assert torch.equal(file.get_tensor("four"), shared)
    assert list(tmp_path.iterdir()) == [path]


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    def half_written(number):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", half_written)
    path = tmp_path / "a.safetensors"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        save_weights({"one": torch.ones(1)}, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_checksum_sees_values_names_types_shapes_and_buffers():
    def model(**changes):
        module = nn.Module()
        module.register_parameter(changes.get("name", "weight"), nn.Parameter(changes.get("value", torch.ones(2, 3))))
        module.register_buffer("count", torch.tensor(changes.get("count", 0)))
        return checksum(module)

    assert model() == model()
    others = [
        model(name="bias"),
        model(value=torch.ones(3, 2)),
        model(value=torch.ones(2, 3).bfloat16()),
        model(value=torch.eye(2, 3)),
        model(count=1),
    ]
    assert len({model(), *others}) == 6


def test_checksum_does_not_depend_on_the_layout_in_memory(fresh):
    assert checksum(fresh) == checksum(fresh.to(memory_format=torch.channels_last))
