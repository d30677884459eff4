"""Costs against published figures."""

import pytest

from distill.engine.costs import measure_costs
from distill.engine.network import Network
from distill.models.zoo import create_model


@pytest.mark.parametrize(("name", "gmacs", "parameters"), [("resnet18", 1.814, 11_689_512), ("resnet50", 4.089, 25_557_032)])
def test_costs_are_those_that_torchvision_publishes(name, gmacs, parameters):
    network = Network(create_model(name, num_classes=1000), mean=(0.5,) * 3, std=(0.5,) * 3)
    network.train()
    before = network.model.bn1.running_mean.clone()
    weights = network.model.fc.weight.clone()
    costs = measure_costs(network, 224, batch_size=2, is_trained=True)
    assert costs.num_parameters == parameters
    assert costs.gmacs == pytest.approx(gmacs, abs=0.001)
    assert costs.images_per_second > 0
    assert 0 < costs.training_images_per_second < costs.images_per_second
    assert (network.model.fc.weight == weights).all()
    assert network.model.fc.weight.grad is None
    assert network.training
    assert (network.model.bn1.running_mean == before).all()
