"""What FeatureHooks catches, what it leaves behind (nothing), and how it tells overwritten outputs."""

import copy
import gc
import io
import weakref

import pytest
import timm
import torch
import torchvision
from torch import nn

from distill.errors import DistillError, RecipeError
from distill.models.hooks import FeatureHooks, measure_shapes
from distill.models.resnet import resnet18
from distill.models.weights import checksum
from distill.structures import FeatureShape

STAGES = ["layer1", "layer2", "layer3", "layer4"]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=4)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class _Tiny(nn.Module):
    """A norm followed by a ReLU in place, or not: as the test sets it. Runs its first module twice if asked."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)
        self.is_in_place = True
        self.runs = 1

    def forward(self, images):
        for _ in range(self.runs):
            images = self.conv(images)
        normed = self.norm(images)
        active = normed.relu_() if self.is_in_place else normed.relu()
        return self.fc(active.mean((2, 3)))


def _by_hand(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The features of a ResNet, computed without hooks."""
    x = model.maxpool(model.bn1(model.conv1(images)).relu())
    features = {}
    for name in STAGES:
        x = features[name] = getattr(model, name)(x)
    return {**features, "pooled": x.mean((2, 3))}


def _hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("build", [resnet18, torchvision.models.resnet18, lambda **a: timm.create_model("resnet18", **a)])
def test_stages_and_embedding_equal_those_computed_by_hand(build, images):
    model = build(num_classes=4).eval()
    hooks = FeatureHooks(model, [*STAGES, "pooled", "last"])
    for _ in range(2):  # cloned in the first forward, not in the second
        logits = model(images)
        features = hooks.pop()
        for name, expected in _by_hand(model, images).items():
            torch.testing.assert_close(features[name], expected)
        assert torch.equal(features["last"], features["layer4"])
        assert torch.equal(model.fc(features["pooled"]), logits)


def test_output_overwritten_in_place_is_caught_as_it_was(model, images):
    names = ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer2.0.downsample.1"]
    hooks = FeatureHooks(model.eval(), names)
    expected = model.bn1(model.conv1(images))
    assert expected.min() < 0
    for _ in range(3):
        model(images)
        assert torch.equal(hooks.pop()["bn1"], expected)


def test_only_overwritten_outputs_are_cloned_after_the_first_forward(model, images):
    hooks = FeatureHooks(model, ["bn1", "layer1.0.bn2", "layer1", "layer4", "pooled"])
    model(images)
    hooks.pop()
    seen = {}
    model.bn1.register_forward_hook(lambda module, inputs, output: seen.update(bn1=output))
    model.layer4.register_forward_hook(lambda module, inputs, output: seen.update(layer4=output))
    model(images)
    features = hooks.pop()
    assert features["layer4"] is seen["layer4"]
    assert features["bn1"] is not seen["bn1"]
    assert {name: catcher.is_overwritten for name, catcher in hooks._catchers.items()} == {
        "bn1": True,
        "layer1.0.bn2": True,
        "layer1": False,
        "layer4": False,
        "pooled": False,
    }


def test_output_that_begins_to_be_overwritten_later_is_an_error(images):
    model = _Tiny()
    hooks = FeatureHooks(model, ["norm"])
    model.is_in_place = False
    model(images)
    hooks.pop()
    model.is_in_place = True
    model(images)
    with pytest.raises(DistillError, match="'norm' was overwritten in place"):
        hooks.pop()


def test_inference_mode_is_caught_and_decides_nothing(images):
    model = _Tiny()
    hooks = FeatureHooks(model, ["norm"])
    with torch.inference_mode():
        model(images)
    assert hooks.pop()["norm"].min() < 0
    model(images)
    assert hooks.pop()["norm"].min() < 0
    assert hooks._catchers["norm"].is_overwritten is True


@pytest.mark.parametrize("name", [*STAGES, "pooled", "layer1.0.bn1"])
def test_gradient_of_a_feature_reaches_the_first_convolution(model, images, name):
    hooks = FeatureHooks(model.train(), [name])
    for _ in range(2):
        model.zero_grad()
        model(images)
        hooks.pop()[name].square().sum().backward()
        assert model.conv1.weight.grad.abs().sum() > 0
        assert model.fc.weight.grad is None


def test_gradient_through_a_clone_equals_the_one_without_hooks(images):
    model = _Tiny()
    model(images).sum().backward()
    expected = model.conv.weight.grad.clone()
    model.zero_grad()
    hooks = FeatureHooks(model, ["norm"])
    model(images).sum().backward()
    hooks.pop()
    assert torch.equal(model.conv.weight.grad, expected)


def test_nothing_is_alive_after_pop(model, images):
    hooks = FeatureHooks(model, ["layer3", "bn1", "pooled", "last"])
    for _ in range(2):
        model(images)
        features = hooks.pop()
        dead = [weakref.ref(feature) for feature in features.values()]
        del features
        gc.collect()
        assert [reference() for reference in dead] == [None] * 4


def test_remove_forgets_what_was_caught(model, images):
    hooks = FeatureHooks(model, ["layer3"])
    model(images)
    caught = weakref.ref(hooks._catchers["layer3"].caught)
    hooks.remove()
    gc.collect()
    assert caught() is None


def test_pop_without_a_forward_names_the_missing_features(model, images):
    hooks = FeatureHooks(model, ["layer3", "pooled"])
    with pytest.raises(DistillError, match="layer3, pooled"):
        hooks.pop()
    model(images)
    hooks.pop()
    with pytest.raises(DistillError, match="layer3, pooled since the last pop"):
        hooks.pop()


def test_hooks_do_not_pile_up(model):
    for _ in range(50):
        hooks = FeatureHooks(model, [*STAGES, "pooled", "last"])
        assert _hook_count(model) == 5  # "last" shares layer4's
        hooks.remove()
        hooks.remove()
        assert _hook_count(model) == 0


def test_leaving_the_context_removes_the_hooks(model):
    with FeatureHooks(model, STAGES):
        assert _hook_count(model) == 4
    assert _hook_count(model) == 0


def test_copy_of_a_hooked_model_neither_fires_nor_keeps_tensors(model, images):
    hooks = FeatureHooks(model, ["layer1", "pooled"])
    copied = copy.deepcopy(model)
    model(images)
    original = hooks._catchers["layer1"].caught
    copied(images + 1)
    assert hooks._catchers["layer1"].caught is original
    assert not any(isinstance(value, torch.Tensor) for value in vars(next(iter(copied.layer1._forward_hooks.values()))).values())
    late = copy.deepcopy(model)  # with a feature waiting in the hook
    assert not any(isinstance(value, torch.Tensor) for value in vars(next(iter(late.layer1._forward_hooks.values()))).values())


def test_saved_model_and_state_dict_carry_no_hook_state(model, images):
    plain = list(model.state_dict())
    hooks = FeatureHooks(model, ["layer1"])
    model(images)
    assert list(model.state_dict()) == plain
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded.eval()(images), model.eval()(images))
    hooks.pop()


def test_module_that_runs_twice_leaves_its_last_output(images):
    model = _Tiny()
    model.runs = 2
    hooks = FeatureHooks(model, ["conv"])
    model(images)
    assert torch.equal(hooks.pop()["conv"], model.conv(model.conv(images)))


def test_alias_stands_for_a_module_path(images):
    model = torchvision.models.mobilenet_v3_small(num_classes=4).eval()
    aliases = {"layer3": "features.8", "pooled": "avgpool"}
    with FeatureHooks(model, ["layer3", "pooled"], aliases) as hooks:
        model(images)
        features = hooks.pop()
    assert torch.equal(features["layer3"], model.features[:9](images))
    torch.testing.assert_close(features["pooled"], model.features(images).mean((2, 3)))


def test_last_is_timms_last_stage():
    model = timm.create_model("mobilenetv3_small_050", num_classes=4)
    hooks = FeatureHooks(model, ["last"])
    assert next(iter(hooks._catchers.values())).path == model.feature_info[-1]["module"]


def test_unknown_name_says_what_exists_and_sets_no_hook(model):
    with pytest.raises(RecipeError, match=r"no feature 'layr3'; it has layer1, layer2, layer3, layer4, pooled, last.*did you mean 'layer3'") as error:
        FeatureHooks(model, ["layer1", "layr3"])
    assert len(str(error.value)) < 400
    assert _hook_count(model) == 0


def test_unknown_alias_is_named_with_its_path(model):
    with pytest.raises(RecipeError, match=r"'layer3' \(mapped to 'blocks.7'\)"):
        FeatureHooks(model, ["layer3"], {"layer3": "blocks.7"})


def test_last_of_a_network_without_maps_is_an_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(RecipeError, match="no feature 'last'"):
        FeatureHooks(model, ["last"])


def test_output_that_is_no_tensor_is_an_error():
    model = nn.Sequential(nn.LSTM(3, 3))
    FeatureHooks(model, ["0"])
    with pytest.raises(DistillError, match="'0' is a tuple, not a tensor"):
        model(torch.zeros(1, 1, 3))


@pytest.mark.parametrize("pops_inside", [False, True])
@pytest.mark.parametrize("runs_eager_first", [False, True])
def test_hooks_are_traced_into_one_graph(images, pops_inside, runs_eager_first):
    model = _Tiny()
    hooks = FeatureHooks(model, ["conv", "norm", "pooled"])

    def step(images):
        logits = model(images)
        return logits, hooks.pop() if pops_inside else {}

    torch._dynamo.reset()
    if runs_eager_first:
        model(images)
        hooks.pop()
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    for shift in (0, 1):
        logits, features = compiled(images + shift)
        features = features or hooks.pop()
        expected = model.norm(model.conv(images + shift))
        torch.testing.assert_close(features["norm"], expected)
        torch.testing.assert_close(model.fc(features["pooled"]), logits)
        model.zero_grad()
        features["norm"].square().sum().backward()
        assert model.conv.weight.grad.abs().sum() > 0
    torch._dynamo.reset()


def test_resnet_hooks_are_traced_into_one_graph_and_equal_eager(model, images):
    model.eval()
    hooks = FeatureHooks(model, [*STAGES, "pooled"])
    model(images)
    expected = hooks.pop()
    torch._dynamo.reset()
    torch.compile(model, backend="eager", fullgraph=True)(images)
    features = hooks.pop()
    assert all(torch.equal(features[name], expected[name]) for name in expected)
    torch._dynamo.reset()


def test_shapes_are_measured_and_the_model_stays_as_it_was(model):
    model.train()
    model.layer1.eval()
    before = checksum(model)
    hooks = FeatureHooks(model, [*STAGES, "pooled", "last"])
    state = torch.get_rng_state()
    assert measure_shapes(model, hooks, 64) == {
        "layer1": FeatureShape(64, 16, 16),
        "layer2": FeatureShape(128, 8, 8),
        "layer3": FeatureShape(256, 4, 4),
        "layer4": FeatureShape(512, 2, 2),
        "pooled": FeatureShape(512),
        "last": FeatureShape(512, 2, 2),
    }
    assert checksum(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.layer4[0].training
    assert not model.layer1[0].training
    with pytest.raises(DistillError):  # the dry run's features are not left for the first step
        hooks.pop()


def test_shapes_are_measured_in_the_models_own_precision():
    model = _Tiny().double()
    assert measure_shapes(model, FeatureHooks(model, ["conv"]), 8) == {"conv": FeatureShape(3, 8, 8)}


def test_too_small_pictures_are_named_with_the_way_out():
    model = torchvision.models.alexnet(num_classes=4)
    with pytest.raises(RecipeError, match=r"pictures of 16 px are too small.*data.image_size, or stem: small"):
        measure_shapes(model, FeatureHooks(model, ["pooled"]), 16)
    assert model.training


def test_empty_map_counts_as_too_small():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=0.01))
    with pytest.raises(RecipeError, match="16 px are too small"):
        measure_shapes(model, FeatureHooks(model, ["1"]), 16)


def test_a_transformer_of_one_size_says_which_and_what_to_do():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=4)
    with pytest.raises(RecipeError, match=r"is made for pictures of 224 px, not of 96 .*teacher.image_size: 224; .*arguments: \{img_size: 96\}"):
        measure_shapes(model, FeatureHooks(model, ["layer4"]), 96)


def test_wrong_channel_count_is_not_blamed_on_the_size(model):
    with pytest.raises(RecipeError, match="can't take pictures of 1 channels and 32 px"):
        measure_shapes(model, FeatureHooks(model, ["layer1"]), 32, in_channels=1)


def test_tokens_are_handed_out_as_maps():
    model = timm.create_model("test_vit", num_classes=4).eval()
    size = model.default_cfg["input_size"][-1]
    hooks = FeatureHooks(model, ["layer4", "pooled"])
    assert measure_shapes(model, hooks, size) == {"layer4": FeatureShape(64, size // 16, size // 16), "pooled": FeatureShape(64)}
    images = torch.randn(2, 3, size, size)
    tokens = []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: tokens.append(output))
    logits = model(images)
    features = hooks.pop()
    assert torch.equal(features["layer4"][:, :, 0, 1], tokens[0][:, 2])  # after the class token, row by row
    assert torch.equal(features["layer4"][:, :, 1, 0], tokens[0][:, 1 + size // 16])
    assert torch.equal(model.head(features["pooled"]), logits)


def test_tokens_of_no_square_grid_are_neither_map_nor_vector():
    model = nn.Sequential(nn.Conv2d(3, 7, 1, stride=(1, 2)), nn.Flatten(2))
    with pytest.raises(RecipeError, match=r"'1' has shape \[2, 7, 450\].*tokens \[N, L, D\] of a square grid"):
        measure_shapes(model, FeatureHooks(model, ["1"]), 30)
