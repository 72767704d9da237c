"""How steep the loss is at an image."""

from dataclasses import dataclass
from typing import Final, Literal, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.gradient import loss_gradient
from symmetry_robustness.attacks.losses import cross_entropy
from symmetry_robustness.attacks.validation import check_evaluation_mode, check_images, check_labels
from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness.measures.base import Arrays, Subject

GradientNormName = Literal["l1", "l2", "linf"]

_ORDERS: Final = {"l1": 1.0, "l2": 2.0, "linf": float("inf")}


def gradient_norm(
    network: nn.Module, images: Tensor, labels: Tensor, *, norm: GradientNormName = "l2", batch_size: int = 128
) -> Tensor:
    """Norm of the gradient of the cross-entropy with respect to each image, (N,).

    Args:
        network: images in [0, 1] to logits, in evaluation mode.
        images: float32 (N, C, H, W) in [0, 1].
        labels: (N,) int64.
        norm: in which the gradient is measured. To first order a change of length ε in linf adds ε times the l1 norm
            to the loss, one of length ε in l2 adds ε times the l2 norm.
        batch_size: images per pass through the network.

    Raises:
        UserError: for unsuitable images or labels, a network in training mode, or an unknown norm.
    """
    check_images(images)
    check_labels(labels, images)
    check_evaluation_mode(network)
    order = find_order(norm)
    parts = [
        torch.linalg.vector_norm(loss_gradient(network, x, y, cross_entropy)[1], ord=order, dim=(1, 2, 3))
        for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    ]
    return torch.cat(parts) if len(images) else images.new_zeros(0)


def find_order(norm: str) -> float:
    """Order of a norm by its name.

    Raises:
        UserError: an unknown name.
    """
    if norm not in _ORDERS:
        raise UserError(f"norm must be one of {', '.join(_ORDERS)}, got {norm!r}; choose one of them")
    return _ORDERS[norm]


@final
@dataclass(frozen=True)
class GradientNorm:
    """Measures `value` (N,), the norm of the input gradient; one gradient per image.

    Args:
        norm: "l1", "l2" or "linf".
        images: on how many images, those with the lowest numbers, it is taken; None for all.
    """

    norm: GradientNormName = "l2"
    images: int | None = None

    def __post_init__(self) -> None:
        find_order(self.norm)

    def __call__(self, subject: Subject) -> Arrays:
        """Norm of each gradient."""
        network, images, labels = subject.network, subject.images, subject.labels
        value = gradient_norm(network, images, labels, norm=self.norm, batch_size=subject.batch_size)
        return {"value": value.double().cpu().numpy()}
