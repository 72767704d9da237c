"""A step of adversarial training against its passes alone: what attack and loss cost beside the network.

Both take turns on the same batch, as in `symmetry`, whose clock and medians these are. Passes alone are those that the
objective states: of the attack without gradients of the weights, of the loss with them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.symmetry import ratio
from symmetry_robustness import build_network, load_config
from symmetry_robustness.runs.process import keep_freed_memory
from symmetry_robustness.training.objectives import MART, TRADES, AdversarialObjective, PGDTraining

BATCH_SIZE = 128
ROUNDS = 15
NETWORKS = ("standard_4layer", "parallel_rotation_4layer")
OBJECTIVES: tuple[AdversarialObjective, ...] = (PGDTraining(), TRADES(), MART())


def step(objective: AdversarialObjective, network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Loss and gradients of the weights, as in training."""

    def work() -> None:
        network.train().zero_grad()
        objective(network, images, labels)[0].backward()  # type: ignore[no-untyped-call]

    return work


def passes_alone(objective: AdversarialObjective, network: nn.Module, images: Tensor) -> Callable[[], None]:
    """As many forward and backward passes as the step takes, and nothing else."""

    def work() -> None:
        forward, backward = objective.attack_passes
        network.train(getattr(objective, "crafted_in", "evaluation") == "training").requires_grad_(False)
        for number in range(forward):
            variable = images.detach().requires_grad_(number < backward)
            logits = network(variable)
            if number < backward:
                torch.autograd.grad(logits.sum(), variable)
        network.train().requires_grad_(True).zero_grad()
        for _ in range(objective.loss_passes[0]):  # of these losses as many forward as backward passes
            network(images).sum().backward()

    return work


def run(device: str = "cpu") -> list[dict[str, float | str]]:
    """A row per network and objective."""
    keep_freed_memory()
    rows: list[dict[str, float | str]] = []
    for name in NETWORKS:
        network = build_network(load_config("train", [f"model={name}"])).to(device, memory_format=torch.channels_last)
        images = torch.rand(BATCH_SIZE, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
        labels = torch.randint(0, 10, (BATCH_SIZE,), device=device)
        for objective in OBJECTIVES:
            forward, backward = objective.passes
            works = step(objective, network, images, labels), passes_alone(objective, network, images)
            rows.append(
                {
                    "network": name,
                    "objective": type(objective).__name__,
                    "passes": f"{forward}F + {backward}B",
                    "step / passes alone": ratio(*works, device, ROUNDS),
                }
            )
    return rows
