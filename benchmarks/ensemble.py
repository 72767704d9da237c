"""The ensemble of `robustness=strong` against AutoAttack of torchattacks, on the same images at 8/255.

Two networks: the trained one, which hardly withstands anything, and the same after further training on adversarial
images, on which the expensive attacks have to do their work.
"""

import time

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from benchmarks.sweep import subject
from symmetry_robustness import load_config
from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness

EPSILON, BATCH_SIZE = 8 / 255, 128


def harden(network: nn.Module, overrides: tuple[str, ...], device: str, steps: int = 192) -> nn.Module:
    """Train a network further on adversarial images (arXiv 1706.06083) of the training split."""
    images, labels, _ = instantiate(load_config("train", list(overrides)).data).subset("train", 4096, seed=0)
    optimizer = torch.optim.Adam(network.requires_grad_(True).parameters(), lr=1e-3)
    attack = PGD(steps=5, random_start=True)
    for step in range(steps):
        rows = torch.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE) % len(images)
        x, y = images[rows].to(device), labels[rows].to(device)
        threat = ThreatModel(epsilon=EPSILON * min(1.0, 2 * (step + 1) / steps))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(attack(network, x, y, threat)), y).backward()
        optimizer.step()
    return network


def strong() -> EvaluationProtocol:
    """The protocol of robustness=strong."""
    config = load_config("evaluate", ["checkpoint=none", "robustness=strong"]).robustness
    protocol: EvaluationProtocol = instantiate(config, _convert_="all")
    return protocol


def autoattack(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Robust accuracy under AutoAttack of torchattacks, at its own settings."""
    import torchattacks

    attack = torchattacks.AutoAttack(network, eps=EPSILON, n_classes=10, seed=0)
    attack.set_device(images.device)
    correct = 0
    for batch, targets in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        attacked = attack(batch, targets)
        with torch.no_grad():
            correct += int((network(attacked).argmax(1) == targets).sum())
    return correct / len(images)


def compare(name: str, network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float | str]:
    """Seconds and robust accuracies of both on one network."""
    protocol, start = strong(), time.perf_counter()
    report = evaluate_robustness(network.requires_grad_(False), images, labels, protocol)
    ours, start = time.perf_counter() - start, time.perf_counter()
    accuracy = autoattack(network.requires_grad_(True), images, labels)
    theirs = time.perf_counter() - start
    return {
        "network": name,
        "clean": report.clean_accuracy,
        "their accuracy": accuracy,
        "our accuracy": report.worst_case(EPSILON).value,
        "theirs s": theirs,
        "ours s": ours,
        "ratio": theirs / ours,
    }


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 256
) -> list[dict[str, float | str]]:
    """A row for the network as it is, and one for it after adversarial training."""
    network, images, labels = subject(device, checkpoint, overrides, size)
    evaluate_robustness(network, images[:2], labels[:2], strong())  # warm-up
    rows = [compare("as trained", network, images, labels)]
    return [*rows, compare("adversarially trained", harden(network, overrides, device), images, labels)]
