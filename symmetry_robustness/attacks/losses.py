"""Losses that attacks ascend: one value per image, larger where the attack is closer to its goal."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from symmetry_robustness.errors import UserError

# Logits (B, K), true labels (B,) and the classes to be reached (B,), None where any other will do, to losses (B,).
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Cross-entropy itself, whose gradient vanishes in rounding where the softmax saturates."""
    losses = functional.cross_entropy(logits, labels if targets is None else targets, reduction="none")
    return losses if targets is None else -losses


def _log_odds(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Log-odds against the label: log(exp(cross-entropy) - 1), so both increase in the same direction.

    The softmax of float32 rounds to 1 where the label leads by 17, and logits multiplied by 20 hide the gradient of
    the cross-entropy. The log-odds keep its direction at any scale.
    """
    classes = labels if targets is None else targets
    odds = _without(logits, classes).logsumexp(1) - _chosen(logits, classes)
    return odds if targets is None else -odds


def _margin(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Best other logit minus the label's; or the target's minus the best other. Source: arXiv 1608.04644, f6."""
    classes = labels if targets is None else targets
    margin = _without(logits, classes).amax(1) - _chosen(logits, classes)
    return margin if targets is None else -margin


def _difference(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Logit of the target minus that of the label, whichever class leads."""
    if targets is None:
        raise UserError('loss "difference" needs classes to be reached; set targeted=true or use "margin"')
    return _chosen(logits, targets) - _chosen(logits, labels)


def _dlr(logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Margin over a difference of ordered logits, blind to their scale. Source: arXiv 2003.01690, eq. 6 and 7."""
    needed = classes_needed("dlr", targeted=targets is not None)
    if logits.shape[1] < needed:
        raise UserError(f'loss "dlr" needs at least {needed} classes, got {logits.shape[1]}; use "margin"')
    ordered = logits.topk(needed, dim=1).values
    if targets is None:
        return _margin(logits, labels, None) / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    lower = (ordered[:, 2] + ordered[:, 3]) / 2
    return _difference(logits, labels, targets) / (ordered[:, 0] - lower + 1e-12)


def _chosen(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None]).squeeze(1)


def _without(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)


LOSSES: dict[str, Loss] = {
    "cross_entropy": _log_odds,
    "rounded_cross_entropy": cross_entropy,
    "margin": _margin,
    "difference": _difference,
    "dlr": _dlr,
}


def check_loss(loss: str, *, targeted: bool) -> None:
    """Refuse a loss that is unknown, or has no form without classes to be reached.

    Raises:
        UserError: names those that there are.
    """
    known = [name for name in LOSSES if targeted or name != "difference"]
    if loss not in known:
        raise UserError(f"loss must be one of {', '.join(known)}, got {loss!r}; choose one of them")


def classes_needed(loss: str | Loss, *, targeted: bool) -> int:
    """Number of classes from which on a loss is defined."""
    return (4 if targeted else 3) if loss == "dlr" else 2
