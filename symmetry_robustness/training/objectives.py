"""Training objectives."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import FGSM, ThreatModel
from symmetry_robustness.errors import UserError


class Objective(Protocol):
    """A training objective: the loss to minimise, and the logits of the clean images for the training accuracy."""

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss () and clean logits (B, K) of images (B, C, H, W) in [0, 1] with labels (B,)."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the clean images: no adversarial training.

    Examples:
        >>> loss, logits = CrossEntropy()(nn.Flatten(), torch.zeros(2, 4, 1, 1), torch.tensor([0, 1]))
        >>> loss, logits.shape
        (tensor(1.3863), torch.Size([2, 4]))
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}; 0 turns it off")

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and clean logits."""
        logits = network(images)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits


@dataclass(frozen=True)
class CleanAndFGSM:
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

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and clean logits."""
        was_training = network.training
        network.eval()
        attacked = FGSM()(network, images, labels, ThreatModel("linf", self.epsilon))
        network.train(was_training)
        logits = network(torch.cat([images, attacked]))
        return F.cross_entropy(logits, labels.repeat(2)), logits[: len(images)]
