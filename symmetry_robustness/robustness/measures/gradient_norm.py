"""Norm of the loss gradient at an image."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from symmetry_robustness.attacks.base import loss_gradient
from symmetry_robustness.attacks.losses import cross_entropy
from symmetry_robustness.attacks.norms import NormName, find_norm
from symmetry_robustness.results.plots import Distribution
from symmetry_robustness.robustness.measures.base import Arrays, MeasureInputs
from symmetry_robustness.settings import checked


@final
@checked
@dataclass(frozen=True)
class GradientNorm:
    """Measures `value` (N,), the norm of the gradient of the cross-entropy with respect to each image.

    To first order a change of length ε in linf adds ε times the l1 norm to the loss, one of length ε in l2 adds ε times
    the l2 norm. Costs one gradient per image.

    Args:
        norm: "l1", "l2" or "linf", in which the gradient is measured.
        images: on how many images, those with the lowest numbers, it is taken; None for all.

    Raises:
        UserError: an unknown norm.

    Examples:
        >>> from symmetry_robustness.robustness import EvaluationProtocol, evaluate_robustness
        >>> protocol = EvaluationProtocol(measures={"gradient": GradientNorm(norm="l1")})
        >>> report = evaluate_robustness(nn.Flatten().eval(), torch.ones(1, 3, 1, 1), torch.tensor([0]), protocol)
        >>> report.measures["gradient"]["value"].round(3)
        array([1.333])
    """

    norm: NormName = "l2"
    images: int | None = None

    plots: ClassVar = (Distribution("value", "norm of the loss gradient"),)

    def __post_init__(self) -> None:
        find_norm(self.norm)

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Norm of each gradient."""
        inputs.check()
        parts = [inputs.images.new_zeros(0)]
        for batch in inputs.batches():
            gradient = loss_gradient(batch.network, batch.images, batch.labels, cross_entropy)[1]
            parts.append(find_norm(self.norm).length(gradient))
        return {"value": torch.cat(parts).double().cpu().numpy()}
