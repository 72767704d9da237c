"""A detector that compares what a network says of an image with what it says of turned and mirrored copies."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.validation import forward
from symmetry_robustness.orbits import check_square, grid_symmetries
from symmetry_robustness.robustness.measures.detection import Detector, Score
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class OrbitInconsistency(Detector):
    """Mean over symmetries g of KL(p(x) ‖ p(g x)), p being the network's probabilities; needs no fitting.

    An attacked image tends to be particular to its orientation. For a network that is invariant under the symmetries
    the score is zero whatever the image, so that it detects nothing there. A reconstruction: no paper states it.

    Args:
        rotations: quarter turns; images must be square.
        flips: reflections of left and right.
    """

    rotations: bool = True
    flips: bool = True

    def __post_init__(self) -> None:
        grid_symmetries(self.rotations, self.flips)  # which refuses to have none

    def fit(self, network: nn.Module, images: Tensor, seed: int) -> Score:
        """The score, which is the same for all calibration images.

        Raises:
            UserError: images that are not square cannot be turned.
        """
        if self.rotations:
            check_square(images)
        _, *others = grid_symmetries(self.rotations, self.flips)

        def score(seen: Tensor) -> Tensor:
            own = forward(network, seen).log_softmax(1)
            turned = torch.stack([forward(network, symmetry(seen)).log_softmax(1) for symmetry in others])
            return (own.exp() * (own - turned)).sum(2).mean(0)

        return score
