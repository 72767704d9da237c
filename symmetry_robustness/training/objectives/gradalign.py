"""FGSM training with aligned gradients."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import (
    Mode,
    Passes,
    check_mode,
    check_weight,
    crafting,
    input_gradient,
    read_epsilon,
)


@checked
@dataclass(frozen=True)
class GradAlign:
    """Cross-entropy of FGSM images, plus how far gradients at the image and at a random point of its ball disagree.

    The disagreement is 1 minus the cosine; its gradient flows through the random point alone.

    Source: arXiv 2007.02617, whose script crafts in training mode.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; 0 is cross-entropy.
        strength: weight of the disagreement; None for the source's, 0.2 at 8/255 and ten times as much at 16/255.
        crafted_in: mode of the network for attack and gradients.
    """

    epsilon: float | str = "8/255"
    strength: float | None = None
    crafted_in: Mode = "training"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", read_epsilon(self.epsilon))
        if self.strength is not None:
            check_weight("strength", self.strength)
        check_mode(self.crafted_in)

    @property
    def defends(self) -> ThreatModel | None:
        """The ball of epsilon."""
        return ThreatModel("linf", float(self.epsilon)) if self.epsilon else None

    @property
    def weight(self) -> float:
        """Weight of the disagreement."""
        return 0.02 * math.exp(float(self.epsilon) * 255 / 8 * math.log(10)) if self.strength is None else self.strength

    @property
    def passes(self) -> Passes:
        """A gradient for the attack, one that is differentiated again by two passes, and one pass to train."""
        if not self.epsilon:
            return 1, 1
        return (3, 5) if self.weight else (2, 2)

    @property
    def second_derivatives(self) -> Mode | None:
        """In the mode of crafting."""
        return self.crafted_in if self.epsilon and self.weight else None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the attacked images."""
        if not self.epsilon:
            logits = network(images)
            return F.cross_entropy(logits, labels), logits
        threat = ThreatModel("linf", float(self.epsilon))
        with crafting(network, self.crafted_in):
            gradient = input_gradient(network, images, labels)[2].detach()
            penalty = self._disagreement(network, images, labels, gradient) if self.weight else None
        logits = network(threat.project(images + threat.epsilon * gradient.sign(), images))
        loss = F.cross_entropy(logits, labels)
        return (loss if penalty is None else loss + self.weight * penalty), logits

    def _disagreement(self, network: nn.Module, images: Tensor, labels: Tensor, gradient: Tensor) -> Tensor:
        noise = NORMS["linf"].sample(images.shape, torch.default_generator, images.device)
        other = input_gradient(network, images + float(self.epsilon) * noise, labels)[2]
        unit = NORMS["l2"].steepest_direction
        return 1 - (unit(gradient) * unit(other)).flatten(1).sum(1).mean()
