"""Training of networks with norms of their own for clean and for attacked images."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.attacked import PGDImages
from symmetry_robustness.training.objectives.base import Mode, Passes, craft


@final
@checked
@dataclass(frozen=True)
class AdaptiveFeatures(PGDImages):
    """Half the cross-entropy of clean and half that of PGD images of any strength, each with norms of its own.

    The network mixes both sets of norms by a weight that it predicts; statistics of one set learn from clean images
    alone, those of the other from attacked ones. The radius is drawn uniformly from [0, epsilon] for each batch.
    Attacks go through the prediction.

    A reconstruction of arXiv 2105.15157 (AFA) from its abstract: the shares, the draw and the attack are ours.

    Args:
        epsilon: largest radius of the linf ball in pixel units, number or fraction.
        relative_step_size: length of a step as a fraction of the radius.
        crafted_in: mode of the network while attacked images are made.
        steps: of PGD.
    """

    crafted_in: Mode = "evaluation"
    steps: int = 7

    @property
    def loss_passes(self) -> Passes:
        """Clean and attacked images."""
        return 2, 2

    def check_network(self, network: nn.Module) -> None:
        """Refuse a network of one kind of norms.

        Raises:
            UserError: the network has no norms of two kinds.
        """
        if not callable(getattr(network, "learning", None)):
            raise UserError(
                f"objective=adaptive_features needs norms of two kinds, which {type(network).__name__} lacks; "
                "choose model=adaptive or adaptive_4layer"
            )

    def attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """PGD images (B, C, H, W) of a radius drawn for the batch."""
        radius = float(self.epsilon) * float(torch.rand(()))
        if not radius:
            return images
        return craft(network, images, labels, ThreatModel("linf", radius), self.rule, self.crafted_in)

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the clean images.

        Raises:
            UserError: the network has no norms of two kinds.
        """
        self.check_network(network)
        learning: Callable[[str], AbstractContextManager[None]] = network.learning  # type: ignore[assignment]
        with learning("clean"):
            logits = network(images)
        with learning("attacked"):
            moved = network(attacked)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(moved, labels)) / 2, logits
