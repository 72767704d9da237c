"""Every file of conf/model."""

from pathlib import Path

import pytest
import torch
from torch import nn

from symmetry_robustness.layers.fields import VectorBatchNorm
from symmetry_robustness.models import build_network, export

CONF = Path(__file__).parents[2] / "conf" / "model"
ARCHITECTURES = (
    "standard",
    "parallel_rotation",
    "parallel_scale",
    "parallel_rotation_scale",
    "cascaded",
    "weighted",
    "fully_equivariant",
)
OURS = ("invariant", "invariant_d4", "invariant_vector")
NAMES = [name + form for name in ARCHITECTURES for form in ("", "_4layer", "_matched")] + list(OURS)

# Counted in the released scripts' networks.
RELEASED_PARAMETERS = {
    "standard": 1_771_562,
    "parallel_rotation": 2_383_450,
    "parallel_rotation_scale": 2_340_250,
    "cascaded": 4_700_506,
    "weighted": 4_541_996,
    "fully_equivariant": 4_127_706,
}


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_files_are_the_ones_listed():
    assert {path.stem for path in CONF.glob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize(("name", "parameters"), RELEASED_PARAMETERS.items())
def test_has_as_many_parameters_as_released(compose_model, name, parameters):
    assert count_parameters(build_network(compose_model(name))) == parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_four_layer_form_has_four_weighted_layers(compose_model, name):
    trunk = compose_model(f"{name}_4layer").model.trunk
    assert sum(isinstance(entry, int) for entry in trunk) == 3
    assert list(trunk) == list(compose_model(name).model.trunk)[: len(trunk)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_matched_form_has_the_parameters_of_standard(compose_model, name):
    parameters = count_parameters(build_network(compose_model(f"{name}_matched")))
    assert parameters == pytest.approx(RELEASED_PARAMETERS["standard"], rel=0.05)


@pytest.mark.parametrize("name", OURS)
def test_invariant_form_has_nearly_the_parameters_of_fully_equivariant(compose_model, name):
    parameters = count_parameters(build_network(compose_model(name)))
    assert parameters == pytest.approx(RELEASED_PARAMETERS["fully_equivariant"], rel=0.01)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "fully_equivariant"])
def test_matched_form_has_the_trunk_of_standard(compose_model, name):
    network, standard = build_network(compose_model(f"{name}_matched")), build_network(compose_model("standard"))
    assert repr(network.trunk) == repr(standard.trunk)
    assert repr(network.head) == repr(standard.head)


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_exports(compose_model, name):
    torch.manual_seed(0)
    network = build_network(compose_model(name, num_classes=7))
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    keys = list(network.state_dict())
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # plain averages, so that one step makes the statistics those of the images
        elif isinstance(module, VectorBatchNorm):
            module.momentum = 1.0
    nn.functional.cross_entropy(network(images), labels).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert list(network.eval().state_dict()) == keys

    exported, logits = export(network), network(images)
    assert logits.shape == (4, 7)
    assert float(logits.detach().std(dim=0).min()) > 1e-3  # images tell apart, so that agreement means something
    torch.testing.assert_close(exported(images), logits, rtol=0, atol=1e-5)
    assert not any(hasattr(module, "export") for module in exported.modules())
