"""FGSM and PGD: settings of one update rule, and the rule itself as functions an evaluator can drive."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.losses import LOSSES, attack_loss
from symmetry_robustness.attacks.rng import RandomSource, example_generator
from symmetry_robustness.attacks.threat import Norm, ThreatModel, check_images, parse_epsilon, per_image, project
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32

LossName = Literal["cross_entropy", "margin", "dlr"]


class GradientAttack(ABC):
    """An attack that follows the gradient of a loss with respect to the image."""

    @property
    @abstractmethod
    def rule(self) -> "PGD":
        """The settings of the update rule."""

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return adversarial images (B, C, H, W) within the threat.

        Args:
            network: images in [0, 1] to logits, in evaluation mode; neither its mode nor its gradients are touched.
            images: float32 (B, C, H, W) in [0, 1].
            labels: (B,) int64, true classes; for a targeted attack the classes to be reached.
            threat: norm, epsilon, bounds.
            generator: for random starts; one, or one per image; without it a fixed seed is used.

        Raises:
            UserError: for unsuitable images, labels, logits that are not finite, or a call inside inference mode.
        """
        check_images(images, threat.bounds)
        check_labels(labels, images)
        check_evaluation_mode(network)
        return perturb(network, images, labels, threat, self.rule, generator)


@final
@dataclass(frozen=True)
class PGD(GradientAttack):
    """Projected gradient ascent. Source: arXiv 1706.06083; momentum: arXiv 1710.06081, alg. 1.

    Args:
        steps: gradient steps.
        step_size: length of a step in pixel units, number or fraction such as "2/255".
        relative_step_size: length of a step as a share of epsilon; without both it is 2.5 / steps.
        random_start: begin at a uniform draw from the ball instead of the image.
        restarts: independent runs, the strongest result counts; for a targeted attack inside the evaluator the number
            of target classes, most likely first.
        momentum: share of the accumulated direction that is kept in each step; 0 for none.
        loss: "cross_entropy", "margin" or "dlr".
        targeted: labels are the classes to be reached.
        iterate: "last" returns the last iterate, "best" the one that does most harm.
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
            if count != int(count) or count < 1:
                raise UserError(f"{name} must be a whole number of at least 1, got {count}; set it to 1 or more")
        if self.step_size is not None and self.relative_step_size is not None:
            raise UserError(f"step_size {self.step_size} and relative_step_size {self.relative_step_size}; give one")
        for name, size in (("step_size", self.step_size), ("relative_step_size", self.relative_step_size)):
            if size is not None:
                parse_epsilon(size, name)
        if self.momentum < 0:
            raise UserError(f"momentum must not be negative, got {self.momentum}; 0 is none, 1 keeps everything")
        if self.loss not in LOSSES:
            raise UserError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}; choose one of them")
        if self.iterate not in ("last", "best"):
            raise UserError(f"iterate must be last or best, got {self.iterate!r}; choose one of them")
        if self.restarts > 1 and not (self.random_start or self.targeted):
            raise UserError(f"restarts {self.restarts} repeat the same run; set random_start=true or restarts=1")

    @property
    def rule(self) -> "PGD":
        """Itself."""
        return self

    def step_length(self, epsilon: Tensor) -> Tensor:
        """Length of one step, (B,), for balls of radius epsilon, (B,)."""
        if self.step_size is not None:
            return torch.full_like(epsilon, parse_epsilon(self.step_size, "step_size"))
        return epsilon * (2.5 / self.steps if self.relative_step_size is None else self.relative_step_size)


@final
@dataclass(frozen=True)
class FGSM(GradientAttack):
    """One step to the edge of the ball. Source: arXiv 1412.6572, sec. 4."""

    loss: LossName = "cross_entropy"
    targeted: bool = False

    def __post_init__(self) -> None:
        _ = self.rule

    @property
    def rule(self) -> PGD:
        """PGD with a single step of length epsilon."""
        return PGD(steps=1, relative_step_size=1.0, loss=self.loss, targeted=self.targeted)


class Ball(NamedTuple):
    """Where iterates live: around `images` (B, ...), within `epsilon` (B,) of the norm, inside the bounds."""

    norm: Norm
    images: Tensor
    epsilon: Tensor
    bounds: tuple[float, float]


def loss_gradient(
    network: nn.Module, images: Tensor, labels: Tensor, rule: PGD, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and the gradient (B, ...) of the rule's loss, summed over images and multiplied by `scale`.

    Runs in float32 with gradients on, whatever the caller's context. Parameters get no gradients. A network that cuts
    the graph gives a zero gradient, which a soundness check reports.
    """
    if torch.is_inference_mode_enabled():
        raise UserError("attack called inside torch.inference_mode, where no gradients exist; call it outside")
    with torch.enable_grad(), float32(images.device):
        variable = images.detach().requires_grad_()
        logits = network(variable)
        losses = attack_loss(rule.loss, logits, labels, rule.targeted)
        gradient = None
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum() * scale, variable, allow_unused=True)
    return logits.detach(), torch.zeros_like(images) if gradient is None else gradient


def take_step(
    rule: PGD, ball: Ball, iterate: Tensor, gradient: Tensor, velocity: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """One update: the next iterates (B, ...), inside the ball, and the next velocity.

    Non-finite gradient entries count as zero, so that iterates stay valid images.
    """
    gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
    if rule.momentum:
        mean = gradient.abs().flatten(1).mean(1)
        scaled = gradient / per_image(torch.where(mean > 0, mean, torch.ones_like(mean)), gradient)
        velocity = scaled if velocity is None else rule.momentum * velocity + scaled
        gradient = velocity
    step = per_image(rule.step_length(ball.epsilon), iterate) * ball.norm.steepest(gradient)
    return project(ball.norm, iterate + step, ball.images, ball.epsilon, ball.bounds), velocity


def start_noise(rule: PGD, norm: Norm, images: Tensor, source: RandomSource) -> Tensor:
    """Starting perturbations (B, ...) in the unit ball."""
    return norm.sample(images.shape, source, images.device)


def started(ball: Ball, noise: Tensor) -> Tensor:
    """First iterates (B, ...) from perturbations in the unit ball."""
    moved = ball.images + noise * per_image(ball.epsilon, noise)
    return project(ball.norm, moved, ball.images, ball.epsilon, ball.bounds)


class _Candidate(NamedTuple):
    """Adversarial images with what they achieve: `success` and `loss`, both (B,)."""

    images: Tensor
    success: Tensor
    loss: Tensor


def _stronger(first: _Candidate | None, second: _Candidate) -> _Candidate:
    """Per image the successful one, else the one of larger loss, else the first."""
    if first is None:
        return second
    better = (second.success & ~first.success) | ((second.success == first.success) & (second.loss > first.loss))
    chosen = torch.where(per_image(better, first.images), second.images, first.images)
    return _Candidate(chosen, first.success | second.success, torch.where(better, second.loss, first.loss))


def _judge(rule: PGD, images: Tensor, logits: Tensor, labels: Tensor) -> _Candidate:
    reached = logits.argmax(1) == labels
    loss = attack_loss(rule.loss, logits, labels, rule.targeted)
    return _Candidate(images, reached if rule.targeted else ~reached, loss)


def _run(network: nn.Module, labels: Tensor, rule: PGD, ball: Ball, iterate: Tensor) -> _Candidate:
    """One run of all steps; the strongest iterate, or the last."""
    velocity: Tensor | None = None
    best: _Candidate | None = None
    for step in range(rule.steps):
        # The mean, as in the usual implementations, so that results agree with theirs to the last bit.
        logits, gradient = loss_gradient(network, iterate, labels, rule, scale=1 / max(len(labels), 1))
        if step == 0:
            check_logits(logits)
        if rule.iterate == "best":
            best = _stronger(best, _judge(rule, iterate, logits, labels))
        iterate, velocity = take_step(rule, ball, iterate, gradient, velocity)
    if rule.iterate == "last" and rule.restarts == 1:
        nothing = torch.zeros_like(labels, dtype=torch.bool)
        return _Candidate(iterate, nothing, torch.zeros_like(ball.epsilon))
    with torch.no_grad(), float32(iterate.device):
        last = _judge(rule, iterate, network(iterate), labels)
    return _stronger(best, last)


def perturb(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    rule: PGD,
    generator: RandomSource | None = None,
) -> Tensor:
    """The strongest result (B, C, H, W) of all restarts, for a caller that has checked network, images and labels."""
    images = images.detach()
    if images.is_inference() and not torch.is_inference_mode_enabled():
        images = images.clone()
    source = example_generator(0) if generator is None else generator
    ball = Ball(threat.ball, images, torch.full_like(images[:, 0, 0, 0], threat.epsilon), threat.bounds)
    best: _Candidate | None = None
    for _ in range(rule.restarts if rule.random_start else 1):
        first = started(ball, start_noise(rule, ball.norm, images, source)) if rule.random_start else images
        best = _stronger(best, _run(network, labels, rule, ball, first))
    assert best is not None  # restarts >= 1
    return best.images


def check_labels(labels: Tensor, images: Tensor) -> None:
    """Refuse labels that do not belong to the images.

    Raises:
        UserError: where labels are not int64 of shape (B,).
    """
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise UserError(
            f"labels must be int64 of shape ({len(images)},), got {labels.dtype} of shape {tuple(labels.shape)}; "
            "give one class per image"
        )


def check_logits(logits: Tensor) -> None:
    """Refuse logits an attack cannot work with.

    Raises:
        UserError: where some are not finite.
    """
    broken = int((~torch.isfinite(logits)).any(1).sum())
    if broken:
        raise UserError(
            f"network gives non-finite logits for {broken} of {len(logits)} images; check its weights and its training"
        )


def training_layers(network: nn.Module) -> list[str]:
    """Names of the layers whose training mode changes what the network computes: batch norm, instance norm, dropout."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return [name or type(m).__name__ for name, m in network.named_modules() if m.training and isinstance(m, kinds)]


def check_evaluation_mode(network: nn.Module) -> None:
    """Refuse a network that would compute something else than at test time.

    Raises:
        UserError: where a normalisation or dropout layer is in training mode.
    """
    names = training_layers(network)
    if names:
        raise UserError(f"network is in training mode ({len(names)} layers, first {names[0]}); call network.eval()")
