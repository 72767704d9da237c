"""Soundness checks of input gradients: finite, not masked, and true to the change that they promise."""

from typing import Final

import torch
from torch import Tensor

from symmetry_robustness.attacks.base import loss_gradient
from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.results.checks import Check
from symmetry_robustness.robustness.checks.forward import SMALL_STEP, draw
from symmetry_robustness.robustness.measures.base import MeasureInputs

_DIRECTIONS: Final = 4


def gradient_matches_difference(sample: MeasureInputs) -> Check:
    """Along random directions the margin changes as its gradient says. Source: arXiv 1802.00420, sec. 3.

    A branch cut from the graph changes the logits but not the gradient; a quantised input has no gradient at all.
    """
    name = "gradient_matches_difference"
    low, high = (float(value) for value in torch.aminmax(sample.images))
    centre = sample.images.clamp(low + SMALL_STEP, max(high - SMALL_STEP, low + SMALL_STEP))
    rival = sample.logits(centre).scatter(1, sample.labels[:, None], -torch.inf).argmax(1)

    def margin(logits: Tensor, labels: Tensor, target: Tensor | None = None) -> Tensor:
        return (logits.gather(1, labels[:, None]) - logits.gather(1, rival[:, None])).squeeze(1)

    _, gradient = loss_gradient(sample.network, centre, sample.labels, margin)
    missing = torch.zeros(len(centre), dtype=torch.float64, device=centre.device)
    total = missing.clone()
    for number in range(_DIRECTIONS):
        direction = torch.where(draw(sample, 1, number) < 0.5, -1.0, 1.0)
        ahead, behind = (predict(sample.network, centre + sign * SMALL_STEP * direction) for sign in (1, -1))
        change = margin(ahead, sample.labels) - margin(behind, sample.labels)
        measured = change.double() / (2 * SMALL_STEP)
        expected = (gradient * direction).flatten(1).double().sum(1)
        missing += (measured - expected).square()
        total += measured.square()
    share = (missing / total.clamp_min(1e-30)).nan_to_num(1.0, 1.0, 1.0)
    middle = float(share.median())
    evidence = f"the gradient misses {min(middle, 1):.0%} of the squared change (median of {len(centre)} images)"
    return Check.judged(name, evidence, failed=middle > 0.5, warned=middle > 0.2)


def finite_gradients(broken: int, total: int) -> Check:
    """Input gradients are finite; an attack cannot follow others."""
    return Check.judged("finite_gradients", f"{broken} of {total} input gradients are not finite", failed=broken > 0)


def zero_gradients(zero: int, total: int) -> Check:
    """Input gradients of the loss are not exactly zero; zeros mean masking. Source: arXiv 2106.09947, indicator I1."""
    share = zero / total if total else 0.0
    evidence = f"{zero} of {total} correctly classified images have a zero gradient"
    return Check.judged("zero_gradients", evidence, failed=share > 0.5, warned=share > 0.05)
