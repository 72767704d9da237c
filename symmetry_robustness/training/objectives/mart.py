"""MART: adversarial training that attends to misclassified images."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.training.objectives.ascent import Ascent, gaussian
from symmetry_robustness.training.objectives.base import (
    Passes,
    check_positive,
    check_weight,
    craft,
    divergence,
    read_epsilon,
)


@dataclass(frozen=True)
class MART:
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

    epsilon: float | str = 0.031
    beta: float = 5.0
    steps: int = 10
    relative_step_size: float = 0.2258
    start_noise: float = 0.001

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", read_epsilon(self.epsilon))
        check_weight("beta", self.beta)
        check_count("steps", self.steps)
        check_positive("relative_step_size", self.relative_step_size)
        check_positive("start_noise", self.start_noise)

    @property
    def passes(self) -> Passes:
        """One for each step, two to train."""
        steps = self.steps if self.epsilon else 0
        return steps + 2, steps + 2

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        logits, attacked = network(images), network(self._attack(network, images, labels))
        wrong = 1.0000001 - _chosen(logits.float().softmax(1), labels)
        penalty = divergence(logits, attacked) * wrong
        return (boosted_cross_entropy(attacked, labels) + self.beta * penalty).mean(), logits

    def _attack(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if not self.epsilon:
            return images
        length = self.relative_step_size * float(self.epsilon)
        rule = Ascent(steps=self.steps, length=length, noise=gaussian(self.start_noise))
        return craft(network, images, labels, ThreatModel("linf", float(self.epsilon)), rule, "evaluation")


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus margin term, (B,), of logits (B, K)."""
    log = logits.float().log_softmax(1)
    wrong = log.scatter(1, labels[:, None], -torch.inf).amax(1).exp()
    return -_chosen(log, labels) - (1.0001 - wrong).log()


def _chosen(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None]).squeeze(1)
