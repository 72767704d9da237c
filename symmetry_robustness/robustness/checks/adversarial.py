"""Soundness checks that attack a few images once more, to see whether the protocol's attacks were strong enough."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NamedTuple, cast

import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import AttackCall, UpdateRule, as_attack, run_rule
from symmetry_robustness.attacks.gradient import PGD, LossName
from symmetry_robustness.attacks.losses import LOSSES
from symmetry_robustness.attacks.square import Square
from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.engine.continuous_batching import ContinuousBatching, misclassified
from symmetry_robustness.errors import one_line
from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.names import epsilon_name
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.checks.bpda import BPDASurrogate
from symmetry_robustness.robustness.protocol import EvaluationProtocol

_LARGE: Final = 0.5  # with this linf epsilon every image can become grey
_LARGE_STEPS: Final = 20
_STEPS: Final = 10
_TRANSFER_STEPS: Final = 20
_NOISE_DRAWS: Final = 20
_QUERIES: Final = 100
_FEW: Final = 8  # of fewer images a fraction says too little for more than a warning


class Target(NamedTuple):
    """Images (n, C, H, W), correctly classified, one epsilon, and what is needed to attack them."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    protocol: EvaluationProtocol
    epsilon: float


def strongest_attack(attacks: Mapping[str, AttackCall]) -> PGD:
    """PGD with the steps and the loss of the protocol's gradient attack with most steps; 40 steps where it has none."""
    rules = [as_attack(attack).update_rule for attack in attacks.values()]
    own = [rule for rule in rules if rule is not None and rule.uses_gradient and not rule.targeted]
    own = [rule for rule in own if not rule.minimizes_norm]
    longest = max(own, key=lambda rule: rule.steps, default=PGD())
    return PGD(steps=longest.steps, loss=cast(LossName, longest.loss) if longest.loss in LOSSES else "cross_entropy")


def step_reaches_edge(attacks: Mapping[str, AttackCall], epsilon: float) -> Check:
    """Steps times step size is at least epsilon. Source: arXiv 1902.06705, sec. 5."""
    name, short = "step_reaches_edge", []
    for label, attack in attacks.items():
        reach = as_attack(attack).reach(epsilon)
        if reach is not None and reach < epsilon * (1 - 1e-6):
            short.append(f"{label} moves at most {reach:.3g}")
    if short:
        return Check(name, "failed", f"{', '.join(short)}; epsilon goes up to {epsilon:.3g}")
    return Check(name, "passed", f"every attack whose step is known can move by epsilon {epsilon:.3g}")


def enough_steps(attacks: Mapping[str, AttackCall]) -> Check:
    """The longest attack takes at least ten steps. Source: arXiv 1902.06705, sec. 5 (enough iterations to converge)."""
    known = [as_attack(attack).steps for attack in attacks.values()]
    if None in known:
        return Check("enough_steps", "passed", "an attack that decides itself when to stop")
    most = max(count for count in known if count is not None)
    evidence = f"the longest attack takes {most} steps, {_STEPS} are the least"
    return Check.judged("enough_steps", evidence, warned=most < _STEPS)


def zero_at_large_epsilon(target: Target) -> Check:
    """At a radius at which every image can become grey, hardly any is left. Source: arXiv 1902.06705, sec. 5."""
    protocol, grey = target.protocol, torch.full_like(target.images[:1], _LARGE)
    sparse = protocol.ball(target.epsilon).geometry.is_sparse  # too few pixels move in so few steps
    protocol = replace(protocol, norm="linf") if sparse else protocol
    epsilon = float(protocol.ball(target.epsilon).geometry.length(grey).sum()) or _LARGE
    rule = PGD(steps=_LARGE_STEPS, loss=strongest_attack(protocol.attacks).loss)
    left = len(target.images) - _broken(target._replace(protocol=protocol, epsilon=epsilon), rule)
    share = left / max(len(target.images), 1)
    detail = f"{left} of {len(target.images)} images withstand {_LARGE_STEPS} steps at {protocol.norm}"
    evidence, some = f"{detail} epsilon {epsilon:.3g}", share > 0.05 and left > 1
    return Check.judged("zero_at_large_epsilon", evidence, failed=share > 0.25, warned=some)


def longer_attack(target: Target) -> Check:
    """Twice the steps (at least 20) from a random start. Source: arXiv 1902.06705, sec. 5; arXiv 2106.09947, I4."""
    rule = strongest_attack(target.protocol.attacks)
    longer = PGD(steps=max(2 * rule.steps, 20), random_start=True, loss=rule.loss)
    return _verdict("longer_attack", target, _broken(target, longer), f"{longer.steps} steps from a random start")


def other_loss(target: Target) -> Check:
    """The margin instead of the cross-entropy, which saturates (or the other way). Source: arXiv 2003.01690, sec. 3."""
    rule = strongest_attack(target.protocol.attacks)
    other = replace(rule, loss="margin" if rule.loss == "cross_entropy" else "cross_entropy")
    # On sound networks the losses disagree about some images close to their limit; a saturated one finds next to none.
    detail = f"{other.steps} steps on the {other.loss} loss"
    return _verdict("other_loss", target, _broken(target, other), detail, allowed=0.35)


def noise_attack(target: Target) -> Check:
    """Random points far out in the threat, such as corners of the ball. Source: arXiv 1902.06705, sec. 5."""
    surviving = torch.ones(len(target.images), dtype=torch.bool, device=target.images.device)
    threat = target.protocol.threat(target.epsilon)
    for number in range(_NOISE_DRAWS):
        points = threat.far_points(target.images, _source(target, number))
        surviving &= ~_wrong(target, threat.realize(points, target.images))
    return _verdict("noise_attack", target, int((~surviving).sum()), f"{_NOISE_DRAWS} draws of noise")


def transfer_attack(target: Target) -> Check:
    """Images crafted on a copy that hides no gradients. Source: arXiv 1902.06705, sec. 5; 1802.00420, sec. 4.1."""
    found, rule = 0, PGD(steps=_TRANSFER_STEPS)
    if len(target.images):
        surrogate, threat = BPDASurrogate(target.network), target.protocol.ball(target.epsilon)
        moved = run_rule(surrogate, target.images, target.labels, threat, rule)
        found = int(_wrong(target, moved).sum())
    return _verdict("transfer_attack", target, found, f"{rule.steps} steps on a copy that hides no gradients")


def gradient_free_attack(target: Target) -> Check | None:
    """Square, a search that needs no gradient. Source: arXiv 1912.00049; arXiv 1802.00420, sec. 3.1."""
    if target.protocol.norm not in Square.norms:
        return None
    found = _broken(target, Square(steps=_QUERIES))
    return _verdict("gradient_free_attack", target, found, f"Square with {_QUERIES} queries")


def not_run(name: str, error: Exception) -> Check:
    """Check in place of an attack that fails on a network; the other results count all the same."""
    return Check(name, "warned", f"could not be run: {one_line(error)}")


def _verdict(name: str, target: Target, broken: int, attack: str, allowed: float = 0.15) -> Check:
    """Judge how many of the images that survived the protocol's attacks another attack breaks."""
    return verdict(name, broken, len(target.images), target.epsilon, attack, allowed)


def verdict(name: str, broken: int, total: int, epsilon: float, attack: str, allowed: float = 0.15) -> Check:
    """Judge how many of the images that some attacks left another attack breaks; a few borderline ones are allowed."""
    share = broken / total if broken > 2 else 0.0
    evidence = f"{attack}: breaks {broken} of {total} images left at epsilon {epsilon_name(epsilon)}"
    return Check.judged(name, evidence, failed=share > 2.5 * allowed and total >= _FEW, warned=share > allowed)


def _source(target: Target, number: int) -> torch.Generator:
    return keyed_generator(target.protocol.seed, 3, number)


def _wrong(target: Target, images: Tensor) -> Tensor:
    return misclassified(predict(target.network, images), target.labels)


def _broken(target: Target, rule: UpdateRule) -> int:
    """How many images an attack breaks; any iterate counts."""
    if not len(target.images):
        return 0
    protocol = target.protocol
    threats = [protocol.ball(target.epsilon)]
    search = ContinuousBatching(target.network, rule, threats, protocol.seed, protocol.batch_size)
    return int((search.find_minimal_epsilon(target.images, target.labels).position == 0).sum())
