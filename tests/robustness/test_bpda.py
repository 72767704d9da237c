"""The copy without masks has the gradients of the network behind the masks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.robustness.checks.bpda import BPDASurrogate


class Masked(nn.Module):
    """A network behind a function of its input or its output."""

    def __init__(self, network: nn.Module, mask: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self.mask = mask

    def forward(self, images: Tensor) -> Tensor:
        return self.mask(self.network, images)


def without_graph(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(images)
    return logits


MASKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "detach": lambda net, x: net(x.detach()),
    "data": lambda net, x: net(x.data),
    "no_grad": without_graph,
    "round": lambda net, x: net(torch.round(16 * x) / 16),
    "floor": lambda net, x: net((255 * x).floor() / 255),
    "clamp": lambda net, x: net(x.clamp(0.4, 0.6)),
    "clip": lambda net, x: net(torch.clip(x, min=0.5)),
    "hardtanh": lambda net, x: functional.hardtanh(net(x), -1e-3, 1e-3),
    "scale": lambda net, x: 1e6 * net(x),
}


def direction(network: nn.Module, images: Tensor) -> Tensor:
    """Gradient (B, n) of the first logit minus the second, of length one."""
    variable = images.clone().requires_grad_()
    logits = network(variable)
    gradient = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), variable)[0].flatten(1)
    return gradient / gradient.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("mask", MASKS)
def test_what_a_mask_hides_comes_through(mask: str, linear: nn.Module, images: Tensor) -> None:
    images = images[:, :, :4, :4]
    masked = Masked(linear, MASKS[mask])
    torch.testing.assert_close(direction(BPDASurrogate(masked), images), direction(linear, images))


@pytest.mark.parametrize(
    "curve", [torch.sigmoid, torch.tanh, lambda z: torch.softmax(z, 1)], ids=["sigmoid", "tanh", "softmax"]
)
def test_saturation_is_taken_back(curve: Callable[[Tensor], Tensor], linear: nn.Module, images: Tensor) -> None:
    images = images[:, :, :4, :4]
    saturated = Masked(linear, lambda net, x: curve(1e4 * net(x)))
    gradient = direction(BPDASurrogate(saturated), images)
    assert torch.isfinite(gradient).all()
    assert bool(((gradient * direction(linear, images)).sum(1) > 0.5).all())


def test_without_a_mask_logits_are_scaled_and_nothing_else(network: nn.Module, images: Tensor) -> None:
    logits = network(images)
    found = BPDASurrogate(network)(images)
    torch.testing.assert_close(found, logits / logits.abs().amax(1, keepdim=True))
    torch.testing.assert_close(direction(BPDASurrogate(network), images), direction(network, images))


def test_nothing_stays_switched(network: nn.Module, images: Tensor) -> None:
    layer = nn.Dropout(0.5)
    layer.train()
    assert not BPDASurrogate(nn.Sequential(network, layer)).training
    assert layer.training
    BPDASurrogate(Masked(network, without_graph))(images)
    assert torch.is_grad_enabled()
    variable = images.clone().requires_grad_()
    assert not variable.detach().requires_grad
    assert not torch.autograd.grad(variable.round().sum(), variable)[0].any()
