"""Residual trunks: the sizes of the published networks, the shortcut, and every stem before them."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from symmetry_robustness import build_network, load_config, load_network
from symmetry_robustness.engine.fusion import fuse
from symmetry_robustness.errors import UserError
from symmetry_robustness.models import export
from symmetry_robustness.models.residual import ResidualTrunk, ResidualUnit

STEMS = ("standard", "parallel_rotation", "parallel_scale", "parallel_rotation_scale", "cascaded", "weighted")
RESNET18 = "model/trunk=resnet18"
NARROW = (
    "model.trunk=[{_target_:symmetry_robustness.models.residual.ResidualTrunk,_partial_:true,widths:[8,12],units:1}]"
)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(in_channels: int, widths: list[int], units: int) -> int:
    """Weights of the convolutions of a residual network, as the papers' tables give them, projections included."""
    total = 0
    for width in widths:
        total += 9 * in_channels * width + (2 * units - 1) * 9 * width**2 + (in_channels != width) * in_channels * width
        in_channels = width
    return total


# Counts of the published networks: all but what our stem adds, the bias and the batch norm of its convolution.
@pytest.mark.parametrize(
    ("overrides", "published", "stem"),
    [([RESNET18, "model.stem.channels=64"], 11_172_170, 3 * 64), (["model/trunk=wide_resnet"], 36_479_194, 3 * 16)],
)
def test_has_as_many_parameters_as_published(overrides: list[str], published: int, stem: int) -> None:
    assert count(build_network(load_config("train", ["model=standard", *overrides]))) == published + stem


def test_convolutions_are_those_of_the_tables() -> None:
    trunk = ResidualTrunk(16, [8, 16, 24], units=2)
    found = sum(layer.weight.numel() for layer in trunk.modules() if isinstance(layer, nn.Conv2d))
    assert found == convolutions(16, [8, 16, 24], 2)


def test_a_unit_whose_residual_is_zero_passes_its_input_on() -> None:
    unit, features = ResidualUnit(4, 4), torch.randn(2, 4, 6, 6)
    before = features.clone()
    nn.init.zeros_(unit.residual[-1].weight)
    assert torch.equal(unit(features), features)
    assert torch.equal(features, before)  # the ReLU works in place, on what the batch norm returned


@pytest.mark.parametrize(("channels", "stride", "size"), [(4, 2, 3), (6, 1, 5), (6, 2, 3)])
def test_a_unit_projects_where_width_or_size_change(channels: int, stride: int, size: int) -> None:
    unit = ResidualUnit(4, channels, stride)
    assert unit.projects
    assert unit(torch.rand(1, 4, 5, 5)).shape == (1, channels, size, size)
    assert not ResidualUnit(4, 4).projects


@pytest.mark.parametrize("stem", STEMS)
def test_stands_behind_every_stem(stem: str) -> None:
    torch.manual_seed(0)
    config = load_config("train", [f"model={stem}", NARROW, "data.num_classes=7"])
    network = build_network(config)
    images = torch.rand(4, 3, 32, 32)
    network(images)  # batch norms learn from it
    exported = export(network)
    logits = exported(images)
    assert logits.shape == (4, 7)
    torch.testing.assert_close(network.eval()(images), logits, rtol=0, atol=1e-4)
    fused = fuse(exported, images)
    assert fused is not exported
    torch.testing.assert_close(fused(images), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["fully_equivariant", "invariant", "roto_scale"])
def test_is_refused_in_an_equivariant_network(model: str) -> None:
    with pytest.raises(UserError, match="choose model/trunk=plain"):
        build_network(load_config("train", [f"model={model}", RESNET18]))


def test_names_and_titles_mention_the_trunk() -> None:
    plain, residual = (load_config("train", ["model=cascaded", f"model/trunk={t}"]) for t in ("plain", "resnet18"))
    assert (plain.name, plain.title) == ("cascaded", "cascaded rotation")
    assert (residual.name, residual.title) == ("cascaded_resnet18", "cascaded rotation, ResNet-18")
    assert plain == load_config("train", ["model=cascaded"])


def test_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    config = load_config("train", [NARROW])
    network = build_network(config)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"config": OmegaConf.to_yaml(config), "state_dict": state}, tmp_path / "last.ckpt")
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(load_network(tmp_path / "last.ckpt")(images), network.eval()(images))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"widths": [], "units": 1}, "widths"),
        ({"widths": [8, 0], "units": 1}, "0"),
        ({"widths": [8], "units": 0}, "units"),
    ],
)
def test_refuses_what_is_no_network(settings: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ResidualTrunk(4, **settings)
