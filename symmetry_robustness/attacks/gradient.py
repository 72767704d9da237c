"""FGSM and PGD: settings of one update rule, and the loop that runs any update rule."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.losses import LOSSES, Loss
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import Memory, Pass, ThreatModel, UpdateRule, describe_settings, parse_epsilon
from symmetry_robustness.attacks.validation import (
    check_evaluation_mode,
    check_gradients_exist,
    check_images,
    check_labels,
    check_logits,
    forward,
    predict,
)
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.rng import RandomSource, keyed_generator

LossName = Literal["cross_entropy", "margin", "dlr"]


class GradientAttack(ABC):
    """An attack that is an update rule; the evaluator drives the rule, others call the attack."""

    @property
    @abstractmethod
    def update_rule(self) -> UpdateRule:
        """The rule."""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.update_rule.steps

    @property
    def minimizes_norm(self) -> bool:
        """False: the attack uses the whole ball."""
        return False

    @property
    def is_random(self) -> bool:
        """Whether it starts at a random point."""
        return self.update_rule.random_start

    def describe(self) -> dict[str, Any]:
        """Class and settings as plain values."""
        return describe_settings(self)

    @abstractmethod
    def reach(self, epsilon: float) -> float | None:
        """Length of all steps together."""

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
        images = check_images(images, threat.bounds)
        labels = check_labels(labels, images)
        check_evaluation_mode(network)
        return run_rule(network, images, labels, threat, self.update_rule, generator)


@final
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
        loss: "cross_entropy" (its direction, without the rounding of saturated softmax), "margin" or "dlr".
        targeted: labels are the classes to be reached.
        iterate: "last" returns the last iterate, "best" the one that does most harm.

    Examples:
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
    def update_rule(self) -> UpdateRule:
        """The attack itself."""
        return self

    @property
    def uses_gradient(self) -> bool:
        """True."""
        return True

    def reach(self, epsilon: float) -> float:
        """Steps times the length of one."""
        return self.steps * float(self.step_length(torch.tensor([epsilon])))

    def step_length(self, epsilon: Tensor) -> Tensor:
        """Length of one step, (B,), for balls of radius epsilon, (B,)."""
        if self.step_size is not None:
            return torch.full_like(epsilon, parse_epsilon(self.step_size, "step_size"))
        return epsilon * (2.5 / self.steps if self.relative_step_size is None else self.relative_step_size)

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
        if self.momentum:
            mean = gradient.abs().flatten(1).mean(1)
            scaled = gradient / per_image(torch.where(mean > 0, mean, torch.ones_like(mean)), gradient)
            gradient = changed["velocity"] = self.momentum * memory["velocity"] + scaled
        length = per_image(self.step_length(result.epsilon), gradient)
        moved = memory["iterate"] + length * threat.geometry.steepest_direction(gradient)
        return changed | {"iterate": threat.project(moved, result.images, result.epsilon)}


@final
@dataclass(frozen=True)
class FGSM(GradientAttack):
    """One step to the edge of the ball. Source: arXiv 1412.6572, sec. 4.

    Examples:
        >>> images, labels = torch.tensor([0.6, 0.4, 0.5]).reshape(1, 3, 1, 1), torch.tensor([0])
        >>> network = nn.Flatten().eval()  # the class is the brightest channel
        >>> FGSM()(network, images, labels, ThreatModel("linf", 0.1)).flatten()
        tensor([0.5000, 0.5000, 0.6000])
    """

    loss: LossName = "cross_entropy"
    targeted: bool = False

    def __post_init__(self) -> None:
        _ = self.update_rule

    @property
    def update_rule(self) -> UpdateRule:
        """PGD with a single step of length epsilon."""
        return PGD(steps=1, relative_step_size=1.0, loss=self.loss, targeted=self.targeted)

    def reach(self, epsilon: float) -> float:
        """The edge of the ball."""
        return epsilon


def attack_loss(loss: str | Loss, logits: Tensor, labels: Tensor, targeted: bool = False) -> Tensor:
    """Loss to ascend, (B,), of logits (B, K); with `targeted` the labels are the classes to be reached."""
    return (LOSSES[loss] if isinstance(loss, str) else loss)(logits, labels, targeted)


def loss_gradient(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: str | Loss = "cross_entropy",
    *,
    targeted: bool = False,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and the gradient (B, ...) of the loss, summed over images and multiplied by `scale`.

    Runs in float32 with gradients on, whatever the caller's context. Parameters get no gradients. A network that cuts
    the graph gives a zero gradient, which a soundness check reports.

    Raises:
        UserError: for a network without logits (B, K), or a call inside inference mode.
    """
    check_gradients_exist("attack")
    with torch.enable_grad(), float32(images.device):
        variable = images.detach().requires_grad_()
        logits = forward(network, variable)
        losses = attack_loss(loss, logits, labels, targeted)
        gradient = None
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum() * scale, variable, allow_unused=True)
    return logits.detach(), torch.zeros_like(images) if gradient is None else gradient


class _Candidate(NamedTuple):
    """Adversarial images with their effect: `success` and `loss`, both (B,)."""

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


def _judge(rule: UpdateRule, images: Tensor, logits: Tensor, labels: Tensor) -> _Candidate:
    reached = logits.argmax(1) == labels
    loss = attack_loss(rule.loss, logits, labels, rule.targeted)
    return _Candidate(images, reached if rule.targeted else ~reached, loss)


def run_rule(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    rule: UpdateRule,
    generator: RandomSource | None = None,
) -> Tensor:
    """The strongest result (B, C, H, W) of all restarts, for a caller that has checked network, images and labels."""
    images = images.detach()
    if images.is_inference() and not torch.is_inference_mode_enabled():
        images = images.clone()
    source = keyed_generator(0) if generator is None else generator
    best: _Candidate | None = None
    for _ in range(rule.restarts if rule.random_start else 1):
        best = _stronger(best, _run_once(network, images, labels, threat, rule, source))
    assert best is not None  # restarts >= 1
    return best.images


def _run_once(
    network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, rule: UpdateRule, source: RandomSource
) -> _Candidate:
    """One run of all steps; the strongest iterate, or the last."""
    epsilon = images.new_full((len(images),), threat.epsilon)
    memory = rule.start(threat, images, epsilon, source)
    best: _Candidate | None = None
    for step in range(rule.steps):
        iterate = memory["iterate"]
        if rule.uses_gradient:
            # The mean, as in the usual implementations, so that results agree with theirs to the last bit.
            scale = 1 / max(len(labels), 1)
            logits, gradient = loss_gradient(network, iterate, labels, rule.loss, targeted=rule.targeted, scale=scale)
        else:
            logits, gradient = predict(network, iterate), torch.zeros_like(iterate)
        if step == 0:
            check_logits(logits)
        if rule.iterate == "best":
            best = _stronger(best, _judge(rule, iterate, logits, labels))
        result = Pass(images, epsilon, labels, torch.full_like(labels, step), logits, gradient)
        memory = rule.step(threat, result, memory)
    iterate = memory["iterate"]
    if rule.iterate == "last" and rule.restarts == 1:
        return _Candidate(iterate, torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(epsilon))
    return _stronger(best, _judge(rule, iterate, predict(network, iterate), labels))
