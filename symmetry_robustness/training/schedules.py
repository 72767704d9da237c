"""Learning rates as functions of the step, and how a training drives any schedule."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from symmetry_robustness.errors import UserError

# Takes the optimiser, and `total_steps` if it is to be stepped after each of them.
MakeSchedule = Callable[..., LRScheduler]


def drive(make: MakeSchedule, optimizer: Optimizer, total_steps: Callable[[], float]) -> dict[str, Any]:
    """A schedule and its interval, as Lightning takes them.

    A schedule that takes `total_steps` and was not given a number is stepped after each step of the optimiser, any
    other after each epoch.

    Args:
        make: of the configuration, e.g. a partial of `cyclic` or of a class of `torch.optim.lr_scheduler`.
        optimizer: is scheduled.
        total_steps: of the whole training.

    Raises:
        UserError: a schedule over all steps of a training without an end.
    """
    bound = getattr(make, "keywords", {})
    if "total_steps" not in inspect.signature(make).parameters or bound.get("total_steps") is not None:
        return {"scheduler": make(optimizer), "interval": "epoch"}
    steps = total_steps()
    if not math.isfinite(steps):
        raise UserError("scheduler needs the number of steps; set trainer.max_epochs, or scheduler=none")
    return {"scheduler": make(optimizer, total_steps=int(steps)), "interval": "step"}


def cyclic(optimizer: Optimizer, total_steps: int, peak: float = 0.5) -> LambdaLR:
    """From 0 linearly up to the optimiser's learning rate, and down to 0 at the end of the training.

    Source: arXiv 2001.03994, whose script has the peak in the middle; that of arXiv 2002.11569 at two fifths.

    Args:
        optimizer: its learning rate is the highest.
        total_steps: of the training.
        peak: share of the steps after which the rate is highest.

    Raises:
        UserError: the peak is no share.
    """
    if not 0 < peak < 1:
        raise UserError(f"scheduler.peak must lie in (0, 1), got {peak}; 0.5 is the middle of the training")
    top = peak * total_steps
    return LambdaLR(optimizer, lambda step: min(step / top, max(0.0, total_steps - step) / (total_steps - top)))


def piecewise(
    optimizer: Optimizer, total_steps: int, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1
) -> LambdaLR:
    """Constant between milestones, multiplied by a factor at each. Source: arXiv 2002.11569 and its script.

    Args:
        optimizer: its learning rate is the first.
        total_steps: of the training.
        milestones: shares of the training, ascending.
        gamma: the factor.

    Raises:
        UserError: milestones that do not ascend within the training, or a factor that is not positive.
    """
    if not all(0 < share < 1 for share in milestones) or [*milestones] != sorted(set(milestones)):
        raise UserError(f"scheduler.milestones must ascend within (0, 1), got {[*milestones]}; [0.5, 0.75] is usual")
    if not 0 < gamma < math.inf:
        raise UserError(f"scheduler.gamma must be positive, got {gamma}; 0.1 is usual")
    return LambdaLR(optimizer, lambda step: gamma ** sum(step + 1 >= share * total_steps for share in milestones))
