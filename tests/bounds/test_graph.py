import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.bounds.graph import trace, values_at
from symmetry_robustness.errors import UserError

from .networks import MADE, SIZE, make, pictures


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", MADE)
def test_a_traced_network_has_the_logits_of_the_network(name: str, memory_format: torch.memory_format) -> None:
    network, images = make(name), pictures(7)
    expected = network.double()(images.double())
    graph = trace(network.float().to(memory_format=memory_format), images)
    assert (values_at(graph, images) - expected).abs().max() < 1e-12 * expected.abs().max()


class Odd(nn.Module):
    """Flattens and does one thing more."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.linear = what, nn.Linear(3 * SIZE**2, 4)

    def forward(self, images: Tensor) -> Tensor:
        values = self.linear(images.flatten(1))
        if self.what == "sigmoid":
            return values.sigmoid()
        if self.what == "product":
            return values * values
        if self.what == "batch":
            return values - values.mean(0)
        if self.what == "flipped":
            return values.flip(0)
        if self.what == "noise":
            return values + torch.rand(4)
        if self.what == "bicubic":
            return functional.interpolate(images, scale_factor=0.25, mode="bicubic").flatten(1)
        if self.what == "folded":
            return images.reshape(-1, SIZE, SIZE).amax(1).reshape(len(images), -1)
        if self.what == "places":
            return images.flatten(1).reshape(len(images), 4, -1).max(1)[1].float()
        if self.what == "numpy":
            return self.linear(torch.from_numpy(images.numpy().copy()).flatten(1))
        if self.what == "branch":
            return values if images.sum() > 0 else -values
        return torch.zeros(len(images), 4)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("sigmoid", "operation 'sigmoid', for which no bounds are known; leave"),
        ("product", "operation 'mul'"),
        ("batch", "operation 'mean'"),
        ("flipped", "operation 'flip'"),
        ("noise", "operation 'rand'"),
        ("bicubic", "operation 'upsample_bicubic2d'"),
        ("folded", "operation 'view'"),
        ("places", r"operation 'max \(its other results than the first\)'"),
        ("numpy", "leaves torch between image and logits"),
        ("branch", "cannot be traced for bounds"),
        ("constant", "do not depend on the image"),
    ],
)
def test_what_has_no_known_bounds_is_refused_by_name(what: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        trace(Odd(what).eval(), pictures(2))
    assert "\n" not in str(raised.value)


def test_sizes_may_leave_the_number_of_images_open() -> None:
    class Open(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(-1, 3, SIZE**2).amax(2).view(-1, 3)

    images = pictures(5)
    assert torch.equal(values_at(trace(Open(), images), images), images.double().amax((2, 3)))


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(UserError, match="training mode"):
        trace(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), pictures(2))
