import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def network() -> nn.Module:
    """A small convolutional network, untrained, in evaluation mode."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.rand((30, 3, 8, 8), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def labels(network: nn.Module, images: Tensor) -> Tensor:
    """Predictions of the network, of which every fifth is made wrong."""
    with torch.no_grad():
        predictions = network(images).argmax(1)
    predictions[::5] = (predictions[::5] + 1) % 5
    return predictions


@pytest.fixture(scope="session")
def linear() -> nn.Module:
    """Logits are linear in the pixels."""
    generator = torch.Generator().manual_seed(5)
    layer = nn.Linear(48, 4)
    layer.weight.data = torch.randn((4, 48), generator=generator)
    layer.bias.data = torch.randn(4, generator=generator)
    return nn.Sequential(nn.Flatten(), layer)
