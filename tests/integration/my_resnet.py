"""Networks as a user brings them, without anything of this project: a ResNet-18, and what does not work."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, num_classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        stages = [nn.Sequential(BasicBlock(a, b, 1 if a == b else 2), BasicBlock(b, b, 1)) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*stages)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layers(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))
        return logits


class Viewed(ResNet18):
    """With the head as many write it."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.layers(torch.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(features.view(features.size(0), -1).unflatten(1, (-1, 16)).mean(2))
        return logits


class Pair(ResNet18):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x), x  # type: ignore[return-value]


class Named(ResNet18):
    def forward(self, x: Tensor) -> Tensor:
        return {"logits": super().forward(x)}  # type: ignore[return-value]


class Softmax(ResNet18):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Small(nn.Module):
    """For images of 28 × 28 pixels."""

    def __init__(self, **settings: object) -> None:
        super().__init__()
        if settings:
            raise TypeError(f"unexpected {settings}")
        self.fc = nn.Linear(3 * 28 * 28, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def number() -> int:
    return 3


def leave() -> None:
    raise SystemExit(3)
