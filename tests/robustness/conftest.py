from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="session")
def linear() -> nn.Module:
    """Logits are linear in the pixels."""
    generator = torch.Generator().manual_seed(5)
    layer = nn.Linear(48, 4)
    layer.weight.data = torch.randn((4, 48), generator=generator)
    layer.bias.data = torch.randn(4, generator=generator)
    return nn.Sequential(nn.Flatten(), layer)


class TwoClasses(NamedTuple):
    """A linear network of two classes and images that it classifies, grey, so that the bounds cut no ball."""

    network: nn.Module
    images: Tensor
    labels: Tensor

    def distances(self, order: float) -> np.ndarray:
        """How far each image, (40,), is from the other class, in the norm whose dual has this order."""
        layer = self.network[1]
        with torch.no_grad():
            logits = self.network(self.images).double()
        length = (layer.weight[0] - layer.weight[1]).double().detach().norm(order)
        return ((logits[:, 0] - logits[:, 1]).abs() / length).numpy()


@pytest.fixture
def two_classes(linear: nn.Module) -> TwoClasses:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    network[1].weight.data, network[1].bias.data = linear[1].weight.data[:2], linear[1].bias.data[:2]
    images = 0.45 + 0.1 * torch.rand((40, 3, 4, 4), generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        return TwoClasses(network, images, network(images).argmax(1))
