"""The contract of an attack: properties that the evaluator asks, and update rules that it can drive itself."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.losses import LOSSES, Loss, classes_needed
from symmetry_robustness.attacks.norms import NORMS, per_image
from symmetry_robustness.attacks.threat import TOLERANCE, Threat, ThreatModel
from symmetry_robustness.attacks.validation import (
    check_classes,
    check_evaluation_mode,
    check_gradients_exist,
    check_images,
    check_labels,
    check_logits,
    check_norm,
    forward,
    predict,
)
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.rng import RandomSource, keyed_generator

# Arguments and result are those of `Attack.__call__`.
AttackCall = Callable[..., Tensor]


class Attack(ABC):
    """An attack as the evaluator asks it. A callable of one's own need not derive from it; see `as_attack`."""

    steps: int | None = None
    """Number of steps or queries of one run; None where the attack decides itself, or does not say."""
    minimizes_norm: bool = False
    """Whether the attack seeks the smallest perturbation, so that one call serves every epsilon."""
    is_random: bool = True
    """Whether results depend on random numbers."""
    norms: Sequence[str] | None = None
    """Names of the threats that it accepts; None for all norms of perturbations."""
    draws: int = 1
    """Passes that are averaged for each step, for a network that is random."""
    cost: float | None = None
    """Passes of the network for an image that withstands, a gradient counting as three; None where not known."""
    update_rule: "UpdateRule | None" = None
    """The rule by which the evaluator drives the attack itself; None for an attack that can only be called."""
    uses_gradient: bool = True
    """Whether it follows gradients of the attacked network; those that do not tell masked gradients from robustness."""
    parts: Mapping[str, "Attack"] = MappingProxyType({})
    """Attacks of which this one consists, each with a row of its own in the report; empty for a single one."""
    origins: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """Other networks from which images come, by name, with their provenance as plain values."""

    def against(self, network: nn.Module, images: Tensor) -> "Attack":
        """The attack as it is used against a network; evaluations ask once, with a few images, before they begin.

        Raises:
            UserError: where it cannot attack this network, or such images.
        """
        return self

    def reach(self, epsilon: float) -> float | None:
        """Length of all steps together; None where it is not known."""
        return None

    def describe(self) -> dict[str, Any]:
        """Class and settings as plain values, for the report."""
        return describe_settings(self)

    @abstractmethod
    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: Any,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return points of the threat, one of its `norms`, for images (B, C, H, W) and true labels (B,).

        Where the threat allows perturbations of pixels, points are the adversarial images (B, C, H, W).
        """


class CheckedAttack(Attack):
    """An attack that refuses what it cannot work with, and does its work in `craft`."""

    @abstractmethod
    def craft(self, network: nn.Module, images: Tensor, labels: Tensor, threat: Any, source: RandomSource) -> Tensor:
        """Return points of the threat for checked arguments of a call."""

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: Any,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return points of the threat; adversarial images (B, C, H, W) where it allows perturbations of pixels.

        Args:
            network: images in [0, 1] to logits, in evaluation mode; neither its mode nor its gradients are touched.
            images: float32 (B, C, H, W) in [0, 1].
            labels: (B,) int64, true classes; for a targeted attack the classes to be reached.
            threat: one of those that the attack accepts, such as a `ThreatModel` of norm, epsilon and bounds.
            generator: of all that is drawn; one, or one per image; without it a fixed seed is used.

        Raises:
            UserError: for unsuitable images, labels, logits that are not finite, a threat of another kind, generators
                that are none, or a call inside inference mode.
        """
        if not isinstance(threat, Threat):
            raise UserError(f"threat must be a threat, got {threat!r:.60}; write ThreatModel('linf', '8/255')")
        check_norm(type(self).__name__, threat.norm, accepted_norms(self))
        images = check_images(images, threat.bounds).detach()
        labels = check_labels(labels, images)
        check_evaluation_mode(network)
        source = keyed_generator(0) if generator is None else generator
        each = source if isinstance(source, Sequence) and len(source) == len(images) else [source]
        if not all(isinstance(one, torch.Generator) for one in each):
            remedy = "write torch.Generator().manual_seed(0)"
            raise UserError(f"generator must be a torch.Generator, or one per image, got {generator!r:.60}; {remedy}")
        return self.craft(network, images, labels, threat, source)


@final
class _CalledAttack(Attack):
    """A callable with the properties of an attack."""

    def __init__(self, call: AttackCall) -> None:
        self.call = call
        for name in Attack.__annotations__:
            setattr(self, name, getattr(call, name, getattr(Attack, name)))

    def reach(self, epsilon: float) -> float | None:
        own = getattr(self.call, "reach", None)
        return own(epsilon) if callable(own) else None

    def describe(self) -> dict[str, Any]:
        own = getattr(self.call, "describe", None)
        return own() if callable(own) else describe_settings(self.call)

    def __call__(self, *args: Any, **settings: Any) -> Tensor:
        return self.call(*args, **settings)


def as_attack(attack: AttackCall) -> Attack:
    """Return a callable as an attack: its own properties where it has them, the defaults of `Attack` elsewhere.

    Examples:
        >>> as_attack(lambda network, images, labels, threat, generator: images).steps is None
        True

    Raises:
        UserError: where the callable does not take the arguments of an attack.
    """
    if isinstance(attack, Attack):
        return attack
    try:
        call = attack.forward if isinstance(attack, nn.Module) else attack  # a module itself takes anything
        inspect.signature(call).bind(None, None, None, None, generator=None)
    except TypeError as error:
        raise UserError(
            f"attack {attack!r} must take (network, images, labels, threat, generator=None): {error}"
        ) from None
    except ValueError:  # a callable whose signature Python does not know
        pass
    return _CalledAttack(attack)


# Tensors (B, ...) that an update rule remembers between passes, one row per image. "iterate" is the next pass's input.
Memory = dict[str, Tensor]


class Pass(NamedTuple):
    """One pass of iterates through the network, as an update rule sees it.

    `images` (B, C, H, W) are the centres of the balls, `epsilon` (B,) their radii, `labels` (B,) the true classes,
    `targets` (B,) the classes to be reached (the true ones for a rule that has none), `step` (B,) the number of steps
    taken before, `logits` (B, K) and `gradient` those that `UpdateRule.evaluate` gives at the iterates; the gradient is
    zero where a step needs none.
    """

    images: Tensor
    epsilon: Tensor
    labels: Tensor
    targets: Tensor
    step: Tensor
    logits: Tensor
    gradient: Tensor


class UpdateRule(CheckedAttack):
    """An attack as the work between two passes of the network, so that the evaluator can own the loop.

    The evaluator mixes images, radii and steps in one batch and moves rows between its slots. So no row may depend on
    another one, on its position, or on anything but `Pass` and `Memory`; random steps take seeds from the memory.
    """

    steps: int
    restarts: int = 1
    """Independent runs; of a targeted rule the number of target classes at most, most likely first."""
    random_start: bool = False
    """Whether `start` draws random numbers; a rule that does not starts at the image and gets no generators."""
    targeted: bool = False
    """Whether the loss has classes to be reached; a call gets them in place of the true labels."""
    gradient_every: int = 1
    """Steps from one gradient to the next; those between see logits only."""
    looks_ahead: bool = False
    """Whether `keeps` and `next_iterate` tell the steps to come, so that several of them can share a pass."""
    iterate: Literal["last", "best"] = "last"
    """Which iterate a call returns; the evaluator counts all of them."""
    loss: str | Loss = "cross_entropy"
    """Loss to ascend, by name or as a function."""

    @property
    def passes_per_step(self) -> int:
        """Passes of the network in one evaluation; of several, the logits and the gradient are not those of one."""
        return self.draws

    @property
    def min_classes(self) -> int:
        """Number of classes from which on the attack is defined."""
        return classes_needed(self.loss, targeted=self.targeted)

    @abstractmethod
    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """First iterates, inside the ball, and all else that the rule remembers."""

    @abstractmethod
    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """Next iterates, inside the ball, and all else that the rule remembers."""

    def keeps(self, logits: Tensor, labels: Tensor, memory: Memory) -> Tensor:
        """Whether the rule goes on from each iterate, (B,), instead of the points that it remembers."""
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def next_iterate(
        self, threat: ThreatModel, images: Tensor, epsilon: Tensor, step: Tensor, memory: Memory
    ) -> Tensor:
        """The iterates (B, C, H, W) that follow those of some steps (B,), if these are not kept."""
        raise NotImplementedError(f"{type(self).__name__} does not look ahead")

    def evaluate(
        self, network: nn.Module, iterate: Tensor, labels: Tensor, targets: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and gradient (B, C, H, W) of the loss, multiplied by `scale`, at iterates: means over draws."""
        aims = targets if self.targeted else None
        found = [loss_gradient(network, iterate, labels, self.loss, aims, scale=scale) for _ in range(self.draws)]
        return found[0] if self.draws == 1 else (_mean([pair[0] for pair in found]), _mean([pair[1] for pair in found]))

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        """Whether `start` draws random numbers."""
        return self.random_start

    @property
    def cost(self) -> float:  # type: ignore[override]
        """All steps of all runs."""
        gradients = self.steps / self.gradient_every if self.uses_gradient else 0
        return self.restarts * self.passes_per_step * (self.steps + 2 * gradients)

    @property
    def update_rule(self) -> "UpdateRule":  # type: ignore[override]
        """The attack itself."""
        return self

    def craft(
        self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, source: RandomSource
    ) -> Tensor:
        """Run the rule by itself, image by image the strongest result of all runs."""
        if not self.targeted:
            return run_rule(network, images, labels, threat, self, source)
        runs = self.restarts if self.random_start else 1
        leaving = class_to_leave(network, images, labels)
        return run_rule(network, images, leaving, threat, self, source, labels[:, None].expand(-1, runs))


def accepted_norms(attack: Attack) -> Sequence[str]:
    """Names of the threats that an attack accepts."""
    return tuple(NORMS) if attack.norms is None else attack.norms


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean(0)


def likely_targets(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The most likely classes other than the label, (B, T), most likely first; at most `count` and all there are."""
    return logits.scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)[:, :-1][:, :count]


def class_to_leave(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The class predicted, (B,); the next likely one where that is already the one to be reached."""
    if not len(images):
        return targets
    logits = predict(network, images)
    check_classes(targets, logits.shape[1])
    return likely_targets(logits, targets, 1)[:, 0]


def attack_loss(loss: str | Loss, logits: Tensor, labels: Tensor, targets: Tensor | None = None) -> Tensor:
    """Loss to ascend, (B,), of logits (B, K); `targets` (B,) are the classes to be reached, None for any other."""
    return (LOSSES[loss] if isinstance(loss, str) else loss)(logits, labels, targets)


def loss_gradient(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: str | Loss = "cross_entropy",
    targets: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and the gradient (B, ...) of the loss, summed over images and multiplied by `scale`.

    Runs in float32 with gradients on, whatever the caller's context. Parameters get no gradients. A network that cuts
    the graph gives a zero gradient, which a soundness check reports.

    Raises:
        UserError: for a network without logits (B, K), labels without a logit, or a call inside inference mode.
    """
    check_gradients_exist("attack")
    with torch.enable_grad(), float32(images.device):
        variable = images.detach().requires_grad_()
        logits = forward(network, variable)
        try:
            losses = attack_loss(loss, logits, labels, targets)
        except (IndexError, RuntimeError):  # asked only now, since each question to a device is waited for
            check_classes(labels, logits.shape[1])
            raise
        gradient = None
        if losses.requires_grad:
            try:
                (gradient,) = torch.autograd.grad(losses.sum() * scale, variable, allow_unused=True)
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                remedy = "set use_reentrant=False in its torch.utils.checkpoint"
                raise UserError(f"network recomputes activations, which gives images no gradient; {remedy}") from error
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


def _judge(
    rule: UpdateRule, threat: ThreatModel, centres: Tensor, images: Tensor, logits: Tensor, labels: Tensor, aims: Tensor
) -> _Candidate:
    prediction = logits.argmax(1)
    success = prediction == aims if rule.targeted else prediction != labels
    if rule.minimizes_norm:
        return _Candidate(images, success, -threat.distance(images, centres))
    return _Candidate(images, success, attack_loss(rule.loss, logits, labels, aims if rule.targeted else None))


def run_rule(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    rule: UpdateRule,
    generator: RandomSource | None = None,
    targets: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The strongest result (B, C, H, W) of all runs, for a caller that has checked network, images and labels.

    Args:
        network: images to logits.
        images: (B, C, H, W).
        labels: (B,) true classes, or those predicted.
        threat: norm, epsilon and bounds.
        rule: the attack.
        generator: for random starts.
        targets: (B, R) classes to be reached in each of R runs; for a targeted rule the most likely ones without it.
        scale: multiplies the loss, which is summed over images; None for its mean.
    """
    images = images.detach()
    if images.is_inference() and not torch.is_inference_mode_enabled():
        images = images.clone()
    source = keyed_generator(0) if generator is None else generator
    if targets is None and rule.targeted and len(images):
        targets = likely_targets(predict(network, images), labels, rule.restarts)
    runs = [labels] * (rule.restarts if rule.random_start else 1) if targets is None else list(targets.unbind(1))
    if scale is None:  # the mean, as in the usual implementations, so that results agree with theirs to the last bit
        scale = 1 / max(len(labels), 1)
    best: _Candidate | None = None
    for aims in runs:
        best = _stronger(best, _run_once(network, images, labels, aims, threat, rule, source, scale))
    assert best is not None  # restarts >= 1
    if rule.minimizes_norm:
        inside = best.success & (-best.loss <= threat.epsilon * (1 + TOLERANCE))
        return torch.where(per_image(inside, images), best.images, images)
    return best.images


def _run_once(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    aims: Tensor,
    threat: ThreatModel,
    rule: UpdateRule,
    source: RandomSource,
    scale: float,
) -> _Candidate:
    """One run of all steps; the strongest iterate, or the last."""
    epsilon = images.new_full((len(images),), threat.epsilon)
    memory = rule.start(threat, images, epsilon, source)
    best: _Candidate | None = None
    for step in range(rule.steps):
        iterate = memory["iterate"]
        if rule.uses_gradient and step % rule.gradient_every == 0:
            logits, gradient = rule.evaluate(network, iterate, labels, aims, scale)
        else:
            logits, gradient = predict(network, iterate), torch.zeros_like(iterate)
        if step == 0:
            check_classes(labels, logits.shape[1])
            check_logits(logits)
        if rule.iterate == "best":
            best = _stronger(best, _judge(rule, threat, images, iterate, logits, labels, aims))
        result = Pass(images, epsilon, labels, aims, torch.full_like(labels, step), logits, gradient)
        memory = rule.step(threat, result, memory)
    iterate = memory["iterate"]
    if rule.iterate == "last" and rule.restarts == 1:
        return _Candidate(iterate, torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(epsilon))
    return _stronger(best, _judge(rule, threat, images, iterate, predict(network, iterate), labels, aims))


def describe_settings(settings: object) -> dict[str, Any]:
    """Class name and fields of a dataclass as plain values for a JSON file."""
    values = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else {}
    return {"class": type(settings).__name__, **{name: plain(value) for name, value in values.items()}}


def plain(value: object) -> object:
    """A value as JSON has it; other objects as their text."""
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if isinstance(value, bool | int | float | str | None) else repr(value)
