"""How seconds and memory grow with the number of images: gradient attacks and CLEVER as `symrob evaluate` runs them."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor, nn

from benchmarks.alone import alone
from benchmarks.subject import subject
from benchmarks.sweep import EPSILONS, STEP_SIZE, STEPS
from symmetry_robustness.attacks import FGSM, PGD
from symmetry_robustness.robustness import Clever, EvaluationProtocol, evaluate_in_shards
from symmetry_robustness.runs.process import keep_freed_memory

SIZES = (256, 512, 1024, 2048, 4096)
PROTOCOLS = {
    "FGSM and PGD-40, 15 epsilons": EvaluationProtocol(
        {"fgsm": FGSM(), "pgd": PGD(STEPS, STEP_SIZE)}, epsilons=EPSILONS
    ),
    "CLEVER, 10 x 16 points, 3 targets": EvaluationProtocol(
        epsilons=(), clever=Clever(num_batches=10, samples_per_batch=16, targets=3, estimate="maximum")
    ),
}


def evaluation(network: nn.Module, images: Tensor, labels: Tensor, name: str) -> int:
    """The number of images evaluated under a protocol."""
    keep_freed_memory()
    with TemporaryDirectory() as folder:
        report = evaluate_in_shards(network.requires_grad_(False), images, labels, PROTOCOLS[name], Path(folder))
    return 0 if report is None else len(report)


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), sizes: tuple[int, ...] = SIZES
) -> list[dict[str, float | str]]:
    """Seconds, milliseconds per image and peak memory for each protocol and number of images."""
    network, images, labels = subject(device, checkpoint, overrides, max(sizes))
    rows: list[dict[str, float | str]] = []
    for name in PROTOCOLS:
        for size in sizes if "CLEVER" not in name else sizes[:3]:
            done = alone(evaluation, network, images[:size], labels[:size], name, device=device, warm_up=8)
            rows.append(
                {
                    "protocol": name,
                    "images": str(size),
                    "s": done.seconds,
                    "ms/image": 1000 * done.seconds / size,
                    "peak MiB": done.mebibytes,
                }
            )
    return rows
