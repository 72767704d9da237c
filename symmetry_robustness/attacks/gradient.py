"""FGSM and PGD: steepest ascent of a loss inside the ball."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from symmetry_robustness.attacks.base import Memory, Pass, UpdateRule
from symmetry_robustness.attacks.losses import check_loss
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import ThreatModel, parse_epsilon
from symmetry_robustness.attacks.validation import check_count
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource
from symmetry_robustness.settings import checked

LossName = Literal["cross_entropy", "rounded_cross_entropy", "margin", "difference", "dlr"]


class GradientAttack(UpdateRule):
    """An attack that steps along the steepest direction of a loss and projects back into the ball."""

    momentum: float = 0.0
    """Fraction of the accumulated direction that each step keeps."""

    @abstractmethod
    def step_length(self, epsilon: Tensor) -> Tensor:
        """Length of one step, (B,), for balls of radius epsilon, (B,)."""

    def reach(self, epsilon: float) -> float:
        """Steps times the length of one."""
        return self.steps * float(self.step_length(torch.tensor([epsilon])))

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """Begin at the images or at uniform draws from their balls; the velocity of momentum is zero."""
        iterate = images
        if self.random_start:
            noise = threat.geometry.sample(images.shape, source, images.device)
            iterate = threat.project(images + noise * per_image(epsilon, noise), images, epsilon)
        return {"iterate": iterate, "velocity": torch.zeros_like(images)} if self.momentum else {"iterate": iterate}

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """One step along the steepest direction, projected; gradient entries that are not finite count as zero."""
        gradient, changed = torch.nan_to_num(result.gradient, nan=0.0, posinf=0.0, neginf=0.0), dict(memory)
        iterate = memory["iterate"]
        if self.momentum:
            mean = gradient.abs().flatten(1).mean(1)
            scaled = gradient / per_image(torch.where(mean > 0, mean, torch.ones_like(mean)), gradient)
            gradient = changed["velocity"] = self.momentum * memory["velocity"] + scaled
        if threat.geometry.is_sparse:  # a pixel at its bound cannot move, and would be chosen again in every step
            low, high = threat.bounds
            blocked = ((iterate <= low) & (gradient < 0)) | ((iterate >= high) & (gradient > 0))
            gradient = gradient.masked_fill(blocked, 0.0)
        length = per_image(self.step_length(result.epsilon), gradient)
        moved = iterate + length * threat.geometry.steepest_direction(gradient)
        return changed | {"iterate": threat.project(moved, result.images, result.epsilon)}


@final
@checked
@dataclass(frozen=True)
class PGD(GradientAttack):
    """Projected gradient ascent. Source: arXiv 1706.06083; momentum: arXiv 1710.06081, alg. 1.

    Args:
        steps: gradient steps.
        step_size: length of a step in pixel units, number or fraction such as "2/255".
        relative_step_size: length of a step as a fraction of epsilon; without both it is 2.5 / steps.
        random_start: begin at a uniform draw from the ball instead of the image.
        restarts: independent runs, the strongest result counts; for a targeted attack inside the evaluator the number
            of target classes, most likely first.
        momentum: fraction of the accumulated direction that each step keeps; 0 for none.
        loss: "cross_entropy" (its direction, without the rounding of saturated softmax), "margin", "dlr", or for a
            targeted attack "difference" (of the target's and the label's logit);
            "rounded_cross_entropy" rounds as torch does and re-enacts scripts that saturate.
        targeted: labels are the classes to be reached.
        iterate: "last" returns the last iterate, "best" the one that does most harm.

    Examples:
        >>> from torch import nn
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> attacked = PGD(steps=10)(nn.Flatten().eval(), images, labels, ThreatModel("linf", "20/255"))
        >>> ((attacked - images) * 255).flatten().round()
        tensor([-20.,  20.,  20.])
    """

    steps: int = 40
    step_size: float | str | None = None
    relative_step_size: float | None = None
    random_start: bool = False
    restarts: int = 1
    momentum: float = 0.0
    loss: LossName = "cross_entropy"
    targeted: bool = False
    iterate: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        for name, count in (("steps", self.steps), ("restarts", self.restarts)):
            check_count(name, count)
        if self.step_size is not None and self.relative_step_size is not None:
            raise UserError(f"step_size {self.step_size} and relative_step_size {self.relative_step_size}; give one")
        for name, size in (("step_size", self.step_size), ("relative_step_size", self.relative_step_size)):
            if size is not None:
                parse_epsilon(size, name)
        if self.momentum < 0:
            raise UserError(f"momentum must not be negative, got {self.momentum}; 0 is none, 1 keeps everything")
        check_loss(self.loss, targeted=self.targeted)
        if self.iterate not in ("last", "best"):
            raise UserError(f"iterate must be last or best, got {self.iterate!r}; choose one of them")
        if self.restarts > 1 and not (self.random_start or self.targeted):
            raise UserError(f"restarts {self.restarts} repeat the same run; set random_start=true or restarts=1")

    def step_length(self, epsilon: Tensor) -> Tensor:
        """Length of one step, (B,), for balls of radius epsilon, (B,)."""
        if self.step_size is not None:
            return torch.full_like(epsilon, parse_epsilon(self.step_size, "step_size"))
        return epsilon * (2.5 / self.steps if self.relative_step_size is None else self.relative_step_size)


@final
@checked
@dataclass(frozen=True)
class FGSM(GradientAttack):
    """One step to the edge of the ball. Source: arXiv 1412.6572, sec. 4.

    Examples:
        >>> from torch import nn
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> network = nn.Flatten().eval()  # the class is the brightest channel
        >>> FGSM()(network, images, labels, ThreatModel("linf", 0.1)).flatten()
        tensor([0.5000, 0.5000, 0.6000])
    """

    loss: LossName = "cross_entropy"
    targeted: bool = False

    steps = 1

    def __post_init__(self) -> None:
        check_loss(self.loss, targeted=self.targeted)

    def step_length(self, epsilon: Tensor) -> Tensor:
        """The radius."""
        return epsilon
