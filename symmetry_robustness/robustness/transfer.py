"""Attacks crafted on other networks, the sources, and judged on the network that is evaluated, the target."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import Attack, AttackCall, as_attack
from symmetry_robustness.attacks.norms import per_image
from symmetry_robustness.attacks.threat import Threat
from symmetry_robustness.attacks.validation import device_of, predict
from symmetry_robustness.engine.continuous_batching import misclassified
from symmetry_robustness.errors import UserError
from symmetry_robustness.rng import RandomSource
from symmetry_robustness.settings import checked

# Largest difference of two networks' logits, relative to the largest, that another memory format explains.
_ROUNDING: Final = 1e-4


@final
@dataclass(frozen=True)
class Source:
    """A network on which adversarial images are crafted.

    Args:
        name: in reports; letters, digits and _.
        network: images in [0, 1] to logits, in evaluation mode.
        origin: provenance as plain values; of them `digest` also stands among the protocol's settings.
    """

    name: str
    network: nn.Module
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not f"from_{self.name}".isidentifier():
            raise UserError(f"source {self.name!r} cannot be a name; use letters, digits and _")


@final
@dataclass(frozen=True)
class TransferFrom(Attack):
    """An attack crafted on one source.

    Args:
        source: the network whose gradients are followed.
        attack: works on the source as if it were the target.
        white_box: whether the source is the target; `against` finds out.
    """

    source: Source
    attack: AttackCall
    white_box: bool = False

    @property
    def steps(self) -> int | None:  # type: ignore[override]
        """Those of the attack."""
        return as_attack(self.attack).steps

    @property
    def minimizes_norm(self) -> bool:  # type: ignore[override]
        """As the attack does, on the source."""
        return as_attack(self.attack).minimizes_norm

    @property
    def is_random(self) -> bool:  # type: ignore[override]
        """As the attack is."""
        return as_attack(self.attack).is_random

    @property
    def norms(self) -> Sequence[str] | None:  # type: ignore[override]
        """Those of the attack."""
        return as_attack(self.attack).norms

    @property
    def cost(self) -> float | None:  # type: ignore[override]
        """That of the attack, on the source."""
        return as_attack(self.attack).cost

    @property
    def uses_gradient(self) -> bool:  # type: ignore[override]
        """Whether gradients of the target itself are followed."""
        return self.white_box and as_attack(self.attack).uses_gradient

    @property
    def origins(self) -> Mapping[str, Mapping[str, Any]]:  # type: ignore[override]
        """Provenance of the source."""
        return {self.source.name: self.source.origin}

    def reach(self, epsilon: float) -> float | None:
        """That of the attack."""
        return as_attack(self.attack).reach(epsilon)

    def describe(self) -> dict[str, Any]:
        """The source by name and digest, and the attack's own settings."""
        named = {"name": self.source.name, "digest": self.source.origin.get("digest")}
        settings = {"source": named, "attack": as_attack(self.attack).describe(), "steps": self.steps}
        return {"class": "Transfer", **settings, "white_box": self.white_box}

    def against(self, network: nn.Module, images: Tensor) -> Attack:
        """The attack with its source where the target is, and with `white_box` decided.

        Raises:
            UserError: for a source of other classes, or one that cannot take the target's images.
        """
        source = _placed(self.source, device_of(network, images))
        return replace(self, source=source, white_box=_is_same(source, network, images))

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return what the attack returns on the source, such as images (B, C, H, W); errors are those of the attack."""
        crafted: Tensor = self.attack(self.source.network, images, labels, threat, generator=generator)
        return crafted


@final
@checked
@dataclass(frozen=True)
class Transfer(Attack):
    """Adversarial images crafted on each source and judged on the target, which gives away nothing but predictions.

    In a protocol it is one attack for each source, named NAME_from_SOURCE; called itself it returns for each image the
    first result that deceives the target. A source that is the target makes a white-box attack, and the report says so.
    Source: arXiv 1605.07277, sec. 2.

    Args:
        sources: with different names.
        attack: works on a source as if it were the target.
    """

    sources: Sequence[Source]
    attack: AttackCall

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise UserError("sources must hold a network, got none; give one Source(name, network) or more")
        if len(set(names)) < len(names):
            raise UserError(f"sources must have different names, got {', '.join(names)}; rename one")
        as_attack(self.attack)

    @property
    def parts(self) -> Mapping[str, Attack]:  # type: ignore[override]
        """The attack from each single source."""
        return {f"from_{source.name}": TransferFrom(source, self.attack) for source in self.sources}

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        generator: RandomSource | None = None,
    ) -> Tensor:
        """Return what the attack returns on sources, such as images (B, C, H, W); errors are those of the attack."""
        first, *others = self.parts.values()
        result = first(network, images, labels, threat, generator)
        for part in others:
            stands = ~misclassified(predict(network, threat.realize(result, images)), labels)
            crafted = part(network, images, labels, threat, generator)
            result = torch.where(per_image(stands, result), crafted, result)
        return result


def _placed(source: Source, device: torch.device) -> Source:
    """The source on a device, the given network being left where it is."""
    if device_of(source.network, torch.empty(0, device=device)) == device:
        return source
    moved = copy.deepcopy(source.network).to(device)
    return replace(source, network=moved)


def _is_same(source: Source, network: nn.Module, images: Tensor) -> bool:
    """Whether a source is the target: the same weights under the same names, and the same logits.

    Raises:
        UserError: for other classes, or images that the source cannot take.
    """
    first, second = source.network.state_dict(), network.state_dict()
    alike = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    if not len(images):
        return alike
    logits, own = _logits(source, images), predict(network, images)
    if logits.shape != own.shape:
        raise UserError(
            f"source {source.name} has {logits.shape[1]} classes, the target {own.shape[1]}; "
            "choose sources that were trained on the target's classes"
        )
    return alike and torch.allclose(logits, own, rtol=0, atol=_ROUNDING * max(1.0, float(own.abs().max())))


def _logits(source: Source, images: Tensor) -> Tensor:
    try:
        return predict(source.network, images)
    except UserError as error:
        raise UserError(f"source {source.name}: {error}") from error
