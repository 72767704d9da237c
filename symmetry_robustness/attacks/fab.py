"""FAB: steps onto the linearised decision boundary that stay close to the image, in search of the nearest change."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import Memory, Pass, UpdateRule
from symmetry_robustness.attacks.norms import Norm, per_image
from symmetry_robustness.attacks.threat import ThreatModel
from symmetry_robustness.attacks.validation import check_count, check_gradients_exist, check_norm, forward
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.rng import RandomSource
from symmetry_robustness.settings import checked

# Settings of the paper, sec. 4, as the reference implementation has them: largest weight of the image's own projection,
# factor beyond the boundary, and fraction of a successful change that is kept for the next step.
_MOST_BIAS = 0.1
_OVERSHOOT = 1.05
_BACKWARD = 0.9
_RANDOM_RADIUS = 0.5  # of random starts, as a fraction of epsilon
_NEWTON_STEPS = 30
_ROUNDING = 1e-6  # of float32 sums
_TINY = 1e-12


@final
@checked
@dataclass(frozen=True)
class FAB(UpdateRule):
    """Fast adaptive boundary attack, which minimises the norm; linf and l2. Source: arXiv 1907.02044, alg. 1.

    Each iteration projects the iterate and the image onto the boundary of the linearised network, moves to a point
    between the two, and comes back towards the image where that is misclassified. One pass gives the gradient, a
    second one judges the new point, so that an iteration is two steps of the evaluator.

    Args:
        iterations: gradients per run.
        restarts: of the targeted form the number of target classes, most likely first; of the other one independent
            runs, which need random_start.
        targeted: the boundary is that between the label and one target class; else the nearest of all boundaries, at
            the price of a gradient for each class.
        random_start: begin at a random point at half of the largest epsilon instead of the image.

    Examples:
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> attacked = FAB(targeted=False)(nn.Flatten().eval(), images, labels, ThreatModel("linf", 0.2))
        >>> (attacked - images).abs().max() < 0.051  # the brightest channel is ahead by 0.1
        tensor(True)
    """

    iterations: int = 100
    restarts: int = 1
    targeted: bool = True
    random_start: bool = False

    norms = ("linf", "l2")
    minimizes_norm = True
    gradient_every = 2
    iterate = "best"
    loss = "difference"

    def __post_init__(self) -> None:
        for name in ("iterations", "restarts"):
            check_count(name, getattr(self, name))
        if self.restarts > 1 and not (self.random_start or self.targeted):
            raise UserError(f"restarts {self.restarts} repeat the same run; set random_start=true or restarts=1")

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Passes of one run: a gradient and a judgement for each iteration."""
        return 2 * self.iterations

    @property
    def min_classes(self) -> int:
        """Two."""
        return 2

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """Begin at the images, or at random points half an epsilon away."""
        check_norm("FAB", threat.norm, self.norms)
        iterate = images
        if self.random_start:
            noise = threat.geometry.sample(images.shape, source, images.device)
            radius = _RANDOM_RADIUS * epsilon
            length = threat.geometry.length(noise).clamp_min(_TINY)
            iterate = threat.project(images + noise * per_image(radius / length, noise), images, radius)
        return {"iterate": iterate}

    def evaluate(
        self, network: nn.Module, iterate: Tensor, labels: Tensor, targets: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the gradient of the difference to the target, or those to all classes (B, K, C, H, W)."""
        if self.targeted:
            return super().evaluate(network, iterate, labels, targets)
        check_gradients_exist("attack")
        with torch.enable_grad(), float32(iterate.device):
            variable = iterate.detach().requires_grad_()
            logits = forward(network, variable)
            rows = [_gradient(column.sum(), variable) for column in logits.unbind(1)]
        gradients = torch.stack(rows, dim=1)
        own = gradients[torch.arange(len(labels), device=labels.device), labels]
        return logits.detach(), gradients - own[:, None]

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """Towards the boundary after a gradient; back towards the image where the new point is misclassified."""
        iterate, images = memory["iterate"], result.images
        wrong = result.logits.argmax(1) != result.labels
        back = images + _BACKWARD * (iterate - images)
        judged = torch.where(per_image(wrong, images), back, iterate)
        due = torch.nonzero(result.step % self.gradient_every == 0).squeeze(1)
        if len(due):
            moved = self._towards_boundary(threat, Pass(*(values[due] for values in result)), iterate[due])
            judged[due] = moved
        return {"iterate": judged}

    def _towards_boundary(self, threat: ThreatModel, result: Pass, iterate: Tensor) -> Tensor:
        """Between the projections of iterate and image onto the boundary, a little beyond."""
        norm, bounds, images = threat.geometry, threat.bounds, result.images
        gap, gradient = self._boundary(norm, result)
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        slope = (gradient * (images - iterate)).flatten(1).sum(1)
        own = project_to_plane(norm, iterate, gradient, gap, bounds)
        central = project_to_plane(norm, images, gradient, gap + slope, bounds)
        lengths = [norm.length(change).clamp_min(1e-8) for change in (own, central)]
        bias = per_image((lengths[0] / (lengths[0] + lengths[1])).clamp_max(_MOST_BIAS), images)
        moved = (iterate + _OVERSHOOT * own) * (1 - bias) + (images + _OVERSHOOT * central) * bias
        return moved.clamp(*bounds)

    def _boundary(self, norm: Norm, result: Pass) -> tuple[Tensor, Tensor]:
        """Difference of logits (B,) to the class aimed at, and its gradient (B, C, H, W)."""
        differences = result.logits - result.logits.gather(1, result.labels[:, None])
        if self.targeted:
            return differences.gather(1, result.targets[:, None]).squeeze(1), result.gradient
        steepness = norm.dual.length(result.gradient.flatten(0, 1)).reshape(differences.shape)
        distance = (differences.abs() / (steepness + _TINY)).scatter(1, result.labels[:, None], torch.inf)
        nearest = distance.argmin(1)
        rows = torch.arange(len(nearest), device=nearest.device)
        return differences[rows, nearest], result.gradient[rows, nearest]


def _gradient(value: Tensor, images: Tensor) -> Tensor:
    """Gradient of a sum; zero where the graph is cut."""
    if not value.requires_grad:
        return torch.zeros_like(images)
    (found,) = torch.autograd.grad(value, images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if found is None else found


def project_to_plane(norm: Norm, points: Tensor, gradient: Tensor, gap: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Shortest changes that bring points onto a plane and stay inside the bounds; the nearest approach if none does.

    The change is `clip(λ d)` along the steepest direction d of the norm, clipped by the bounds. The way that it goes
    along the gradient is concave and piecewise linear in λ, so that Newton's method from below ends after few steps.
    Source: arXiv 1907.02044, sec. 3.1.

    Args:
        norm: linf or l2.
        points: (B, ...) inside the bounds.
        gradient: (B, ...) of a linear function.
        gap: (B,) its value at the points; the plane is where it is zero.
        bounds: smallest and largest value of a component.
    """
    way = -per_image(gap.sign(), gradient) * gradient  # the direction of each component
    ascent, axes = norm.steepest_direction(way), tuple(range(1, points.dim()))
    speed, gain = ascent.abs(), gradient.abs()
    room = torch.where(way > 0, bounds[1] - points, points - bounds[0])
    limit = torch.where(speed > 0, room / speed, 0.0)  # λ at which a component meets its bound
    rate = gain * speed
    wanted = torch.minimum(gap.abs(), (rate * limit).sum(axes))
    factor = torch.zeros_like(wanted)
    for _ in range(_NEWTON_STEPS):
        reached = per_image(factor, points)
        missing = wanted - (rate * torch.minimum(reached, limit)).sum(axes)
        slope = (rate * (reached < limit)).sum(axes)
        if not bool(((missing > _ROUNDING * wanted) & (slope > 0)).any()):
            break
        factor = torch.where(slope > 0, factor + (missing / slope).clamp_min(0), factor)
    return ascent * torch.minimum(per_image(factor, points), limit)
