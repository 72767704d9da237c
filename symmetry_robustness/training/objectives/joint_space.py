"""Mixtures of two images, attacked: robust mixup, and interpolated adversarial training."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.attacks import ThreatModel
from symmetry_robustness.errors import UserError
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.ascent import Ascent, uniform
from symmetry_robustness.training.objectives.attacked import PGDImages
from symmetry_robustness.training.objectives.base import Mode, Passes, add_passes, check_weight, craft


class Mixture(NamedTuple):
    """Images (B, C, H, W), each made of two with labels and other labels, (B,), and the share of the first."""

    images: Tensor
    labels: Tensor
    others: Tensor
    share: float


@final
@checked
@dataclass(frozen=True)
class JointSpace:
    """Cross-entropy of mixed and attacked images, which are labelled as they are mixed.

    "robust_mixup" mixes each image with another one of the batch and attacks the mixture. It is a reconstruction:
    arXiv 2112.06323 (IJSAT) states the idea without formula or code. The generative half of that paper, which attacks
    the latent code of a normalising flow, is left out. "interpolated" is interpolated adversarial training, half the
    loss of mixed clean images and half that of mixtures of attacked ones; its script attacks in training mode.

    All images of a step have one share, of which the larger part is that of the image whose label counts in the
    training accuracy.

    Source: arXiv 2112.06323; "interpolated": arXiv 1906.06784, alg. 1.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; at 0 mixup of clean images is left.
        relative_step_size: length of a step of PGD as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
        steps: of PGD.
        method: "robust_mixup" or "interpolated".
        alpha: both parameters of the beta distribution of the share, 1 for a uniform one; at 0 nothing is mixed.
    """

    epsilon: float | str = 0.0314
    relative_step_size: float = 0.25
    crafted_in: Mode = "training"
    steps: int = 7
    method: Literal["robust_mixup", "interpolated"] = "robust_mixup"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", self._pgd.epsilon)
        check_weight("alpha", self.alpha)
        if self.method not in ("robust_mixup", "interpolated"):
            raise UserError(f"method must be robust_mixup or interpolated, got {self.method!r}; choose one of them")

    @property
    def _pgd(self) -> PGDImages:
        return PGDImages(self.epsilon, self.relative_step_size, self.crafted_in, self.steps)

    @property
    def defends(self) -> ThreatModel | None:
        """The ball of epsilon."""
        return self._pgd.defends

    @property
    def passes(self) -> Passes:
        """Those of the attack, one to train, and one of the clean mixture that is interpolated."""
        both = 2 if self.epsilon and self.method == "interpolated" else 1
        return add_passes(self._pgd.attack_passes, (both, both))

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the mixtures, of the clean ones where these are trained on."""
        mixed = self.mix(images, labels)
        if self.epsilon and self.method == "robust_mixup":
            mixed = mixed._replace(images=self.attack_mixture(network, mixed))
        logits = network(mixed.images)
        loss = mixed_cross_entropy(logits, mixed)
        if self.epsilon and self.method == "interpolated":
            attacked = self.mix(self._pgd.attacked(network, images, labels), labels)
            loss = (loss + mixed_cross_entropy(network(attacked.images), attacked)) / 2
        return loss, logits

    def mix(self, images: Tensor, labels: Tensor) -> Mixture:
        """Mixtures of images (B, C, H, W) with labels (B,) and a permutation of them."""
        if not self.alpha:
            return Mixture(images, labels, labels, 1.0)
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        share = max(share, 1 - share)
        order = torch.randperm(len(images)).to(images.device)
        return Mixture(share * images + (1 - share) * images[order], labels, labels[order], share)

    def attack_mixture(self, network: nn.Module, mixed: Mixture) -> Tensor:
        """Mixtures (B, C, H, W) whose loss, with both labels, PGD raises."""
        if mixed.share == 1:
            return self._pgd.attacked(network, mixed.images, mixed.labels)
        epsilon = float(self.epsilon)
        rule = Ascent(
            steps=self.steps,
            length=self.relative_step_size * epsilon,
            loss=lambda logits, labels, targets: mixed_cross_entropy(logits, mixed, "none"),
            noise=uniform(epsilon),
        )
        return craft(network, mixed.images, mixed.labels, self._pgd.threat, rule, self.crafted_in)


def mixed_cross_entropy(logits: Tensor, mixed: Mixture, reduction: str = "mean") -> Tensor:
    """Cross-entropy of logits (B, K), the labels weighted by their shares: that of labels mixed like the images.

    Args:
        logits: of the mixtures.
        mixed: whose labels count.
        reduction: "mean" over images, () or "none", (B,).
    """
    loss = F.cross_entropy(logits, mixed.labels, reduction=reduction)
    if mixed.share == 1:
        return loss
    return mixed.share * loss + (1 - mixed.share) * F.cross_entropy(logits, mixed.others, reduction=reduction)
