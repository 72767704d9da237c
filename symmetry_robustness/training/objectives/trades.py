"""TRADES: cross-entropy of clean images, and agreement of attacked images with them."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.attacks.losses import Loss
from symmetry_robustness.attacks.validation import check_count, predict
from symmetry_robustness.training.objectives.ascent import Ascent, gaussian
from symmetry_robustness.training.objectives.base import (
    Passes,
    check_positive,
    check_weight,
    craft,
    crafting,
    divergence,
    read_epsilon,
)


@dataclass(frozen=True)
class TRADES:
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

    epsilon: float | str = 0.031
    beta: float = 6.0
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
        """One for each step, two to train, and the prediction in evaluation mode that the attack leaves."""
        return (self.steps + 3, self.steps + 2) if self.epsilon and self.beta else (1, 1)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        if not (self.epsilon and self.beta):
            logits = network(images)
            return F.cross_entropy(logits, labels), logits
        attacked = self._attack(network, images, labels)
        logits = network(images)
        penalty = divergence(logits, network(attacked)).mean()
        return F.cross_entropy(logits, labels) + self.beta * penalty, logits

    def _attack(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        with crafting(network):
            clean = predict(network, images)
        loss: Loss = lambda logits, labels, targets: divergence(clean, logits)  # noqa: E731
        length = self.relative_step_size * float(self.epsilon)
        rule = Ascent(steps=self.steps, length=length, loss=loss, noise=gaussian(self.start_noise))
        return craft(network, images, labels, ThreatModel("linf", float(self.epsilon)), rule, "evaluation")
