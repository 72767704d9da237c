"""Agreement of predictions over randomly augmented copies."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import Passes, check_weight


class Copier(Protocol):
    """Draws numbers on the CPU, and makes copies of images from them, as the data's augmentations do."""

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Numbers for `size` images."""

    def apply(self, images: Tensor, *draws: Tensor) -> Tensor:
        """Copies (B, C, H, W) of images (B, C, H, W) in [0, 1]."""


@checked
@dataclass(frozen=True)
class AugMixConsistency:
    """Cross-entropy plus the Jensen-Shannon divergence of the predictions for an image and two augmented copies.

    All three pass the network as one batch. Source: arXiv 1912.02781, eq. 3, and its script.

    Args:
        augmentation: of the copies; AugMix in the source.
        strength: weight of the divergence; 0 is cross-entropy. The source's is 12.
    """

    augmentation: Copier
    strength: float = 12.0

    def __post_init__(self) -> None:
        check_weight("strength", self.strength)
        if not callable(getattr(self.augmentation, "draw", None)):
            raise UserError(f"augmentation must be one, got {self.augmentation!r}; AugMix is the source's")

    @property
    def passes(self) -> Passes:
        """One for the images and for each copy."""
        return (3, 3) if self.strength else (1, 1)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        if not self.strength:
            logits = network(images)
            return F.cross_entropy(logits, labels), logits
        copies = [self.augmentation.apply(images, *self._draw(len(images))) for _ in range(2)]
        logits, *others = network(torch.cat([images, *copies])).chunk(3)
        spread = jensen_shannon(torch.stack([logits, *others]))
        return F.cross_entropy(logits, labels) + self.strength * spread.mean(), logits

    def _draw(self, size: int) -> tuple[Tensor, ...]:
        return self.augmentation.draw(size, torch.default_generator)


def jensen_shannon(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence (B,) of the predictions of n networks or copies (n, B, K), in [0, log n]."""
    logs = logits.float().log_softmax(2)
    mean = logs.exp().mean(0).clamp(1e-7, 1).log()
    return (logs.exp() * (logs - mean)).sum(2).mean(0)
