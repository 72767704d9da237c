"""Objectives that train on attacked images alone."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import PGD, ThreatModel, UpdateRule
from symmetry_robustness.attacks.norms import NormName
from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.base import (
    AdversarialObjective,
    Mode,
    Passes,
    check_mode,
    check_positive,
    craft,
    read_epsilon,
)


@checked
@dataclass(frozen=True)
class AttackedImages(AdversarialObjective):
    """Cross-entropy of attacked images; how they are attacked is left to each class.

    Args:
        epsilon: radius in pixel units, number or fraction; 0 is cross-entropy.
        relative_step_size: length of a step as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
    """

    epsilon: float | str = "8/255"
    relative_step_size: float = 1.0
    crafted_in: Mode = "training"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", read_epsilon(self.epsilon, self.attack_norm))
        check_positive("relative_step_size", self.relative_step_size)
        check_mode(self.crafted_in)

    @property
    def attack_norm(self) -> NormName:
        """Norm of the ball."""
        return "linf"

    @property
    @abstractmethod
    def rule(self) -> UpdateRule:
        """The attack."""

    @property
    def threat(self) -> ThreatModel:
        """Where attacked images lie."""
        return ThreatModel("linf", float(self.epsilon))

    @property
    def defends(self) -> ThreatModel | None:
        """The ball of epsilon."""
        return ThreatModel(self.attack_norm, float(self.epsilon)) if self.epsilon else None

    @property
    def attack_passes(self) -> Passes:
        """One for each step."""
        steps = self.rule.steps if self.epsilon else 0
        return steps, steps

    @property
    def loss_passes(self) -> Passes:
        """One."""
        return 1, 1

    def attacked(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Images (B, C, H, W) that the rule attacks; the images themselves at epsilon 0."""
        return craft(network, images, labels, self.threat, self.rule, self.crafted_in) if self.epsilon else images

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the attacked images."""
        logits = network(attacked)
        return F.cross_entropy(logits, labels), logits


@checked
@dataclass(frozen=True)
class PGDImages(AttackedImages):
    """Settings of PGD from a random start, for objectives that train on its images and add terms of their own.

    Args:
        epsilon: radius in pixel units, number or fraction; at 0 nothing is attacked.
        relative_step_size: length of a step as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
        steps: of PGD.
    """

    relative_step_size: float = 0.25
    steps: int = 10

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        super().__post_init__()

    @property
    def rule(self) -> PGD:
        """PGD."""
        return PGD(self.steps, relative_step_size=self.relative_step_size, random_start=True)
