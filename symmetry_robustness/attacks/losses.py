"""What an attack climbs: one value per image, larger where the attack is closer to its goal."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from symmetry_robustness.errors import UserError


def _cross_entropy(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    losses = cross_entropy(logits, labels, reduction="none")
    return -losses if targeted else losses


def _margin(logits: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Best other logit minus the label's. Source: arXiv 1608.04644, f6."""
    chosen = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.masked_fill(one_hot(labels, logits.shape[1]).bool(), -torch.inf).amax(1)
    return chosen - others if targeted else others - chosen


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


LOSSES: dict[str, Callable[[Tensor, Tensor, bool], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "margin": _margin,
    "dlr": _dlr,
}


def attack_loss(name: str, logits: Tensor, labels: Tensor, targeted: bool = False) -> Tensor:
    """Loss to ascend, (B,), of logits (B, K); with `targeted` the labels are the classes to be reached."""
    return LOSSES[name](logits, labels, targeted)
