"""Cross-entropy of the clean images."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import Passes


@checked
@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the clean images: no adversarial training.

    Examples:
        >>> import torch
        >>> loss, logits = CrossEntropy()(nn.Flatten(), torch.zeros(2, 4, 1, 1), torch.tensor([0, 1]))
        >>> loss, logits.shape
        (tensor(1.3863), torch.Size([2, 4]))
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}; 0 turns it off")

    @property
    def passes(self) -> Passes:
        """One of each."""
        return 1, 1

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and clean logits."""
        logits = network(images)
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), logits
