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
from symmetry_robustness.models.network import Network
from symmetry_robustness.models.roto_scale import RotoScaleNetwork
from symmetry_robustness.models.stems import ConvStem, RotationStem, WeightedStem


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


def perceptron() -> nn.Sequential:
    layers = [Normalize(0.5, 0.25), nn.Flatten(), nn.Linear(768, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def group_norm() -> nn.Sequential:
    layers: list[nn.Module] = [Normalize(0.5, 0.25)]
    for before, width in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def layer_norm() -> nn.Sequential:
    """Patches of 2×2 pixels, layer norm and GELU, as vision transformers have them."""
    layers: list[nn.Module] = [Normalize(0.5, 0.25), nn.Conv2d(3, 16, 3, padding=1), nn.LayerNorm([16, 16, 16])]
    layers += [nn.GELU(), nn.Conv2d(16, 32, 2, stride=2), nn.LayerNorm([32, 8, 8]), nn.GELU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def roto_scale() -> nn.Sequential:
    trunk = ["pool", 6, "pool", 12]
    return RotoScaleNetwork(2, 4, 3, trunk, num_classes=10, mean=0.5, std=0.25, image_size=16)  # type: ignore[arg-type]


def weighted() -> nn.Sequential:
    stem = WeightedStem(ConvStem(16), RotationStem("C4", fields=4, activation=False))
    return Network(stem, ["pool", 32, "pool"], num_classes=10, mean=0.5, std=0.25, image_size=16)


class Residual(nn.Module):
    """A block of two convolutions around which the features pass by."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.branch = nn.Sequential(first, nn.BatchNorm2d(width), nn.ReLU(), second, nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        return (features + self.branch(features)).relu()


def residual() -> nn.Sequential:
    layers: list[nn.Module] = [Normalize(0.5, 0.25), nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [Residual(16), nn.MaxPool2d(2), nn.Conv2d(16, 32, 1), Residual(32), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


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


# Networks of these are given what a linear network can tell apart.
ON_BLOBS = ("linear", "perceptron")
SOUND: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: train(convolutional(), 10),
    "adversarial": lambda: train(convolutional(), 12, adversary=PGD(steps=2)),
    "linear": lambda: train(linear(), 5, blobs),
    "rotation": lambda: train(rotation(), 10),
    "dropout": lambda: train(convolutional(dropout=0.3), 10),
    "perceptron": lambda: train(perceptron(), 8, blobs),
    "group norm": lambda: train(group_norm(), 10),
    "layer norm": lambda: train(layer_norm(), 20),
    "roto-scale": lambda: train(roto_scale(), 6),
    "weighted": lambda: train(weighted(), 10),
    "residual": lambda: train(residual(), 5),
}
