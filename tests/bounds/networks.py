"""Small networks that together hold every operation whose bounds are known."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from symmetry_robustness.layers.fields import InnerBatchNorm
from symmetry_robustness.layers.normalize import Normalize
from symmetry_robustness.layers.pooling import GroupPool
from symmetry_robustness.layers.rotation import RotationConv
from symmetry_robustness.layers.scale import MultiScaleConv, ScaleConv, ScaleLifting
from symmetry_robustness.layers.scale_group import ScaleGroup
from symmetry_robustness.models import export

SIZE = 8


class Residual(nn.Module):
    """A block with a shortcut, changed in place, scaled and shifted by constants."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.weight = nn.Parameter(torch.rand(2))

    def forward(self, features: Tensor) -> Tensor:
        inner = self.norm(self.conv(features))
        inner = functional.relu_(inner)
        mixed = inner * self.weight.softmax(0)[0] + features - 0.1
        return torch.cat([mixed[:, 3:], -mixed[:, :3] / 2], dim=1)


def _mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * SIZE**2, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 5)
    )


def _convolutional() -> nn.Sequential:
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
    ]
    return nn.Sequential(Normalize(0.5, 0.5), *layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 5))


def _residual() -> nn.Sequential:
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), pool, Residual(), nn.ReLU(), Residual(), *head)


def _invariant() -> nn.Sequential:
    first, second = RotationConv("C4", 3, 2, in_representation="trivial"), RotationConv("C4", 2, 3)
    layers = [first, InnerBatchNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), second, InnerBatchNorm(3, 4), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), GroupPool(4), nn.Flatten(), nn.Linear(3, 5))


def _scales() -> nn.Sequential:
    group = ScaleGroup(2)
    layers = [ScaleLifting(group, 6, 2), nn.ReLU(), ScaleConv(group, 2, 2), GroupPool(2), nn.MaxPool2d(2)]
    return nn.Sequential(MultiScaleConv(2), *layers, nn.Flatten(), nn.Linear(2 * (SIZE // 2) ** 2, 5))


MADE: dict[str, Callable[[], nn.Sequential]] = {
    "mlp": _mlp,
    "convolutional": _convolutional,
    "residual": _residual,
    "invariant": _invariant,
    "scales": _scales,
}


def make(name: str) -> nn.Module:
    """A network by its name, with batch norms that do something."""
    torch.manual_seed(0)
    network = MADE[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = (
                0.2 * torch.randn(module.num_features),
                0.5 + torch.rand(module.num_features),
            )
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.2)
    return export(network)


def pictures(count: int) -> Tensor:
    """Images (count, 3, SIZE, SIZE), the first black and white."""
    images = torch.rand((count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    images[0] = images[0].round()
    return images
