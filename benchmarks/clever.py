"""CLEVER against ART, on the same network, images, targets and number of points; and what longer scores cost.

Both, and the machine's peak, are measured in turn, three times: ours takes seconds, in which a neighbour may take half
of a shared processor. Medians are told, with the lowest and the highest ratio of a turn.

ART is an extra of the benchmark, which `make benchmark` installs (pyproject.toml, group `peers`). Without it only our
own time and share of the machine's peak are reported.

ART draws a pool of points once and its maxima again and again from the pool, so equal effort means equal pools: here
10 maxima of 64 points against a pool of 10 times 64. Its single fit usually ends at the largest maximum, so scores are
compared under `estimate="maximum"`.
"""

import importlib.util
import statistics
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.alone import alone
from benchmarks.peak import columns, count, peak
from benchmarks.subject import subject
from symmetry_robustness import build_network, load_config
from symmetry_robustness.models import export
from symmetry_robustness.robustness import Clever
from symmetry_robustness.runs.process import keep_freed_memory

NUM_BATCHES, SAMPLES, RADIUS = 10, 64, 5.0
FULL = 500 * 1024  # points of the original's score
TIMES = 3


def ours(network: nn.Module, images: Tensor, targets: str | int) -> tuple[list[list[int]], list[list[float]]]:
    """Target classes and scores towards them, (B, K) each, as `symrob evaluate` computes them."""
    keep_freed_memory()
    settings = Clever("l2", RADIUS, NUM_BATCHES, SAMPLES, targets=targets, estimate="maximum")
    scores = settings(network.requires_grad_(False), images)
    return scores.targets.tolist(), scores.per_target.tolist()


def art(network: nn.Module, images: Tensor, targets: list[list[int]]) -> list[list[float]]:
    """Scores towards the same targets by ART."""
    from art.estimators.classification import PyTorchClassifier
    from art.metrics import clever_t

    device_type = "gpu" if images.is_cuda else "cpu"
    shape = tuple(images.shape[1:])
    loss = nn.CrossEntropyLoss()
    classifier = PyTorchClassifier(network, loss, shape, 10, clip_values=(0, 1), device_type=device_type)
    np.random.seed(0)  # noqa: NPY002 - ART draws from the global state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            [
                float(clever_t(classifier, image, target, NUM_BATCHES, SAMPLES, RADIUS, 2, pool_factor=NUM_BATCHES))
                for target in row
            ]
            for image, row in zip(images.cpu().numpy(), targets, strict=False)
        ]


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 4
) -> list[dict[str, float | str]]:
    """Seconds per image and the median ratio of scores against ART; then our seconds for other targets and classes."""
    network, images, _ = subject(device, checkpoint, overrides, size)
    network.requires_grad_(True)  # as ART's classifier has it
    has_art = importlib.util.find_spec("art") is not None
    own, theirs, peaks = [], [], []
    for _ in range(TIMES):
        own.append(alone(ours, network, images, "all", device=device, warm_up=1))
        targets, scores = own[-1].result
        if has_art:
            theirs.append(alone(art, network, images, targets, device=device, warm_up=1))
        peaks.append(peak(device))
    seconds = statistics.median(turn.seconds for turn in own)
    rows = [row("all 9 targets of 10 classes", seconds / size)]
    if has_art:
        ratios = [other.seconds / turn.seconds for turn, other in zip(own, theirs, strict=True)]
        rows[0] |= {
            "art s/image": statistics.median(turn.seconds for turn in theirs) / size,
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
            "median ratio of scores": float(np.median(np.array(scores) / np.array(theirs[-1].result))),
        }
    on_device = network.to(device), images.to(device)
    flops, few = count(lambda: ours(*on_device, "all")), (on_device[0], on_device[1][:1])
    rows[0] |= columns(flops, seconds, max(peaks), lambda: ours(*few, "all"), device)
    for top in (1, 3, 6):
        rows.append(row(f"top-{top} of 10 classes", timed(network, images, top, device)))
    torch.manual_seed(0)
    larger = export(build_network(load_config("train", [*overrides, "model.num_classes=100"])))
    for top in (10, 99):
        rows.append(row(f"top-{top} of 100 classes", timed(larger, images, top, device)))
    return rows


def timed(network: nn.Module, images: Tensor, targets: int, device: str) -> float:
    """Our seconds per image."""
    return alone(ours, network, images, targets, device=device, warm_up=1).seconds / len(images)


def row(what: str, seconds: float) -> dict[str, float | str]:
    """A row of our own time, with what the original's number of points would take."""
    points = NUM_BATCHES * SAMPLES
    return {"targets": what, "ours s/image": seconds, "500 x 1024 min/image": seconds * FULL / points / 60}
