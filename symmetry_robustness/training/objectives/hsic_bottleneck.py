"""The HSIC bottleneck: layers that depend little on the image and much on its class."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from symmetry_robustness.errors import UserError
from symmetry_robustness.features import default_layers, read_features
from symmetry_robustness.precision import float32
from symmetry_robustness.settings import checked
from symmetry_robustness.training.objectives.attacked import PGDImages
from symmetry_robustness.training.objectives.base import Mode, Passes, check_positive, check_weight

_RIDGE = 1e-5  # of the source; multiplied by the number of images


@final
@checked
@dataclass(frozen=True)
class HSICBottleneck(PGDImages):
    """Cross-entropy plus, for every layer, its dependence on the clean image minus its dependence on the label.

    Dependence is the normalised HSIC of the images of a step: Gaussian kernels whose bandwidth grows with
    the dimension, a linear one for the labels. It depends on the number of images, as in the source, and each rank
    takes that of its own. With an epsilon, the cross-entropy is that of PGD images; the source then weighs the terms by
    0.0005 and 0.005, and its attack is made in evaluation mode.

    Source: arXiv 2106.02734 (HBaR) and its released code.

    Args:
        epsilon: radius of the linf ball in pixel units, number or fraction; at 0 nothing is attacked.
        relative_step_size: length of a step of PGD as a fraction of epsilon.
        crafted_in: mode of the network while attacked images are made.
        steps: of PGD.
        image_strength: weight of the dependence on the image.
        label_strength: weight of the dependence on the label; with both at 0 the cross-entropy is left.
        bandwidth: of the Gaussian kernels, for values of one dimension.
        layers: their names, ":input" behind one for what goes in; None for all blocks and the pooled feature.
    """

    epsilon: float | str = 0.0
    crafted_in: Mode = "evaluation"
    image_strength: float = 0.006
    label_strength: float = 0.05
    bandwidth: float = 5.0
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
            if not self.layers:
                raise UserError("layers must not be empty, got []; null takes all blocks, both strengths 0 take none")
        check_weight("image_strength", self.image_strength)
        check_weight("label_strength", self.label_strength)
        check_positive("bandwidth", self.bandwidth)
        super().__post_init__()

    @property
    def reads_layers(self) -> bool:
        """Whether a term is on."""
        return bool(self.image_strength or self.label_strength)

    @property
    def loss_passes(self) -> Passes:
        """One to train, and one of the clean images where they are not those trained on."""
        both = 2 if self.epsilon and self.reads_layers else 1
        return both, both

    def loss(self, network: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss and the logits of the images trained on, which are the attacked ones if there are any."""
        if not self.reads_layers:
            return super().loss(network, images, attacked, labels)
        layers = default_layers(network) if self.layers is None else self.layers
        trained = network(attacked) if self.epsilon else None
        clean, features = read_features(network, images, layers)
        logits = clean if trained is None else trained
        penalty = self._penalty(images, labels, list(features.values()), logits.shape[1])
        return F.cross_entropy(logits, labels) + penalty, logits

    def _penalty(self, images: Tensor, labels: Tensor, features: list[Tensor], classes: int) -> Tensor:
        with float32(images.device):
            image = normalised(gaussian_kernel(images, self.bandwidth))
            label = normalised(label_kernel(labels, classes))
            total = torch.zeros((), dtype=torch.float64, device=images.device)
            for feature in features:
                layer = normalised(gaussian_kernel(feature, self.bandwidth))
                total = total + self.image_strength * dependence(image, layer)
                total = total - self.label_strength * dependence(layer, label)
            return total.float()


def gaussian_kernel(values: Tensor, bandwidth: float) -> Tensor:
    """Gaussian kernel (B, B), in float64, of values (B, ...) of D numbers each: bandwidth² · D is its variance.

    Products of values are in their own precision, at least float32.
    """
    flat = values.flatten(1).to(torch.promote_types(values.dtype, torch.float32))
    flat = flat - flat.mean(0)  # or the products below would cancel
    products = (flat @ flat.T).double()
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0)
    return (-distances / (2 * bandwidth**2 * flat.shape[1])).exp()


def label_kernel(labels: Tensor, classes: int) -> Tensor:
    """Linear kernel (B, B), in float64, of labels (B,) as unit vectors: 1 where two are equal."""
    vectors = F.one_hot(labels, classes).double()
    return vectors @ vectors.T


def normalised(kernel: Tensor) -> Tensor:
    """Centred kernel times its inverse, (B, B); a ridge makes the inverse exist, so eigenvalues are in [0, 1)."""
    count = len(kernel)
    rows = kernel - kernel.mean(0)
    centred = rows - rows.mean(1, keepdim=True)
    ridge = _RIDGE * count * torch.eye(count, dtype=kernel.dtype, device=kernel.device)
    found: Tensor = torch.linalg.solve(centred + ridge, centred)
    return found


def dependence(first: Tensor, second: Tensor) -> Tensor:
    """Normalised HSIC, (), of two variables whose normalised kernels (B, B) are given: at most B - 1."""
    return (first * second.T).sum()
