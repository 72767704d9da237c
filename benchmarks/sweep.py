"""The curve of accuracy over epsilon: the evaluator against a plain loop, and against PGD of torchattacks.

All three attack the same network with the same settings (40 steps of 0.005, 15 epsilons from 0.005 to 0.075, linf) on
the same images, each in a process of its own. The plain loop is what a hand-written script does: every epsilon from the
start, every image, every step, gradients of the parameters included.
"""

import time

import torch
from torch import Tensor, nn

from benchmarks.alone import alone
from benchmarks.peak import attack_step, columns, count, peak
from benchmarks.subject import subject
from symmetry_robustness.attacks import PGD
from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness
from symmetry_robustness.runs.process import keep_freed_memory

EPSILONS = [0.005 * step for step in range(1, 16)]
STEPS, STEP_SIZE, BATCH_SIZE = 40, 0.005, 128


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
    """Accuracy at each epsilon by the evaluator, as `symrob evaluate` runs it."""
    keep_freed_memory()
    network.requires_grad_(False)
    batch_size = BATCH_SIZE if images.device.type == "cpu" else 1024
    protocol = EvaluationProtocol(
        {"pgd": PGD(STEPS, STEP_SIZE)}, epsilons=EPSILONS, batch_size=batch_size, checks="cheap"
    )
    report = evaluate_robustness(network, images, labels, protocol)
    return [report.accuracy("pgd", epsilon).value for epsilon in EPSILONS]


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 512
) -> list[dict[str, float | str]]:
    """Seconds of each way, and the largest amount by which an accuracy of the evaluator exceeds theirs.

    Then the share of the machine's peak that the evaluator reaches, by the passes that it does, and that a single step
    of an attack does.
    """
    # The scripts' networks have parameters that take gradients.
    network, images, labels = subject(device, checkpoint, overrides, size)
    network.requires_grad_(True)
    ours = alone(evaluator, network, images, labels, device=device, warm_up=BATCH_SIZE)
    rows: list[dict[str, float | str]] = []
    for way in (plain_loop, torchattacks_loop):
        theirs = alone(way, network, images, labels, device=device, warm_up=2)
        excess = max(own - other for own, other in zip(ours.result, theirs.result, strict=True))
        rows.append(
            {
                "against": way.__name__,
                "theirs s": theirs.seconds,
                "ours s": ours.seconds,
                "ratio": theirs.seconds / ours.seconds,
                "largest excess": excess,
                "theirs MiB": theirs.mebibytes,
                "ours MiB": ours.mebibytes,
            }
        )
    on_device = network.to(device), images.to(device), labels.to(device)
    step = attack_step(network, *(rows_[:BATCH_SIZE] for rows_ in on_device[1:]))
    flops, of = count(lambda: evaluator(*on_device)), max(peak(device), peak(device))
    one = alone(step_seconds, network, *on_device[1:], device=device).result
    rows.append({"against": "its own peak", "ours s": ours.seconds, **columns(flops, ours.seconds, of, step, device)})
    rows.append({"against": "the peak, a single step", "ours s": one, **columns(count(step), one, of, step, device)})
    return rows


def step_seconds(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Seconds of a step of an attack on one batch, the fastest of some."""
    keep_freed_memory()
    step, seconds = attack_step(network, images[:BATCH_SIZE], labels[:BATCH_SIZE]), []
    for _ in range(8):
        start = time.perf_counter()
        step()
        if images.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
