"""`robustness=autoattack` against the reference implementation, image by image, at 8/255 and the same settings.

Three networks: a standard one, the same after adversarial training, an invariant one. The reference is whichever is
installed of `autoattack` (github.com/fra31/auto-attack) and `pyautoattack` (the same on PyPI); without them it is made
of the attacks of torchattacks, which are ports of it, with the published settings.
"""

import importlib
import importlib.metadata
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from benchmarks.alone import alone
from benchmarks.ensemble import BATCH_SIZE, EPSILON, harden
from benchmarks.subject import check_accuracy, subject
from symmetry_robustness import load_config
from symmetry_robustness.robustness import evaluate_robustness
from symmetry_robustness.runs.process import keep_freed_memory

Standing = tuple[np.ndarray, np.ndarray]

HARDENED = "adversarially trained"


def ours(network: nn.Module, images: Tensor, labels: Tensor) -> Standing:
    """Whether each image is right, clean and under the standard version."""
    keep_freed_memory()
    config = load_config("evaluate", ["checkpoint=none", "robustness=autoattack"]).robustness
    protocol = instantiate(config, _convert_="all")
    report = evaluate_robustness(network.requires_grad_(False), images, labels, protocol, extra_checks=False)
    return report.clean_correct, report.correct("worst_case", EPSILON)


def reference(network: nn.Module, images: Tensor, labels: Tensor) -> Standing:
    """The same by the reference."""
    clean = right(network, images, labels)
    module = reference_name()
    if module == "torchattacks":
        standing = clean.copy()
        for attack in ports(network):
            rows = torch.as_tensor(np.flatnonzero(standing), device=images.device)
            for part in rows.split(BATCH_SIZE):
                standing[part.cpu().numpy()] = right(network, attack(images[part], labels[part]), labels[part])
        return clean, standing
    attack = importlib.import_module(module).AutoAttack(network, eps=EPSILON, seed=0, device=images.device)
    attacked = attack.run_standard_evaluation(images, labels)
    attacked = attacked[0] if isinstance(attacked, tuple) else attacked
    return clean, right(network, attacked, labels)


def reference_name() -> str:
    """The package that stands for the reference implementation."""
    return next((name for name in ("autoattack", "pyautoattack") if find_spec(name)), "torchattacks")


def ports(network: nn.Module) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """The four attacks of torchattacks with the published settings (arXiv 2003.01690)."""
    import torchattacks

    common = {"eps": EPSILON, "seed": 0}
    return [
        torchattacks.APGD(network, steps=100, **common),
        torchattacks.APGDT(network, steps=100, n_classes=10, **common),
        torchattacks.FAB(network, steps=100, multi_targeted=True, n_classes=10, **common),
        torchattacks.Square(network, n_queries=5000, resc_schedule=False, **common),
    ]


def right(network: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Whether each image is classified correctly."""
    with torch.no_grad():
        parts = [network(part).argmax(1) for part in images.split(BATCH_SIZE)]
    return (torch.cat(parts) == labels).cpu().numpy()


def compare(name: str, network: nn.Module, images: Tensor, labels: Tensor, device: str) -> dict[str, float | str]:
    """Seconds of the processor, robust accuracies and agreement on one network.

    Raises:
        Unfit: it was trained adversarially and withstands nothing.
    """
    network.requires_grad_(True)
    mine = alone(ours, network, images, labels, device=device, warm_up=2)
    theirs = alone(reference, network, images, labels, device=device, warm_up=2)
    standing, expected = mine.result[1], theirs.result[1]
    if name == HARDENED:
        check_accuracy(f"robust accuracy, {name},", float(expected.mean()), 0.05, 0.9)
    package = reference_name()
    return {
        "network": name,
        "reference": f"{package} {importlib.metadata.version(package)}",
        "clean": float(mine.result[0].mean()),
        "their accuracy": float(expected.mean()),
        "our accuracy": float(standing.mean()),
        "alike": float((standing == expected).mean()),
        "theirs CPU s": theirs.cpu_seconds,
        "ours CPU s": mine.cpu_seconds,
        "ratio": theirs.cpu_seconds / mine.cpu_seconds,
    }


def run(
    device: str = "cpu", checkpoint: str | None = None, overrides: tuple[str, ...] = (), size: int = 256
) -> list[dict[str, float | str]]:
    """A row for each network."""
    network, images, labels = subject(device, checkpoint, overrides, size)
    rows = [compare("standard", network, images, labels, device)]
    hardened = harden(network.to(device), overrides, device).cpu()
    rows.append(compare(HARDENED, hardened, images, labels, device))
    invariant, images, labels = subject(device, None, (*overrides, "model=invariant_4layer"), size)
    return [*rows, compare("invariant", invariant, images, labels, device)]
