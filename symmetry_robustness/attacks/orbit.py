"""Gradients averaged over quarter turns and reflections of the image."""

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from symmetry_robustness.attacks.base import Attack, UpdateRule
from symmetry_robustness.attacks.derived import DerivedRule
from symmetry_robustness.orbits import GridSymmetry, check_square, grid_symmetries
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class OrbitAveraged(DerivedRule):
    """An attack along the mean over symmetries h of h⁻¹ ∇L(h x), the gradient of the loss averaged over the orbit.

    For a network that is exactly invariant under the symmetries all these gradients are equal, and the attack is the
    one that it is made of, at so many times its cost. For others it ascends the loss of the ensemble of the network
    over the orbit, which makes images less particular to one orientation, as the views of transfer attacks do. A
    reconstruction: no paper states it; the nearest are the scaled copies of SI (arXiv 1908.06281, eq. 7).

    Args:
        attack: PGD, FGSM or another rule that follows a gradient in each step.
        rotations: average over quarter turns; images must be square.
        flips: average over reflections of left and right.

    Examples:
        >>> from symmetry_robustness.attacks import PGD, ThreatModel
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> attacked = OrbitAveraged(PGD(steps=10))(nn.Flatten().eval(), images, labels, ThreatModel("linf", "20/255"))
        >>> ((attacked - images) * 255).flatten().round()
        tensor([-20.,  20.,  20.])
    """

    attack: UpdateRule
    rotations: bool = True
    flips: bool = True

    def __post_init__(self) -> None:
        _ = self._symmetries  # which refuses to have none
        super().__post_init__()

    @property
    def _symmetries(self) -> tuple[GridSymmetry, ...]:
        return grid_symmetries(self.rotations, self.flips)

    @property
    def passes_per_step(self) -> int:
        """One for each symmetry, and draw."""
        return self.attack.passes_per_step * len(self._symmetries)

    def describe(self) -> dict[str, Any]:
        """Settings as plain values."""
        return {**super().describe(), "rotations": self.rotations, "flips": self.flips}

    def against(self, network: nn.Module, images: Tensor) -> Attack:
        """The attack itself.

        Raises:
            UserError: images that are not square cannot be turned.
        """
        if self.rotations:
            check_square(images)
        return self

    def evaluate(
        self, network: nn.Module, iterate: Tensor, labels: Tensor, targets: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, K) at the iterates themselves, and the gradient (B, C, H, W) averaged over their orbits.

        Raises:
            UserError: images that are not square cannot be turned.
        """
        if self.rotations:
            check_square(iterate)
        found = [
            self.attack.evaluate(network, symmetry(iterate), labels, targets, scale) for symmetry in self._symmetries
        ]
        gradients = [symmetry.undo(gradient) for symmetry, (_, gradient) in zip(self._symmetries, found, strict=True)]
        order = len(gradients)  # 2, 4 or 8: sums in pairs of equal gradients are exact
        while len(gradients) > 1:
            gradients = [first + second for first, second in zip(gradients[::2], gradients[1::2], strict=True)]
        return found[0][0], gradients[0] / order
