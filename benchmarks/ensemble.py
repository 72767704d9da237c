"""The ensemble of `robustness=strong` against AutoAttack of torchattacks, on the same images at 8/255.

Two networks: the trained one, which hardly withstands anything, and the same after further training on adversarial
images, on which the expensive attacks have to do their work.
"""

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from benchmarks.alone import alone
from benchmarks.subject import accuracy, check_accuracy, subject
from symmetry_robustness import load_config
from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness
from symmetry_robustness.runs.process import keep_freed_memory

EPSILON, BATCH_SIZE = 8 / 255, 128
PLAIN = "as trained"


def harden(network: nn.Module, overrides: tuple[str, ...], device: str, steps: int = 192) -> nn.Module:
    """Train a network further on adversarial images (arXiv 1706.06083) of the training split; end in evaluation mode.

    Batch norms take the statistics of the attacked batches: with those of clean images the training collapses.
    """
    images, labels, _ = instantiate(load_config("train", list(overrides)).data).subset("train", 4096, seed=0)
    optimizer = torch.optim.Adam(network.requires_grad_(True).parameters(), lr=1e-3)
    attack = PGD(steps=5, random_start=True)
    for step in range(steps):
        rows = torch.arange(step * BATCH_SIZE, (step + 1) * BATCH_SIZE) % len(images)
        x, y = images[rows].to(device), labels[rows].to(device)
        threat = ThreatModel(epsilon=EPSILON * min(1.0, 2 * (step + 1) / steps))
        attacked = attack(network.eval(), x, y, threat)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network.train()(attacked), y).backward()
        optimizer.step()
    return network.eval()


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


def cascade(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Clean and robust accuracy under `robustness=strong`."""
    keep_freed_memory()
    report = evaluate_robustness(network.requires_grad_(False), images, labels, strong())
    return report.clean_accuracy, report.worst_case(EPSILON).value


def compare(name: str, network: nn.Module, images: Tensor, labels: Tensor, device: str) -> dict[str, float | str]:
    """Seconds and robust accuracies of both on one network.

    Raises:
        Unfit: it classifies hardly better than by chance, or was trained adversarially and withstands nothing.
    """
    hardened = name != PLAIN
    check_accuracy(f"clean accuracy, {name},", accuracy(network, images, labels), 0.25 if hardened else 0.5, 1.0)
    network.requires_grad_(True)
    ours = alone(cascade, network, images, labels, device=device, warm_up=2)
    theirs = alone(autoattack, network, images, labels, device=device, warm_up=2)
    clean, robust = ours.result
    check_accuracy(f"robust accuracy, {name},", theirs.result, *((0.1, 0.9) if hardened else (0.0, 0.5)))
    return {
        "network": name,
        "clean": clean,
        "their accuracy": theirs.result,
        "our accuracy": robust,
        "theirs s": theirs.seconds,
        "ours s": ours.seconds,
        "ratio": theirs.seconds / ours.seconds,
    }


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 256
) -> list[dict[str, float | str]]:
    """A row for the network as it is, and one for it after adversarial training."""
    network, images, labels = subject(device, checkpoint, overrides, size)
    rows = [compare(PLAIN, network, images, labels, device)]
    return [
        *rows,
        compare("adversarially trained", harden(network.to(device), overrides, device).cpu(), images, labels, device),
    ]
