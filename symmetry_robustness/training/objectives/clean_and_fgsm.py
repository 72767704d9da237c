"""Adversarial training on clean and FGSM images together."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import FGSM, ThreatModel
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import AdversarialObjective, Passes, craft


@checked
@dataclass(frozen=True)
class CleanAndFGSM(AdversarialObjective):
    """Adversarial training on the mean of the clean and the FGSM loss.

    The released parallel-rotation script trains this way (epsilon 0.01 in [-1, 1] units, 0.005 in pixels), although
    the paper speaks of robustness without adversarial training. The attack is crafted in evaluation mode, so that
    the running statistics of batch normalisation see each image once clean and once attacked.

    Source: arXiv 1412.6572, section 6, with equal weights.
    """

    epsilon: float = 0.005

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise UserError(
                f"epsilon must lie in (0, 1], got {self.epsilon}; for clean training use objective=cross_entropy"
            )

    @property
    def defends(self) -> ThreatModel:
        """The ball of epsilon."""
        return ThreatModel("linf", self.epsilon)

    @property
    def attack_passes(self) -> Passes:
        """One step."""
        return 1, 1

    @property
    def loss_passes(self) -> Passes:
        """Clean and attacked images."""
        return 2, 2

    def attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """FGSM images (B, C, H, W)."""
        return craft(network, images, labels, ThreatModel("linf", self.epsilon), FGSM(), "evaluation")

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and clean logits."""
        logits = network(torch.cat([images, attacked]))
        return F.cross_entropy(logits, labels.repeat(2)), logits[: len(images)]
