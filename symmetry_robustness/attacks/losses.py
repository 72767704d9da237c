"""Losses that attacks ascend: one value per image, larger where the attack is closer to its goal."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import one_hot

from symmetry_robustness.errors import UserError

# Logits (B, K), labels (B,) and whether the labels are the classes to be reached, to losses (B,).
Loss = Callable[[Tensor, Tensor, bool], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, targeted: bool = False) -> Tensor:
    """Cross-entropy itself, whose gradient vanishes in rounding where the softmax saturates."""
    losses = functional.cross_entropy(logits, labels, reduction="none")
    return -losses if targeted else losses


def _log_odds(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Log-odds against the label: log(exp(cross-entropy) - 1), so both increase in the same direction.

    The softmax of float32 rounds to 1 where the label leads by 17, and logits multiplied by 20 hide the gradient of
    the cross-entropy. The log-odds keep its direction at any scale.
    """
    odds = _without(logits, labels).logsumexp(1) - _chosen(logits, labels)
    return -odds if targeted else odds


def _margin(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Best other logit minus the label's. Source: arXiv 1608.04644, f6."""
    margin = _without(logits, labels).amax(1) - _chosen(logits, labels)
    return -margin if targeted else margin


def _dlr(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Margin over a difference of ordered logits, blind to their scale. Source: arXiv 2003.01690, eq. 6 and 7.

    The targeted form stands against the best class other than the target, since no true label is given.
    """
    needed = 4 if targeted else 3
    if logits.shape[1] < needed:
        raise UserError(f'loss "dlr" needs at least {needed} classes, got {logits.shape[1]}; use "margin"')
    ordered = logits.topk(needed, dim=1).values
    lower = (ordered[:, 2] + ordered[:, 3]) / 2 if targeted else ordered[:, 2]
    return _margin(logits, labels, targeted) / (ordered[:, 0] - lower + 1e-12)


def _chosen(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def _without(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.masked_fill(one_hot(labels, logits.shape[1]).bool(), -torch.inf)


LOSSES: dict[str, Loss] = {
    "cross_entropy": _log_odds,
    "rounded_cross_entropy": cross_entropy,
    "margin": _margin,
    "dlr": _dlr,
}
