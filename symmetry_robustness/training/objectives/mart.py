"""MART: adversarial training that attends to misclassified images."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.agreement import Agreement
from symmetry_robustness.training.objectives.base import Passes, divergence


@final
@checked
@dataclass(frozen=True)
class MART(Agreement):
    """Boosted cross-entropy of attacked images, plus beta times their divergence weighted by how wrong the clean are.

    The boosted cross-entropy adds a margin term, -log(1.0001 - largest wrong probability). Attacked images ascend the
    cross-entropy in evaluation mode. At epsilon 0 the boosted cross-entropy of clean images is left.

    Source: Wang et al., ICLR 2020 (openreview rklOg6EFwS); settings of its script.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction.
        beta: weight of the divergence.
        steps: of the attack.
        relative_step_size: length of a step as a fraction of epsilon.
        start_noise: standard deviation of the normal noise from which the attack starts, in pixel units.
    """

    beta: float = 5.0

    @property
    def attack_passes(self) -> Passes:
        """One for each step."""
        steps = self.steps if self.epsilon else 0
        return steps, steps

    @property
    def loss_passes(self) -> Passes:
        """Clean and attacked images."""
        return 2, 2

    def attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) that ascend the cross-entropy."""
        return self.ascend(network, images, labels, "cross_entropy")

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        logits, moved = network(images), network(attacked)
        wrong = 1.0000001 - _chosen(logits.float().softmax(1), labels)
        penalty = divergence(logits, moved) * wrong
        return (boosted_cross_entropy(moved, labels) + self.beta * penalty).mean(), logits


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus margin term, (B,), of logits (B, K)."""
    log = logits.float().log_softmax(1)
    wrong = log.scatter(1, labels[:, None], -torch.inf).amax(1).exp()
    return -_chosen(log, labels) - (1.0001 - wrong).log()


def _chosen(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None]).squeeze(1)
