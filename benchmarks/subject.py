"""The network under attack, with its test images: the same for all ways of one benchmark."""

from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from symmetry_robustness import build_network, load_config, load_network
from symmetry_robustness.models import export


def subject(
    device: str, checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 512
) -> tuple[nn.Module, Tensor, Tensor]:
    """The network under attack with its test images (size, 3, 32, 32) and labels, all on the CPU.

    Args:
        device: "cpu" or "cuda", where it is trained.
        checkpoint: of a trained network; without it a standard one is trained on the embedded data set.
        overrides: of the configuration, to choose the data, such as "data=cifar10".
        size: number of test images.
    """
    config = load_config("train", list(overrides))
    datamodule = instantiate(config.data)
    images, labels, _ = datamodule.subset("test", size, seed=0)
    if checkpoint is not None:
        return load_network(Path(checkpoint)), images, labels
    torch.manual_seed(0)
    network = build_network(config).to(device)
    train_images, train_labels, _ = datamodule.subset("train", 8192, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):
        for x, y in zip(train_images.split(128), train_labels.split(128), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimizer.step()
    return export(network).cpu(), images, labels
