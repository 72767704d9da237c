"""Soundness checks that attack a few images once more, to see whether the protocol's attacks were strong enough."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.gradient import PGD, GradientAttack, perturb, training_layers
from symmetry_robustness.attacks.rng import example_generator
from symmetry_robustness.attacks.threat import NORMS, Attack, project
from symmetry_robustness.attacks.torchattacks import LibraryAttack
from symmetry_robustness.errors import one_line
from symmetry_robustness.precision import float32
from symmetry_robustness.results.checks import Check, Status
from symmetry_robustness.robustness.checks.bpda import Unmasked
from symmetry_robustness.robustness.continuous_batching import Grid, misclassified, walk
from symmetry_robustness.robustness.protocol import EvaluationProtocol

_LARGE: Final = 0.5  # with this linf epsilon every image can become grey
_LARGE_STEPS: Final = 20
_STEPS: Final = 10
_TRANSFER_STEPS: Final = 20
_NOISE_DRAWS: Final = 20
_QUERIES: Final = 100
_FEW: Final = 8  # of fewer images a share says too little for more than a warning
_SQUARE_SIDE: Final = 8  # the library's Square cannot tile smaller images


class Target(NamedTuple):
    """Images (n, C, H, W), correctly classified, one epsilon, and what is needed to attack them."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    protocol: EvaluationProtocol
    epsilon: float


def strongest_rule(attacks: Mapping[str, Attack]) -> PGD:
    """The protocol's gradient attack with most steps; 40 steps where it has none."""
    rules = [attack.rule for attack in attacks.values() if isinstance(attack, GradientAttack)]
    return max((rule for rule in rules if not rule.targeted), key=lambda rule: rule.steps, default=PGD())


def step_reaches_edge(attacks: Mapping[str, Attack], epsilon: float) -> Check:
    """Steps times step size is at least epsilon. Source: arXiv 1902.06705, sec. 5."""
    name, short = "step_reaches_edge", []
    for label, attack in attacks.items():
        reach = _reach(attack, epsilon)
        if reach is not None and reach < epsilon * (1 - 1e-6):
            short.append(f"{label} moves at most {reach:.3g}")
    if short:
        return Check(name, "failed", f"{', '.join(short)}; epsilon goes up to {epsilon:.3g}")
    return Check(name, "passed", f"every attack whose step is known can move by epsilon {epsilon:.3g}")


def enough_steps(attacks: Mapping[str, Attack]) -> Check:
    """The longest attack takes at least ten steps. Source: arXiv 1902.06705, sec. 5 (enough iterations to converge)."""
    known = [_steps(attack) for attack in attacks.values()]
    if None in known:
        return Check("enough_steps", "passed", "an attack that decides itself when to stop")
    most = max(count for count in known if count is not None)
    status: Status = "passed" if most >= _STEPS else "warned"
    return Check("enough_steps", status, f"the longest attack takes {most} steps, {_STEPS} are the least")


def _steps(attack: Attack) -> int | None:
    """Steps of an attack; None where it is not known."""
    if isinstance(attack, GradientAttack):
        return attack.rule.steps
    if isinstance(attack, LibraryAttack):
        return 1 if attack.name in ("FGSM", "FFGSM") else attack.setting("steps") or attack.setting("n_queries")
    return None


def _reach(attack: Attack, epsilon: float) -> float | None:
    """Longest way an attack can go; None where it is not known."""
    if isinstance(attack, GradientAttack):
        rule = attack.rule
        return rule.steps * float(rule.step_length(torch.tensor([epsilon])))
    if isinstance(attack, LibraryAttack):
        step, steps = attack.setting("alpha"), attack.setting("steps")
        return None if step is None or steps is None else float(step) * int(steps)
    return None


def zero_at_large_epsilon(target: Target) -> Check:
    """At a radius at which every image can become grey, hardly any is left. Source: arXiv 1902.06705, sec. 5."""
    dimension = target.images[0].numel() if len(target.images) else 1
    epsilon = _LARGE * (dimension**0.5 if target.protocol.norm == "l2" else 1)
    rule = PGD(steps=_LARGE_STEPS, loss=strongest_rule(target.protocol.attacks).loss)
    left = len(target.images) - _broken(target._replace(epsilon=epsilon), rule)
    share = left / max(len(target.images), 1)
    status: Status = "failed" if share > 0.25 else "warned" if share > 0.05 and left > 1 else "passed"
    detail = f"{left} of {len(target.images)} images withstand {_LARGE_STEPS} steps at {target.protocol.norm}"
    return Check("zero_at_large_epsilon", status, f"{detail} epsilon {epsilon:.3g}")


def longer_attack(target: Target) -> Check:
    """Twice the steps (at least 20) from a random start. Source: arXiv 1902.06705, sec. 5; arXiv 2106.09947, I4."""
    rule = strongest_rule(target.protocol.attacks)
    longer = PGD(steps=max(2 * rule.steps, 20), random_start=True, loss=rule.loss, momentum=rule.momentum)
    return _verdict("longer_attack", target, _broken(target, longer), f"{longer.steps} steps from a random start")


def other_loss(target: Target) -> Check:
    """The margin instead of the cross-entropy, which saturates (or the other way). Source: arXiv 2003.01690, sec. 3."""
    rule = strongest_rule(target.protocol.attacks)
    other = replace(rule, loss="margin" if rule.loss == "cross_entropy" else "cross_entropy")
    # On sound networks the losses disagree about some images close to their limit; a saturated one finds next to none.
    detail = f"{other.steps} steps on the {other.loss} loss"
    return _verdict("other_loss", target, _broken(target, other), detail, allowed=0.35)


def noise_attack(target: Target) -> Check:
    """Random corners of the ball (random points in l2). Source: arXiv 1902.06705, sec. 5."""
    standing = torch.ones(len(target.images), dtype=torch.bool, device=target.images.device)
    norm, epsilon = target.protocol.threat(target.epsilon).ball, torch.full_like(target.images[:, 0, 0, 0], 1)
    for number in range(_NOISE_DRAWS):
        noise = norm.steepest(norm.sample(target.images.shape, _source(target, number), target.images.device))
        moved = target.images + target.epsilon * noise
        moved = project(norm, moved, target.images, target.epsilon * epsilon, target.protocol.bounds)
        standing &= ~_wrong(target, moved)
    return _verdict("noise_attack", target, int((~standing).sum()), f"{_NOISE_DRAWS} draws of noise")


def transfer_attack(target: Target) -> Check:
    """Images crafted on a copy that hides no gradients. Source: arXiv 1902.06705, sec. 5; 1802.00420, sec. 4.1."""
    found, rule = 0, PGD(steps=_TRANSFER_STEPS)
    if len(target.images):
        surrogate, threat = Unmasked(target.network), target.protocol.threat(target.epsilon)
        moved = perturb(surrogate, target.images, target.labels, threat, rule)
        found = int(_wrong(target, moved).sum())
    return _verdict("transfer_attack", target, found, f"{rule.steps} steps on a copy that hides no gradients")


def gradient_free_attack(target: Target) -> Check | None:
    """Square, a search that needs no gradient. Source: arXiv 1912.00049; arXiv 1802.00420, sec. 3.1."""
    if not len(target.images):
        return _verdict("gradient_free_attack", target, 0, "Square")
    low, high = (float(value) for value in torch.aminmax(target.images))
    if low < 0 or high > 1 or target.protocol.bounds != (0.0, 1.0) or training_layers(target.network):
        return None  # which the library would refuse; checks of their own report it
    if find_spec("torchattacks") is None or min(target.images.shape[2:]) < _SQUARE_SIDE:
        return None
    square = LibraryAttack("Square", n_queries=_QUERIES)
    threat = target.protocol.threat(target.epsilon)
    moved = square(target.network, target.images, target.labels, threat, _source(target, 0))
    length = threat.ball.length(moved - target.images)
    found = int((_wrong(target, moved) & (length <= target.epsilon * (1 + 1e-4))).sum())
    return _verdict("gradient_free_attack", target, found, f"Square with {_QUERIES} queries")


def not_run(name: str, error: Exception) -> Check:
    """What stands for an attack that fails on a network, whose other results count all the same."""
    return Check(name, "warned", f"could not be run: {one_line(error)}")


def _verdict(name: str, target: Target, broken: int, attack: str, allowed: float = 0.15) -> Check:
    """Judge how many of the images that the protocol's attacks left standing another attack breaks."""
    total = len(target.images)
    share = broken / total if broken > 2 else 0.0
    surely = share > 2.5 * allowed and total >= _FEW
    status: Status = "failed" if surely else "warned" if share > allowed else "passed"
    return Check(name, status, f"{attack}: breaks {broken} of {total} images left at epsilon {target.epsilon:.4g}")


def _source(target: Target, number: int) -> torch.Generator:
    return example_generator(target.protocol.seed, 3, number)


def _wrong(target: Target, images: Tensor) -> Tensor:
    with torch.no_grad(), float32(images.device):
        return misclassified(target.network(images), target.labels)


def _broken(target: Target, rule: PGD) -> int:
    """How many images a gradient attack breaks; any iterate counts."""
    if not len(target.images):
        return 0
    indices: npt.NDArray[np.int64] = np.arange(len(target.images))
    result = walk(
        target.network,
        target.images,
        target.labels,
        rule,
        Grid(NORMS[target.protocol.norm], (target.epsilon,), target.protocol.bounds),
        indices=indices,
        logits=torch.zeros(0),
        seed=target.protocol.seed,
        batch_size=target.protocol.batch_size,
    )
    return int((result.broken == 0).sum())
