"""APGD: ascent whose step size follows from the progress of the loss, without a setting to tune."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, final

import torch
from torch import Tensor

from symmetry_robustness.attacks.base import Memory, Pass, UpdateRule, attack_loss
from symmetry_robustness.attacks.losses import check_loss
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import ThreatModel
from symmetry_robustness.attacks.validation import check_count, check_norm
from symmetry_robustness.rng import RandomSource
from symmetry_robustness.settings import checked

# Settings of the paper, sec. 3: fraction of steps that must raise the loss, weight of the new step against the last
# move, length of the first step in radii.
_PROGRESS = 0.75
_MOMENTUM = 0.75
_FIRST_STEP = 2.0


@final
@checked
@dataclass(frozen=True)
class APGD(UpdateRule):
    """Projected gradient ascent that halves its step where the loss stalls. Source: arXiv 2003.01690, alg. 1.

    At checkpoints, ever closer together, an image whose loss rose in too few steps, or whose best loss is still the
    old one at the old step size, goes back to its best point and halves its step.

    Args:
        steps: gradient steps.
        restarts: independent runs; of the targeted form the number of target classes, most likely first.
        loss: "cross_entropy", "dlr" or "margin".
        targeted: ascend the loss towards a class ("dlr": arXiv 2003.01690, eq. 7).
        draws: passes that are averaged for each step, for a network that is random (expectation over transformation,
            arXiv 1802.00420, sec. 4.2).

    Examples:
        >>> from torch import nn
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> attacked = APGD(steps=10)(nn.Flatten().eval(), images, labels, ThreatModel("linf", "20/255"))
        >>> ((attacked - images) * 255).flatten()[:2].round()
        tensor([-20.,  20.])
    """

    steps: int = 100
    restarts: int = 1
    loss: Literal["cross_entropy", "margin", "dlr"] = "cross_entropy"
    targeted: bool = False
    draws: int = 1

    norms = ("linf", "l2")
    random_start = True
    iterate = "best"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "draws"):
            check_count(name, getattr(self, name))
        check_loss(self.loss, targeted=self.targeted)

    @cached_property
    def windows(self) -> list[int]:
        """By the number of steps taken: at a checkpoint the steps since the one before, elsewhere 0."""
        fractions = (0.22, 0.06, 0.03)  # first window, shortest window, by how much each is shorter than the last
        window, shortest, less = (max(int(fraction * self.steps), 1) for fraction in fractions)
        found, position = [0] * (self.steps + 1), window
        while position <= self.steps:
            found[position] = window
            window = max(window - less, shortest)
            position += window
        return found

    def reach(self, epsilon: float) -> float:
        """Length of the first step."""
        return _FIRST_STEP * epsilon

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """Begin at a random point on the edge of the ball."""
        check_norm("APGD", threat.norm, self.norms)
        noise = threat.geometry.sample(images.shape, source, images.device)
        length = threat.geometry.length(noise).clamp_min(torch.finfo(noise.dtype).tiny)
        iterate = threat.project(images + noise * per_image(epsilon / length, noise), images, epsilon)
        nothing = torch.full_like(epsilon, -torch.inf)
        return {
            "iterate": iterate,
            "previous": iterate,  # the iterate one step before
            "length": _FIRST_STEP * epsilon,
            "loss": nothing,  # at the iterate before
            "rises": torch.zeros_like(epsilon),  # steps since the last checkpoint that raised the loss
            "best": iterate,
            "best_gradient": torch.zeros_like(images),
            "best_loss": nothing,
            "checked_loss": nothing,  # best loss at the last checkpoint
            "halved": torch.ones_like(epsilon, dtype=torch.bool),  # at the last checkpoint
        }

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """Note the loss, go back and halve the step where a checkpoint says so, and step."""
        gradient = torch.nan_to_num(result.gradient, nan=0.0, posinf=0.0, neginf=0.0)
        aims = result.targets if self.targeted else None
        loss = attack_loss(self.loss, result.logits, result.labels, aims).nan_to_num(nan=-torch.inf)
        changed, first = dict(memory), result.step == 0
        changed["rises"] = torch.where(first, 0.0, memory["rises"] + (loss > memory["loss"]))
        changed["loss"] = loss
        better = first | (loss > memory["best_loss"])
        place = per_image(better, gradient)
        changed["best_loss"] = torch.where(better, loss, memory["best_loss"])
        changed["best"] = torch.where(place, memory["iterate"], memory["best"])
        changed["best_gradient"] = torch.where(place, gradient, memory["best_gradient"])
        changed["checked_loss"] = torch.where(first, loss, memory["checked_loss"])
        gradient = self._check(result.step, changed, gradient)
        return changed | self._move(threat, result, changed, gradient)

    def _check(self, step: Tensor, memory: Memory, gradient: Tensor) -> Tensor:
        """Halve the step of images at a checkpoint that make no progress; the gradient at their best point."""
        window = torch.tensor(self.windows, device=step.device)[step]
        checked = window > 0
        few = memory["rises"] <= _PROGRESS * window
        stalled = ~memory["halved"] & (memory["checked_loss"] >= memory["best_loss"])
        halve = checked & (few | stalled)
        memory["halved"] = torch.where(checked, halve, memory["halved"])
        memory["checked_loss"] = torch.where(checked, memory["best_loss"], memory["checked_loss"])
        memory["rises"] = torch.where(checked, 0.0, memory["rises"])
        memory["length"] = torch.where(halve, memory["length"] / 2, memory["length"])
        back = per_image(halve, gradient)
        memory["iterate"] = torch.where(back, memory["best"], memory["iterate"])
        return torch.where(back, memory["best_gradient"], gradient)

    def _move(self, threat: ThreatModel, result: Pass, memory: Memory, gradient: Tensor) -> Memory:
        """A projected step, of which the last move keeps a quarter."""
        iterate, images, epsilon = memory["iterate"], result.images, result.epsilon
        length = per_image(memory["length"], gradient)
        stepped = threat.project(iterate + length * threat.geometry.steepest_direction(gradient), images, epsilon)
        weight = per_image(torch.where(result.step == 0, 1.0, _MOMENTUM), gradient)
        mixed = iterate + weight * (stepped - iterate) + (1 - weight) * (iterate - memory["previous"])
        return {"iterate": threat.project(mixed, images, epsilon), "previous": iterate}
