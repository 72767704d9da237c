"""Settings and attack of objectives that make clean and attacked predictions agree."""

from dataclasses import dataclass

from torch import Tensor, nn

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.attacks.losses import Loss
from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.ascent import Ascent, gaussian
from symmetry_robustness.training.objectives.base import (
    AdversarialObjective,
    check_positive,
    check_weight,
    craft,
    read_epsilon,
)


@checked
@dataclass(frozen=True)
class Agreement(AdversarialObjective):
    """Settings of a divergence between predictions, and of the attack in it, which is made in evaluation mode.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; at 0 nothing is attacked.
        beta: weight of the divergence.
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
    def defends(self) -> ThreatModel | None:
        """The ball of epsilon."""
        return ThreatModel("linf", float(self.epsilon)) if self.epsilon else None

    def ascend(self, network: nn.Module, images: Tensor, labels: Tensor, loss: str | Loss) -> Tensor:
        """Images (B, C, H, W) that ascend a loss, within epsilon of the images."""
        if not self.epsilon:
            return images
        epsilon = float(self.epsilon)
        length, noise = self.relative_step_size * epsilon, gaussian(self.start_noise)
        rule = Ascent(steps=self.steps, length=length, loss=loss, noise=noise)
        return craft(network, images, labels, ThreatModel("linf", epsilon), rule, "evaluation")
