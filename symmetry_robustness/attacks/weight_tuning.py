"""Adversarial weight tuning: a transfer attack that tunes the weights of its source while it crafts."""

import copy
import itertools
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import Pass, class_to_leave, loss_gradient
from symmetry_robustness.attacks.gradient import LossName
from symmetry_robustness.attacks.losses import cross_entropy
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import ThreatModel
from symmetry_robustness.attacks.transfer import Classes, MomentumAttack
from symmetry_robustness.attacks.validation import check_count, check_gradients_exist, check_logits, forward
from symmetry_robustness.errors import UserError, one_line
from symmetry_robustness.precision import float32
from symmetry_robustness.rng import RandomSource
from symmetry_robustness.settings import checked

_WEIGHT_MOMENTUM: Final = 0.5  # that of the released code


@final
@checked
@dataclass(frozen=True)
class AdversarialWeightTuning(MomentumAttack):
    """PGD with momentum on a copy of the network whose weights are tuned against it before each step.

    A step on the weights lowers the cross-entropy of the images and of their iterates, by a gradient taken where a step
    of length `rho` has raised it (SAM), so that the loss is flat around the iterate. A step on the images then follows
    the mean, over random neighbours, of the gradient there and of the one a step further down. The network itself is
    never touched: each call tunes its own copy and forgets it. Weights are tuned on all images of a call together, so
    that results depend on which images these are. Source: arXiv 2408.09469; the defaults are those of the released code
    for a ResNet-50 on 224 pixels and 16/255, but for its step of epsilon / 10, and have not been tuned for smaller
    images.

    With `learning_rate`, `neighbour_radius` and `ahead` 0 and one neighbour it is `PGD(momentum=momentum)` bit for bit.

    Args:
        steps: gradient steps.
        step_size: length of a step in pixel units; see `PGD`.
        relative_step_size: length of a step as a fraction of epsilon; without both it is 2.5 / steps.
        momentum: fraction of the accumulated direction that each step keeps.
        learning_rate: of the weights; 0 leaves them as they are.
        rho: euclidean length, over all weights, of the step to where their gradient is taken.
        neighbours: so many random neighbours.
        neighbour_radius: distance within which neighbours are drawn, as a multiple of epsilon.
        ahead: share of the gradient that is taken one step further down, the γ of the paper; 0 for none.
        loss: as of `PGD`, of the step on the images.
        targeted: labels are the classes to be reached.

    Examples:
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3, 3)).eval()
        >>> network[1].weight.data = torch.eye(3)
        >>> attacked = AdversarialWeightTuning()(network, images, labels, ThreatModel("linf", "20/255"))
        >>> bool(attacked[0, 0] < images[0, 0])
        True
        >>> bool(torch.equal(network[1].weight, torch.eye(3)))
        True
    """

    steps: int = 10
    step_size: float | str | None = None
    relative_step_size: float | None = None
    momentum: float = 1.0
    learning_rate: float = 0.002
    rho: float = 0.005
    neighbours: int = 20
    neighbour_radius: float = 3.0
    ahead: float = 0.5
    loss: LossName = "cross_entropy"
    targeted: bool = False

    def __post_init__(self) -> None:
        _ = self.ascent  # which refuses unsuitable steps, momentum and losses
        check_count("neighbours", self.neighbours)
        for name in ("learning_rate", "rho", "neighbour_radius"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}; 0 is none")
        if not 0 <= self.ahead <= 1:
            raise UserError(f"ahead must lie between 0 and 1, got {self.ahead}; 0 is none, 0.5 is usual")

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        """Whether neighbours are drawn."""
        return bool(self.neighbour_radius)

    @property
    def cost(self) -> float:  # type: ignore[override]
        """Gradients of images at all neighbours, and four of the weights."""
        gradients = self.neighbours * (2 if self.ahead else 1) + (4 if self.learning_rate else 0)
        return 3 * self.steps * gradients

    def craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, source: RandomSource
    ) -> Tensor:
        """Return the last iterates (B, C, H, W), within the threat; neighbours are drawn from the source.

        Raises:
            UserError: for a network that has no weights, or cannot be copied.
        """
        classes = (class_to_leave(network, images, labels), labels) if self.targeted else (labels, None)
        ascent, surrogate = self.ascent, network
        if self.learning_rate and len(images):
            surrogate = _private_copy(network)
            tuning = _Tuning(surrogate, self.learning_rate, self.rho)
        epsilon = images.new_full((len(images),), threat.epsilon)
        memory = ascent.start(threat, images, epsilon, source)
        for step in range(self.steps):
            if surrogate is not network:
                tuning.step(images, memory["iterate"], classes)
            logits, gradient = self._gradient(surrogate, memory["iterate"], classes, threat, source)
            if step == 0:
                check_logits(logits)
            result = Pass(images, epsilon, labels, labels, torch.full_like(labels, step), logits, gradient)
            memory = ascent.step(threat, result, memory)
        return memory["iterate"]

    def _gradient(
        self, network: nn.Module, iterate: Tensor, classes: Classes, threat: ThreatModel, source: RandomSource
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, K) at the first neighbours, and the mean gradient (B, C, H, W) over neighbours."""
        labels, targets = classes
        scale = 1 / max(len(iterate), 1)  # as PGD, so that results agree to the last bit
        radius = iterate.new_full((len(iterate),), threat.epsilon)
        length = per_image(self.ascent.step_length(radius) / threat.geometry.length(torch.ones_like(iterate)), iterate)
        found, total = None, torch.zeros_like(iterate)
        for _ in range(self.neighbours):
            point = iterate
            if self.neighbour_radius:
                noise = threat.geometry.sample(iterate.shape, source, iterate.device)
                point = iterate + self.neighbour_radius * threat.epsilon * noise
            logits, gradient = loss_gradient(network, point, labels, self.loss, targets, scale=scale)
            found = logits if found is None else found
            if self.ahead:
                mean = per_image(gradient.abs().flatten(1).mean(1), gradient)
                lower = point - length * gradient / torch.where(mean > 0, mean, torch.ones_like(mean))
                further = loss_gradient(network, lower, labels, self.loss, targets, scale=scale)[1]
                gradient = (1 - self.ahead) * gradient + self.ahead * further
            total += gradient
        assert found is not None  # neighbours >= 1
        return found, total / self.neighbours


def _private_copy(network: nn.Module) -> nn.Module:
    """A copy whose weights can be tuned, and of which nothing reaches the network.

    Raises:
        UserError: the network has no weights, or cannot be copied.
    """
    try:
        surrogate = copy.deepcopy(network)
    except Exception as error:  # a network may hold anything
        raise UserError(f"network cannot be copied, so that its weights cannot be tuned: {one_line(error)}") from error
    shared = {id(tensor) for tensor in itertools.chain(network.parameters(), network.buffers())}
    if any(id(tensor) in shared for tensor in itertools.chain(surrogate.parameters(), surrogate.buffers())):
        raise UserError("network shares its weights with its copy, so that they cannot be tuned; use another source")
    for weight in surrogate.parameters():
        weight.requires_grad_(weight.is_floating_point())
    if not any(weight.requires_grad for weight in surrogate.parameters()):
        raise UserError("network has no weights to tune; take it before it is frozen, or set learning_rate=0")
    return surrogate


class _Tuning:
    """Sharpness-aware descent on the weights of a network that belongs to the caller."""

    def __init__(self, network: nn.Module, learning_rate: float, rho: float) -> None:
        self.network, self.rho = network, rho
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.SGD(self.weights, lr=learning_rate, momentum=_WEIGHT_MOMENTUM)

    def step(self, images: Tensor, adversarial: Tensor, classes: Classes) -> None:
        """Lower the loss of images and adversarial images (B, C, H, W)."""
        before = [weight.detach().clone() for weight in self.weights]
        slope = self._slope(images, adversarial, classes)
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in slope]))
        if self.rho and bool(length > 0):
            with torch.no_grad():
                for weight, part in zip(self.weights, slope, strict=True):
                    weight.add_(part, alpha=self.rho / float(length))
            slope = self._slope(images, adversarial, classes)
            with torch.no_grad():
                for weight, value in zip(self.weights, before, strict=True):
                    weight.copy_(value)
        for weight, part in zip(self.weights, slope, strict=True):
            weight.grad = part
        self.optimizer.step()

    def _slope(self, images: Tensor, adversarial: Tensor, classes: Classes) -> list[Tensor]:
        """Gradient by each weight of the mean loss of both sets of images; zero where it is not finite, or cut."""
        check_gradients_exist("attack")
        with torch.enable_grad(), float32(images.device):
            losses = [cross_entropy(forward(self.network, seen), *classes).mean() for seen in (adversarial, images)]
            loss = losses[0] + losses[1]
            if not loss.requires_grad:
                return [torch.zeros_like(weight) for weight in self.weights]
            slope = torch.autograd.grad(loss, self.weights, allow_unused=True)
        known = [torch.zeros_like(w) if part is None else part for w, part in zip(self.weights, slope, strict=True)]
        return [torch.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0) for part in known]
