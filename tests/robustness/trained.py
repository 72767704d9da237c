"""Small networks, trained within seconds on the embedded data set, that soundness checks have nothing to say about."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.data.shapes import make_shapes
from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.layers.pooling import GroupPool
from symmetry_robustness.layers.rotation import RotationConv


def shapes(size: int, part: int) -> tuple[Tensor, Tensor]:
    """Images (size, 3, 16, 16) in [0, 1] of ten shapes, and their labels."""
    images, labels = make_shapes(size, seed=0, part=part)[:2]
    return functional.avg_pool2d(images.float() / (255 if images.dtype == torch.uint8 else 1), 2), labels


def blobs(size: int, part: int) -> tuple[Tensor, Tensor]:
    """Ten classes that a linear network can tell apart: noise around one random image each."""
    centres = 0.4 + 0.2 * torch.rand((10, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(size) % 10
    noise = torch.randn((size, 3, 16, 16), generator=torch.Generator().manual_seed(part))
    return (centres[labels] + 0.2 * noise).clamp(0, 1), labels


def convolutional(*, dropout: float = 0.0, normalize: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [Normalize(0.5, 0.5) for _ in range(normalize)]
    layers += [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(512, 10))


def rotation() -> nn.Sequential:
    first = RotationConv("C4", 3, 4, in_representation="trivial")
    second = RotationConv("C4", 4, 8)
    layers = [Normalize(0.5, 0.5), first, InnerBatchNorm(4, 4), nn.ReLU(), nn.MaxPool2d(2), second]
    return nn.Sequential(
        *layers, InnerBatchNorm(8, 4), nn.ReLU(), nn.MaxPool2d(2), GroupPool(4), nn.Flatten(), nn.Linear(128, 10)
    )


def linear() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 10))


def train(
    network: nn.Module,
    epochs: int,
    data: Callable[[int, int], tuple[Tensor, Tensor]] = shapes,
    adversary: Callable[..., Tensor] | None = None,
) -> nn.Module:
    """The network, trained on 2,000 images, in evaluation mode."""
    images, labels = data(2000, 11)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(50):
            batch = images[rows]
            if adversary is not None:
                network.eval()
                batch = adversary(network, batch, labels[rows], ThreatModel("linf", 2 / 255))
            network.train()
            loss = functional.cross_entropy(network(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


SOUND: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: train(convolutional(), 10),
    "adversarial": lambda: train(convolutional(), 12, adversary=PGD(steps=2)),
    "linear": lambda: train(linear(), 5, blobs),
    "rotation": lambda: train(rotation(), 10),
    "dropout": lambda: train(convolutional(dropout=0.3), 10),
}
