"""The threat model, and the contract of an attack: how it is called and which facts it states about itself."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, cast, final, runtime_checkable

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.losses import Loss
from symmetry_robustness.attacks.norms import NORMS, Norm, NormName, find_norm
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource

# Float32 rounding of images and of the sums in a norm stays well below this, relative to a ball of radius one.
TOLERANCE: Final = 1e-6


def parse_epsilon(value: float | str, name: str = "epsilon") -> float:
    """Read a length in pixel units, a number or a fraction such as "8/255".

    >>> parse_epsilon("51/255")
    0.2

    Raises:
        UserError: where `value` is not a positive, finite number.
    """
    numerator, slash, denominator = str(value).partition("/")
    try:
        number = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise UserError(f'{name} must be a number or a fraction, got {value!r}; write 0.03 or "8/255"') from None
    if not (math.isfinite(number) and number > 0):
        remedy = "for clean accuracy leave the attacks empty" if name == "epsilon" else "give a length above 0"
        raise UserError(f"{name} must be positive and finite, got {value}; {remedy}")
    return number


def check_bounds(bounds: Sequence[float]) -> tuple[float, float]:
    """Return bounds as a pair of floats.

    Raises:
        UserError: where they are not two increasing numbers.
    """
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        raise UserError(f"bounds must be two increasing numbers, got {list(bounds)}; images use [0.0, 1.0]")
    return float(bounds[0]), float(bounds[1])


@final
@dataclass(frozen=True)
class ThreatModel:
    """Perturbations within `epsilon` of an image that keep its pixels within `bounds`.

    Methods take a radius per image, (B,), in place of `epsilon` where a batch mixes several.

    Args:
        norm: "linf", "l2" or "l1".
        epsilon: radius in pixel units of images in [0, 1], a number or a fraction such as "8/255".
        bounds: smallest and largest pixel value.

    Examples:
        >>> threat = ThreatModel("linf", "51/255")
        >>> threat.epsilon
        0.2
        >>> threat.project(torch.tensor([[0.9, -0.3]]), torch.tensor([[0.5, 0.1]]))
        tensor([[0.7000, 0.0000]])
    """

    norm: NormName = "linf"
    epsilon: float = 8 / 255
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", parse_epsilon(self.epsilon))
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        find_norm(self.norm)

    @property
    def geometry(self) -> Norm:
        """Operations of the norm."""
        return NORMS[self.norm]

    def project(self, adversarial: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Move adversarial images (B, ...) into the ball around images, then into the bounds.

        With images inside the bounds the second move shortens every component, so the result lies in both sets.
        """
        perturbation = self.geometry.project(adversarial - images, self._radius(images, epsilon))
        return torch.clamp(images + perturbation, *self.bounds)

    def distance(self, adversarial: Tensor, images: Tensor) -> Tensor:
        """Norm of each perturbation, (B,), in float64, so that rounding does not look like leaving the ball."""
        return self.geometry.length(adversarial.double() - images.double())

    def excess(self, adversarial: Tensor, images: Tensor, epsilon: Tensor | None = None) -> Tensor:
        """Amount, (B,) float64, by which each adversarial image leaves the ball or the bounds; at most 0 inside both.

        Infinite where an adversarial image is not finite.
        """
        low, high = self.bounds
        outside = torch.maximum(low - adversarial, adversarial - high).flatten(1).amax(1).double()
        leaving = self.distance(adversarial, images) - self._radius(images, epsilon).double()
        return torch.maximum(leaving, outside).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)

    def _radius(self, images: Tensor, epsilon: Tensor | None) -> Tensor:
        return images.new_full((len(images),), self.epsilon) if epsilon is None else epsilon


# Tensors (B, ...) that an update rule remembers between passes, one row per image. "iterate" is the next pass's input.
Memory = dict[str, Tensor]


class Pass(NamedTuple):
    """One pass of iterates through the network, as an update rule sees it.

    `images` (B, C, H, W) are the centres of the balls, `epsilon` (B,) their radii, `labels` (B,) those of the loss,
    `step` (B,) the number of steps taken before, `logits` (B, K) and `gradient` (B, C, H, W) of the loss those at the
    iterates; the gradient is zero for a rule without gradients.
    """

    images: Tensor
    epsilon: Tensor
    labels: Tensor
    step: Tensor
    logits: Tensor
    gradient: Tensor


@runtime_checkable
class UpdateRule(Protocol):
    """An attack as the work between two passes of the network, so that the evaluator can own the loop.

    The evaluator mixes images, radii and steps in one batch and moves rows between its slots. So no row may depend on
    another one, on its position, or on anything but `Pass` and `Memory`; random steps take seeds from the memory.
    """

    @property
    def steps(self) -> int:
        """Number of steps."""
        ...

    @property
    def restarts(self) -> int:
        """Independent runs; of a targeted rule the number of target classes, most likely first."""
        ...

    @property
    def random_start(self) -> bool:
        """Whether `start` draws random numbers; a rule that does not starts at the image and gets no generators."""
        ...

    @property
    def targeted(self) -> bool:
        """Whether the labels of the loss are the classes to be reached."""
        ...

    @property
    def uses_gradient(self) -> bool:
        """Whether steps need the gradient of the loss."""
        ...

    @property
    def iterate(self) -> Literal["last", "best"]:
        """Which iterate the attack returns when it is called."""
        ...

    @property
    def loss(self) -> str | Loss:
        """Loss to ascend, by name or as a function."""
        ...

    def start(self, threat: ThreatModel, images: Tensor, epsilon: Tensor, source: RandomSource) -> Memory:
        """First iterates, inside the ball, and all else that the rule remembers."""
        ...

    def step(self, threat: ThreatModel, result: Pass, memory: Memory) -> Memory:
        """Next iterates, inside the ball, and all else that the rule remembers."""
        ...


@runtime_checkable
class Attack(Protocol):
    """An attack as the evaluator asks it; `as_attack` supplies the properties for a plain callable."""

    @property
    def steps(self) -> int | None:
        """Number of passes of one run; None where the attack decides itself, or does not say."""
        ...

    @property
    def minimizes_norm(self) -> bool:
        """Whether the attack seeks the smallest perturbation, so that one call serves every epsilon."""
        ...

    @property
    def is_random(self) -> bool:
        """Whether results depend on random numbers."""
        ...

    @property
    def update_rule(self) -> UpdateRule | None:
        """The rule by which the evaluator drives the attack itself; None for an attack that can only be called."""
        ...

    def reach(self, epsilon: float) -> float | None:
        """Length of all steps together; None where it is not known."""
        ...

    def describe(self) -> dict[str, Any]:
        """Class and settings as plain values, for the report."""
        ...

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return adversarial images (B, C, H, W) for images (B, C, H, W) and true labels (B,)."""
        ...


@final
@dataclass(frozen=True)
class _CalledAttack:
    """A callable with the properties of an attack: its own where it has them, defaults elsewhere."""

    call: Callable[..., Tensor]

    @property
    def steps(self) -> int | None:
        steps = getattr(self.call, "steps", None)
        return steps if isinstance(steps, int) else None

    @property
    def minimizes_norm(self) -> bool:
        return bool(getattr(self.call, "minimizes_norm", False))

    @property
    def is_random(self) -> bool:
        return bool(getattr(self.call, "is_random", True))

    @property
    def update_rule(self) -> UpdateRule | None:
        return cast(UpdateRule | None, getattr(self.call, "update_rule", None))

    def reach(self, epsilon: float) -> float | None:
        own = getattr(self.call, "reach", None)
        return own(epsilon) if callable(own) else None

    def describe(self) -> dict[str, Any]:
        own = getattr(self.call, "describe", None)
        return own() if callable(own) else describe_settings(self.call)

    def __call__(self, *args: Any, **settings: Any) -> Tensor:
        return self.call(*args, **settings)


def as_attack(attack: Callable[..., Tensor]) -> Attack:
    """Return a callable as an attack; properties that it does not state get defaults.

    The defaults: `steps` unknown, `minimizes_norm` false, `is_random` true, no `update_rule`, `reach` unknown, and the
    fields of a dataclass as description.
    """
    return attack if isinstance(attack, Attack) else _CalledAttack(attack)


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
