"""Networks that hold tensors with a history, or are differentiated by torch.func, work like any other."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm, weight_norm

from symmetry_robustness.models import build_network, export


class KeepsActivations(nn.Module):
    """Keeps what it last saw, as hooks that collect features do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.seen = layer, {}

    def forward(self, images: Tensor) -> Tensor:
        self.seen["last"] = [self.layer(images)]
        return self.seen["last"][0]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [weight_norm, spectral_norm, KeepsActivations, nn.utils.parametrizations.weight_norm],
    ids=["weight_norm", "spectral_norm", "kept activations", "parametrisation"],
)
def test_layers_that_hold_computed_tensors_are_exported(wrap):
    first = wrap(nn.Conv2d(3, 4, 3))
    network = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    images = torch.rand(6, 3, 8, 8)
    network(images).sum().backward()
    exported = export(network)
    torch.testing.assert_close(exported(images), network.eval()(images), rtol=0, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in exported.parameters())
    assert {id(one) for one in exported.parameters()}.isdisjoint(id(one) for one in network.parameters())
    copy.deepcopy(exported)  # as attacks and checks do


@pytest.mark.parametrize("name", ["invariant_4layer", "invariant_vector", "roto_scale_4layer", "standard_4layer"])
@pytest.mark.parametrize("plain", [False, True], ids=["as built", "exported"])
def test_jacobians_of_torch_func_are_those_of_autograd(name, plain, compose_model):
    torch.manual_seed(0)
    network = build_network(compose_model(name, "~model.trunk", "+model.trunk=[pool,4]")).eval()
    network = export(network) if plain else network
    images = torch.rand(2, 3, 32, 32)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda image: network(image[None])[0]))(images)
    for image, jacobian in zip(images, jacobians, strict=True):
        expected = torch.autograd.functional.jacobian(lambda one: network(one[None])[0], image)
        torch.testing.assert_close(jacobian, expected, rtol=1e-4, atol=1e-6)
