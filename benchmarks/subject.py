"""The network under attack, with its test images: the same for all ways of one benchmark."""

from pathlib import Path
from typing import Any, Final

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from symmetry_robustness import build_network, load_config, load_network
from symmetry_robustness.models import export

_JUDGED: Final = 512  # images, at least, on which its clean accuracy is taken


class Unfit(Exception):
    """The subject of a part is not what its figures would be about."""


def check_accuracy(what: str, value: float, low: float, high: float) -> None:
    """Refuse a subject whose accuracy lies outside of the range in which the figures mean something.

    Raises:
        Unfit: it lies outside.
    """
    if not low <= value <= high:
        raise Unfit(f"{what} is {value:.1%}, outside {low:.0%} to {high:.0%}: ratios on such a network mean nothing")


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that are classified correctly."""
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).float().mean())


def subject(
    device: str, checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 512
) -> tuple[nn.Module, Tensor, Tensor]:
    """The network under attack with its test images (size, 3, 32, 32) and labels, all on the CPU.

    Args:
        device: "cpu" or "cuda", where it is trained.
        checkpoint: of a trained network; without it a standard one is trained on the embedded data set.
        overrides: of the configuration, to choose the data, such as "data=cifar10".
        size: number of test images.

    Raises:
        Unfit: fewer than half of the test images are classified correctly.
    """
    config = load_config("train", list(overrides))
    datamodule = instantiate(config.data)
    images, labels, _ = datamodule.subset("test", max(size, _JUDGED), seed=0)
    network = load_network(Path(checkpoint)) if checkpoint is not None else _trained(config, datamodule, device)
    check_accuracy("clean accuracy of the subject", accuracy(network, images, labels), 0.5, 1.0)
    return network, images[:size], labels[:size]


def _trained(config: DictConfig, datamodule: Any, device: str) -> nn.Module:
    torch.manual_seed(0)
    network = build_network(config).to(device)
    train_images, train_labels, _ = datamodule.subset("train", 8192, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):
        for x, y in zip(train_images.split(128), train_labels.split(128), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimizer.step()
    return export(network).cpu()
