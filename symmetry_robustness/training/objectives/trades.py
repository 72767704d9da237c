"""TRADES: cross-entropy of clean images, and agreement of attacked images with them."""

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.agreement import Agreement
from symmetry_robustness.training.objectives.base import Passes, crafting, divergence


@final
@checked
@dataclass(frozen=True)
class TRADES(Agreement):
    """Cross-entropy plus beta times the Kullback-Leibler divergence of clean and attacked predictions.

    Attacked images maximise the divergence and need no labels; they are made in evaluation mode. Gradients flow
    through both predictions, each computed with the statistics of its own batch.

    Source: arXiv 1901.08573, alg. 1.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; 0 is cross-entropy.
        beta: weight of the divergence; 0 is cross-entropy.
        steps: of the attack.
        relative_step_size: length of a step as a fraction of epsilon.
        start_noise: standard deviation of the normal noise from which the attack starts, in pixel units.
    """

    @property
    def _agrees(self) -> bool:
        return bool(self.epsilon and self.beta)

    @property
    def attack_passes(self) -> Passes:
        """One for each step, and the prediction in evaluation mode that the attack leaves."""
        return (self.steps + 1, self.steps) if self._agrees else (0, 0)

    @property
    def loss_passes(self) -> Passes:
        """Clean and attacked images."""
        return (2, 2) if self._agrees else (1, 1)

    def attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) whose predictions diverge from those of the clean images."""
        if not self._agrees:
            return images
        with crafting(network):
            clean = predict(network, images)
        return self.ascend(network, images, labels, lambda logits, labels, targets: divergence(clean, logits))

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        if not self._agrees:
            return loss, logits
        return loss + self.beta * divergence(logits, network(attacked)).mean(), logits
