"""Agreement of predictions over rotated, mirrored and scaled images."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks.validation import check_count, predict
from symmetry_robustness.errors import UserError
from symmetry_robustness.resampling import turn_quarters, warp
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import Passes, check_weight, crafting, divergence


@checked
@dataclass(frozen=True)
class OrbitConsistency:
    """Cross-entropy plus the distance between the predictions for an image and for a transformed copy.

    Each image is transformed by its own draw of a quarter turn, a flip and a scale about the centre. With several
    candidates the copy is the one of largest cross-entropy, found in evaluation mode. A reconstruction: arXiv
    1906.11235 states the idea, a penalty on the worst of some transformations; the formula is ours.

    Args:
        strength: weight of the distance; 0 is cross-entropy.
        candidates: copies drawn for each image; 1 takes a random one, more the worst of them.
        distance: "kl" of the predictions, or "l2", half the squared distance of the logits.
        rotations: turn by 0, 90, 180 or 270 degrees; images must be square.
        flips: mirror left and right with probability one half.
        scales: smallest and largest magnification, drawn log-uniformly; [1, 1] for none.
    """

    strength: float = 1.0
    candidates: int = 1
    distance: Literal["kl", "l2"] = "kl"
    rotations: bool = True
    flips: bool = True
    scales: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        check_weight("strength", self.strength)
        check_count("candidates", self.candidates)
        if self.distance not in ("kl", "l2"):
            raise UserError(f"distance must be kl or l2, got {self.distance!r}; choose one of them")
        if len(self.scales) != 2 or not 1 / 8 <= self.scales[0] <= self.scales[1] <= 8:
            raise UserError(f"scales must be two increasing numbers in [1/8, 8], got {list(self.scales)}; [0.8, 1.25]")
        if not (self.rotations or self.flips or self._scaled):
            raise UserError("rotations=false, flips=false and scales=[1, 1] transform nothing; set one of them")

    @property
    def _scaled(self) -> bool:
        return self.scales != (1, 1)

    @property
    def passes(self) -> Passes:
        """Two to train; a choice takes one forward pass for each candidate."""
        if not self.strength:
            return 1, 1
        return 2 + (self.candidates if self.candidates > 1 else 0), 2

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images."""
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        if not self.strength:
            return loss, logits
        others = network(self._copy(network, images, labels))
        if self.distance == "kl":
            distance = divergence(logits, others)
        else:
            distance = (logits - others).float().square().sum(1) / 2
        return loss + self.strength * distance.mean(), logits

    def _copy(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        worst = self.transform(images)
        if self.candidates == 1:
            return worst
        with crafting(network):
            highest = F.cross_entropy(predict(network, worst), labels, reduction="none")
            for _ in range(self.candidates - 1):
                copy = self.transform(images)
                losses = F.cross_entropy(predict(network, copy), labels, reduction="none")
                worst = torch.where((losses > highest)[:, None, None, None], copy, worst)
                highest = torch.maximum(highest, losses)
        return worst

    def transform(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), each transformed by its own draw.

        Raises:
            UserError: images that are not square cannot be turned.
        """
        if self.rotations and images.shape[2] != images.shape[3]:
            raise UserError(f"images of shape {tuple(images.shape)} cannot be turned; set objective.rotations=false")
        count = len(images)
        turns = torch.randint(4, (count,)) if self.rotations else torch.zeros(count, dtype=torch.int64)
        mirrored = torch.randint(2, (count,)) if self.flips else torch.zeros(count, dtype=torch.int64)
        moved = turn_quarters(images, turns.to(images.device), mirrored.to(images.device))
        if not self._scaled:
            return moved
        low, high = self.scales
        factors = low * (high / low) ** torch.rand(count)
        return warp(moved, (torch.eye(2) / factors[:, None, None]).to(images.device))
