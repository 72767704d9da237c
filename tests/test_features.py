"""Features that are read inside of networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from symmetry_robustness import load_config
from symmetry_robustness.errors import UserError
from symmetry_robustness.features import default_layers, pooled_feature, read_features
from symmetry_robustness.layers.export import export
from symmetry_robustness.models import build_network

MODELS = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "model").glob("*_4layer.yaml"))


class Wrapped(nn.Module):
    """A network of another kind inside of a wrapper: a plain first layer, units that are called twice, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.first = nn.Conv2d(3, 4, 3)
        self.inner.layers = nn.ModuleList([Unit(), nn.Sequential(Unit(), Unit())])
        self.inner.unused = Unit()
        self.inner.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.inner.first(images)
        for layer in self.inner.layers:
            features = layer(layer(features))
        return self.inner.head(features.mean((2, 3)))


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


def network_of(model: str) -> nn.Module:
    return build_network(load_config("train", [f"model={model}"]))


@pytest.mark.parametrize("model", MODELS)
def test_the_blocks_of_our_networks_and_what_their_classifier_gets(model: str) -> None:
    network, images = network_of(model), torch.rand(2, 3, 32, 32)
    logits, features = read_features(network, images, default_layers(network))
    assert len(features) == 5, "four convolution blocks, and the pooled feature"
    assert next(iter(features)) == "stem"
    *blocks, pooled = features.values()
    assert all(block.dim() == 4 for block in blocks)
    assert pooled.dim() == 2
    assert torch.equal(network.get_submodule(list(features)[-1].removesuffix(":input"))(pooled), logits)


@pytest.mark.parametrize("model", MODELS)
def test_the_exported_network_has_the_same_layers_and_features(model: str) -> None:
    network, images = network_of(model).eval(), torch.rand(2, 3, 32, 32)
    plain = export(network)
    assert default_layers(plain) == default_layers(network)
    found = (read_features(each, images, default_layers(network))[1].values() for each in (network, plain))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_residual_trunks_have_a_feature_for_each_unit() -> None:
    network = build_network(load_config("train", ["model=standard_4layer", "model/trunk=resnet18"]))
    units = [f"trunk.0.{number}" for number in range(8)]
    assert default_layers(network) == ("stem", *units, "head.1:input")


def test_other_networks_are_taken_apart_where_a_classifier_or_several_layers_are() -> None:
    names = ("inner.first", "inner.layers.0", "inner.layers.1.0", "inner.layers.1.1", "inner.unused")
    assert default_layers(Wrapped()) == (*names, "inner.head:input")
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    assert default_layers(flat) == ("0", "3", "5:input")
    assert pooled_feature(flat) == "5:input"


def test_of_several_calls_the_last_counts() -> None:
    network, images = Wrapped(), torch.rand(2, 3, 4, 4)
    _, features = read_features(network, images, ["inner.layers.1", "inner.head:input"])
    torch.testing.assert_close(features["inner.layers.1"].mean((2, 3)), features["inner.head:input"])


def test_gradients_flow_and_no_hook_stays() -> None:
    network, images = network_of("standard_4layer"), torch.rand(2, 3, 32, 32)
    _, features = read_features(network, images, ["stem"])
    features["stem"].sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in network.named_parameters() if p.grad is not None] == [
        f"stem.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")
    ]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("nowhere", "by default: inner.first, inner.layers.0"),
        ("inner.unused", r"layers=\['inner.unused'\] gave no tensor"),
    ],
)
def test_layers_that_cannot_be_read_are_refused_and_no_hook_stays(layer: str, said: str) -> None:
    network = Wrapped()
    with pytest.raises(UserError, match=said):
        read_features(network, torch.rand(2, 3, 4, 4), ["inner.first", layer])
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_weights_has_no_layers() -> None:
    with pytest.raises(UserError, match="no layer with weights"):
        default_layers(nn.Flatten())


@pytest.mark.parametrize("compiled", ["in place", "wrapped"])
def test_compiled_networks_are_refused(compiled: str) -> None:
    network: Any = Wrapped()
    if compiled == "wrapped":
        network = torch.compile(network, backend="eager")
    else:
        network.compile(backend="eager")
    with pytest.raises(UserError, match=r"compute\.compile=false"):
        read_features(network, torch.rand(2, 3, 4, 4), ["inner.first"])
