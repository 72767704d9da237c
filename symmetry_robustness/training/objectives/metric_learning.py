"""Metric learning: attacked images stay near their class in the space of features."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.features import pooled_feature, read_features
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.ascent import uniform
from symmetry_robustness.training.objectives.attacked import PGDImages
from symmetry_robustness.training.objectives.base import Mode, Passes, check_weight, read_epsilon


@final
@checked
@dataclass(frozen=True)
class MetricLearning(PGDImages):
    """Cross-entropy of PGD images, plus triplets in the space of a feature whose anchors are these images.

    Each is to be nearer, by 1 - |cosine|, to its own image with noise, and to another image of its class, than to the
    most similar image of another class. The other images are those of the batch (of a rank), where the source looks
    for them among ten times as many that it passes through the network in evaluation mode. An image whose class is
    alone in the batch has no such triplets. The source warns that strength and margin suit wide networks.

    Source: arXiv 1909.00900 (TLA) and its released code, which attacks in evaluation mode.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; at 0 nothing is attacked.
        relative_step_size: length of a step of PGD as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
        steps: of PGD.
        strength: weight of the triplets; at 0 the cross-entropy of PGD images is left.
        margin: by how much an anchor is to be nearer.
        noise: largest noise of the anchor's own image, in pixel units, number or fraction.
        norm_strength: weight of the mean square of the features, within that of the triplets.
        layer: name of the feature's layer, ":input" behind it for what goes in; None for the pooled feature.
    """

    crafted_in: Mode = "evaluation"
    steps: int = 7
    strength: float = 2.0
    margin: float = 0.03
    noise: float | str = "8/255"
    norm_strength: float = 0.001
    layer: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise", read_epsilon(self.noise))
        check_weight("strength", self.strength)
        check_weight("margin", self.margin)
        check_weight("norm_strength", self.norm_strength)
        super().__post_init__()

    @property
    def reads_layers(self) -> bool:
        """Whether there are triplets."""
        return bool(self.strength)

    @property
    def loss_passes(self) -> Passes:
        """One each for attacked, noisy and clean images."""
        return (3, 3) if self.strength else (1, 1)

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the attacked images."""
        if not self.strength:
            return super().loss(network, images, attacked, labels)
        layer = pooled_feature(network) if self.layer is None else self.layer
        noisy = (images + uniform(float(self.noise))(images, torch.default_generator)).clamp(0, 1)
        found = [read_features(network, inputs, [layer]) for inputs in (attacked, noisy, images)]
        anchor, own, clean = (features[layer].flatten(1).float() for _, features in found)
        logits, _ = found[0]
        return F.cross_entropy(logits, labels) + self.strength * self._triplets(anchor, own, clean, labels), logits

    def _triplets(self, anchor: Tensor, own: Tensor, clean: Tensor, labels: Tensor) -> Tensor:
        other, has_other = class_mates(labels)
        rival, has_rival = nearest_rivals(anchor.detach(), clean.detach(), labels)
        negative = clean[rival]
        near = triplets(anchor, own, negative, has_rival, self.margin, self.norm_strength)
        return near + triplets(anchor, clean[other], negative, has_rival & has_other, self.margin, self.norm_strength)


def distance(first: Tensor, second: Tensor) -> Tensor:
    """One minus the size of the cosine, (B,), of features (B, D): opposite ones are equal."""
    return 1 - F.cosine_similarity(first, second, dim=1).abs()


def triplets(
    anchor: Tensor, positive: Tensor, negative: Tensor, exists: Tensor, margin: float, norm_strength: float
) -> Tensor:
    """Mean loss, (), of the triplets of features (B, D) that exist, (B,): hinge plus weighted mean square."""
    hinge = (distance(anchor, positive) - distance(anchor, negative) + margin).relu()
    norm = (anchor.square() + positive.square() + negative.square()).mean(1)
    chosen = exists.float()
    return ((hinge + norm_strength * norm) * chosen).sum() / chosen.sum().clamp(min=1)


def class_mates(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each image the place of another one of its class, drawn at random, and whether there is one, both (B,)."""
    count = len(labels)
    mates = (labels[:, None] == labels) & ~torch.eye(count, dtype=torch.bool, device=labels.device)
    draws = torch.rand(count, count).to(labels.device)
    return draws.masked_fill(~mates, -1).argmax(1), mates.any(1)


def nearest_rivals(anchor: Tensor, clean: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each anchor (B, D) the place of the nearest clean feature of another class, see `distance`, and if any."""
    rivals = labels[:, None] != labels
    with torch.autocast(anchor.device.type, enabled=False):
        similarity = (F.normalize(anchor, dim=1) @ F.normalize(clean, dim=1).T).abs()
    return similarity.masked_fill(~rivals, -1).argmax(1), rivals.any(1)
