"""The curve of accuracy over epsilon: the evaluator against a plain loop, and against PGD of torchattacks.

All three attack the same network with the same settings (40 steps of 0.005, 15 epsilons from 0.005 to 0.075, linf) on
the same images. The plain loop is what a hand-written script does: every epsilon from the start, every image, every
step, gradients of the parameters included.
"""

import time

import torch
from torch import Tensor, nn

from symmetry_robustness import build_network, load_config, load_network
from symmetry_robustness.attacks import PGD
from symmetry_robustness.models import export
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness

EPSILONS = [0.005 * step for step in range(1, 16)]
STEPS, STEP_SIZE, BATCH_SIZE = 40, 0.005, 128


def subject(
    device: str, checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 512
) -> tuple[nn.Module, Tensor, Tensor]:
    """The network under attack with its test images (size, 3, 32, 32) and labels.

    Args:
        device: "cpu" or "cuda".
        checkpoint: of a trained network; without it a standard one is trained on the embedded data set.
        overrides: of the configuration, to choose the data, such as "data=cifar10".
        size: number of test images.
    """
    from hydra.utils import instantiate

    config = load_config("train", list(overrides))
    datamodule = instantiate(config.data)
    images, labels, _ = datamodule.subset("test", size, seed=0)
    if checkpoint is not None:
        return load_network(checkpoint).to(device), images.to(device), labels.to(device)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = build_network(config).to(device)
    train_images, train_labels, _ = datamodule.subset("train", 8192, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(3):
        for x, y in zip(train_images.split(128), train_labels.split(128), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x.to(device)), y.to(device)).backward()
            optimizer.step()
    return export(network), images.to(device), labels.to(device)


def plain_loop(network: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Accuracy at each epsilon by a hand-written PGD on every batch."""
    accuracies = []
    for epsilon in EPSILONS:
        correct = 0
        for batch, targets in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            attacked = batch.clone()
            for _ in range(STEPS):
                attacked.requires_grad_(True)
                loss = nn.functional.cross_entropy(network(attacked), targets)
                network.zero_grad()
                loss.backward()
                with torch.no_grad():
                    moved = attacked + STEP_SIZE * attacked.grad.sign()  # type: ignore[union-attr]
                    attacked = (batch + (moved - batch).clamp(-epsilon, epsilon)).clamp(0, 1)
            with torch.no_grad():
                correct += int((network(attacked).argmax(1) == targets).sum())
        accuracies.append(correct / len(images))
    return accuracies


def torchattacks_loop(network: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Accuracy at each epsilon by torchattacks' PGD on every batch."""
    import torchattacks

    accuracies = []
    for epsilon in EPSILONS:
        attack = torchattacks.PGD(network, eps=epsilon, alpha=STEP_SIZE, steps=STEPS, random_start=False)
        attack.set_device(images.device)
        correct = 0
        for batch, targets in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            attacked = attack(batch, targets)
            with torch.no_grad():
                correct += int((network(attacked).argmax(1) == targets).sum())
        accuracies.append(correct / len(images))
    return accuracies


def evaluator(network: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Accuracy at each epsilon by the evaluator."""
    batch_size = BATCH_SIZE if images.device.type == "cpu" else 1024
    protocol = EvaluationProtocol(
        {"pgd": PGD(STEPS, STEP_SIZE)}, epsilons=EPSILONS, batch_size=batch_size, checks="cheap"
    )
    report = evaluate_robustness(network, images, labels, protocol)
    return [report.accuracy("pgd", epsilon).value for epsilon in EPSILONS]


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 512
) -> list[dict[str, float | str]]:
    """Seconds of each way, and the largest amount by which an accuracy of the evaluator exceeds theirs."""
    network, images, labels = subject(device, checkpoint, overrides, size)
    evaluator(network, images, labels)  # warm-up
    results = {}
    for way in (evaluator, plain_loop, torchattacks_loop):
        # The scripts' networks have parameters that take gradients; the evaluator does not care.
        network.requires_grad_(way is not evaluator)
        start = time.perf_counter()
        results[way.__name__] = way(network, images, labels), time.perf_counter() - start
    ours, seconds = results["evaluator"]
    return [
        {
            "against": name,
            "theirs s": theirs,
            "ours s": seconds,
            "ratio": theirs / seconds,
            "largest excess": max(own - other for own, other in zip(ours, accuracies, strict=True)),
        }
        for name, (accuracies, theirs) in results.items()
        if name != "evaluator"
    ]
