"""Every file of conf/model."""

from pathlib import Path

import pytest
import torch
from torch import nn

from symmetry_robustness.layers.fields import VectorBatchNorm
from symmetry_robustness.layers.scale import MultiScaleConv
from symmetry_robustness.models import build_network, export
from symmetry_robustness.models.stems import ScaleStem

CONF = Path(__file__).parents[2] / "conf" / "model"
ARCHITECTURES = (
    "standard",
    "parallel_rotation",
    "parallel_scale",
    "parallel_rotation_scale",
    "cascaded",
    "weighted",
    "fully_equivariant",
    "roto_scale",
)
EQUIVARIANT = ("fully_equivariant", "roto_scale")
OURS = ("invariant", "invariant_d4", "invariant_vector")
NAMES = [name + form for name in ARCHITECTURES for form in ("", "_4layer", "_matched")] + [
    *OURS,
    "invariant_4layer",
    "invariant_matched",
    "parallel_rotation_4layer_matched",
    "parallel_rotation_scale_4layer_matched",
    "adaptive",
    "adaptive_4layer",
]

EQUIVARIANT_BRANCH = "model/branch=scale_equivariant"

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


@pytest.mark.parametrize("name", ["parallel_rotation", "parallel_rotation_scale"])
def test_matched_form_of_four_layers_has_the_trunk_and_the_parameters_of_standard(compose_model, name):
    ours, standard = (compose_model(form) for form in (f"{name}_4layer_matched", "standard_4layer"))
    assert ours.model.trunk == standard.model.trunk
    counts = [count_parameters(build_network(config)) for config in (ours, standard)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


@pytest.mark.parametrize("name", OURS)
def test_invariant_form_has_nearly_the_parameters_of_fully_equivariant(compose_model, name):
    parameters = count_parameters(build_network(compose_model(name)))
    assert parameters == pytest.approx(RELEASED_PARAMETERS["fully_equivariant"], rel=0.01)


def test_invariant_form_has_the_depth_and_the_parameters_of_standard(compose_model):
    invariant, standard = (compose_model(f"{name}_4layer") for name in ("invariant", "standard"))
    shapes = [
        ["pool" if entry == "pool" else "conv" for entry in config.model.trunk] for config in (invariant, standard)
    ]
    assert shapes[0] == shapes[1]
    counts = [count_parameters(build_network(config)) for config in (invariant, standard)]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


def test_invariant_form_does_not_see_quarter_turns(compose_model):
    network = build_network(compose_model("invariant_4layer")).eval()
    images = torch.rand(4, 3, 32, 32)
    logits = network(images)
    for turns in (1, 2, 3):
        torch.testing.assert_close(network(torch.rot90(images, turns, (2, 3))), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in EQUIVARIANT])
def test_matched_form_has_the_trunk_of_standard(compose_model, name):
    network, standard = build_network(compose_model(f"{name}_matched")), build_network(compose_model("standard"))
    assert repr(network.trunk) == repr(standard.trunk)
    assert repr(network.head) == repr(standard.head)


WITH_BRANCH = [name for name in NAMES if "scale" in name and "parallel" in name]


@pytest.mark.parametrize("name", WITH_BRANCH)
def test_scale_branches_differ_in_nothing_but_their_weights(compose_model, name):
    paper, ours = (build_network(compose_model(name, *override)) for override in ((), (EQUIVARIANT_BRANCH,)))
    branches = [network.stem.branches.pop("scale") for network in (paper, ours)]
    assert [type(branch) for branch in branches] == [MultiScaleConv, ScaleStem]
    assert branches[0].out_channels == branches[1].out_channels == 48
    assert count_parameters(branches[0]) == 3 * count_parameters(branches[1])  # one set of weights for all scales
    assert repr(ours) == repr(paper)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [(name, ()) for name in NAMES] + [(name, (EQUIVARIANT_BRANCH,)) for name in WITH_BRANCH],
)
def test_trains_and_exports(compose_model, name, overrides):
    torch.manual_seed(0)
    network = build_network(compose_model(name, *overrides, num_classes=7))
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
