"""Attacks applied to a window of images, and what they return judged by the evaluator."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.gradient import PGD, Ball, GradientAttack, perturb
from symmetry_robustness.attacks.rng import example_generator
from symmetry_robustness.attacks.threat import NORMS, Attack
from symmetry_robustness.attacks.torchattacks import LibraryAttack
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.robustness.checks.derived import TOLERANCE
from symmetry_robustness.robustness.continuous_batching import Grid, distances, excess, misclassified, walk
from symmetry_robustness.robustness.protocol import EvaluationProtocol

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Progress(NamedTuple):
    """How far a stage has come, in images and fractions: "clean", an attack's name, "clever" or "measures.NAME"."""

    stage: str
    done: float
    total: int


Reporter = Callable[[Progress], None]


class Clean(NamedTuple):
    """The network at the clean images: logits (N, K) and the gradient of the cross-entropy (N, C, H, W)."""

    logits: Tensor
    gradient: Tensor


class Setting(NamedTuple):
    """What every attack on a window of N images needs; `correct` and `keep` are masks (N,).

    `limit` (N,) is the epsilon from which on each image need not be attacked, since it is broken there already.
    `compiled` is the network compiled for one shape, None where it is not.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    numbers: IntArray
    protocol: EvaluationProtocol
    clean: Clean
    correct: BoolArray
    keep: BoolArray
    notify: Reporter
    limit: FloatArray
    compiled: nn.Module | None = None


class Outcome(NamedTuple):
    """What one attack did to the N images of a window; (N,) each, `fooled` (N, E) only when judged by epsilon."""

    broken_at: FloatArray
    distance: FloatArray
    adversarial: dict[int, Tensor]
    violations: list[str]
    fooled: BoolArray | None = None
    gradients: int = 0
    nonfinite: int = 0


def apply_attack(setting: Setting, name: str, attack: Attack) -> Outcome:
    """Try an attack on a window of images, in the way that suits the attack and the protocol."""
    if setting.protocol.judge == "returned":
        return _by_epsilon(setting, name, attack)
    if isinstance(attack, GradientAttack):
        return _by_walk(setting, name, attack.rule)
    return _while_standing(setting, name, attack)


def given(setting: Setting) -> BoolArray:
    """Mask, (N,), of the images that an attack gets at some epsilon."""
    return np.asarray(setting.correct & (setting.limit > setting.protocol.grid[0]))


def follow(earlier: Outcome, own: Outcome) -> Outcome:
    """What an attack and all before it did together, at the attack's own cost."""
    newly = own.broken_at < earlier.broken_at
    return own._replace(
        broken_at=np.where(newly, own.broken_at, earlier.broken_at),
        distance=np.where(newly, own.distance, earlier.distance),
        adversarial=earlier.adversarial | {row: image for row, image in own.adversarial.items() if newly[row]},
    )


def _by_walk(setting: Setting, name: str, rule: PGD) -> Outcome:
    """A gradient attack on the correctly classified images, driven by continuous batching."""
    protocol, images = setting.protocol, setting.images
    standing = np.flatnonzero(given(setting))
    rows = torch.as_tensor(standing, device=images.device)
    lost = len(images) - len(standing)
    result = walk(
        setting.network if setting.compiled is None else setting.compiled,
        images[rows],
        setting.labels[rows],
        rule,
        Grid(NORMS[protocol.norm], protocol.grid, protocol.bounds),
        indices=setting.numbers[standing],
        logits=setting.clean.logits[rows],
        seed=protocol.seed,
        batch_size=protocol.batch_size,
        first_gradient=setting.clean.gradient[rows],
        tries=np.searchsorted(protocol.grid, setting.limit[standing]),
        keep=np.flatnonzero(setting.keep[standing]).tolist(),
        padded=setting.compiled is not None,
        progress=lambda done: setting.notify(Progress(name, lost + done, len(images))),
    )
    broken_at = np.where(setting.correct, np.inf, 0.0)
    distance = broken_at.copy()
    # A perturbation found at one epsilon may fit into the ball of a smaller one.
    grid = np.array([*protocol.grid, np.inf])
    reached = np.searchsorted(grid[:-1] * (1 + TOLERANCE), result.distance)
    broken_at[standing] = np.where(np.isfinite(result.distance), grid[np.minimum(result.broken, reached)], np.inf)
    distance[standing] = result.distance
    violations = []
    if result.excess > TOLERANCE * max(1.0, protocol.grid[-1]):
        violations.append(
            f"attack {name}: an iterate leaves its {protocol.norm} ball or the bounds by {result.excess:.3g}"
        )
    adversarial = {int(standing[row]): image for row, image in result.adversarial.items()}
    return Outcome(broken_at, distance, adversarial, violations, None, result.gradients, result.nonfinite)


class _Judged(NamedTuple):
    """What an attack returned, judged by the evaluator: rows (n,) that broke, with their distance and images."""

    fooled: BoolArray
    distance: FloatArray
    adversarial: Tensor
    violation: str | None


def _call(setting: Setting, name: str, attack: Attack, rows: IntArray, position: int) -> _Judged:
    """Call an attack on some rows at one epsilon and judge the result; what leaves the ball does not count."""
    protocol, epsilon = setting.protocol, setting.protocol.grid[position]
    index = torch.as_tensor(rows, device=setting.images.device)
    images, labels = setting.images[index], setting.labels[index]
    source = [example_generator(protocol.seed, int(number)) for number in setting.numbers[rows]]
    threat = protocol.threat(epsilon)
    if isinstance(attack, GradientAttack):  # mode and images are judged by soundness checks, not refused
        returned = perturb(setting.network, images, labels, threat, attack.rule, source)
    else:
        with float32(images.device), _unchanged(setting.network, name):
            # Copies: what an attack does to its arguments must not reach what it is judged by.
            returned = attack(setting.network, images.clone(), labels.clone(), threat, generator=source)
    if not isinstance(returned, Tensor) or returned.shape != images.shape:
        found = f"the shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else type(returned).__name__
        raise UserError(f"attack {name} returned {found} for images {tuple(images.shape)}; mend the attack")
    returned = returned.detach().to(images.device, images.dtype)
    with torch.no_grad(), float32(images.device):
        wrong = misclassified(setting.network(returned), labels).cpu().numpy()
    ball = Ball(NORMS[protocol.norm], images, torch.full_like(images[:, 0, 0, 0], epsilon), protocol.bounds)
    length = distances(ball.norm, returned, images)
    leaving = excess(ball, returned, length)
    outside = leaving > TOLERANCE * max(1.0, epsilon)
    violation = None
    if outside.any():
        violation = (
            f"attack {name}, {protocol.norm} epsilon {epsilon:.4g}: {int(outside.sum())} of {len(rows)} images leave "
            f"the ball or the bounds, by up to {leaving.max():.3g}"
        )
    counted = wrong if protocol.outside == "count" else wrong & ~outside
    return _Judged(counted, length, returned, violation)


@contextlib.contextmanager
def _unchanged(network: nn.Module, attack: str) -> Iterator[None]:
    """Put back the modes that an attack has changed, and refuse one that changes weights.

    Raises:
        UserError: where some have been written to.
    """
    modes = [(module, module.training) for module in network.modules()]
    weights = [(name, weight, weight._version) for name, weight in network.named_parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
    changed = [name for name, weight, version in weights if weight._version != version]
    if changed:
        raise UserError(
            f"attack {attack} changes the network ({changed[0]}); mend the attack, or let it copy the network"
        )


def _while_standing(setting: Setting, name: str, attack: Attack) -> Outcome:
    """Any attack, epsilon by epsilon, each on the images that no smaller epsilon broke."""
    protocol, grid = setting.protocol, np.array(setting.protocol.grid)
    broken_at = np.where(setting.correct, np.inf, 0.0)
    distance = broken_at.copy()
    adversarial: dict[int, Tensor] = {}
    violations: list[str] = []
    # An attack that looks for the smallest change gives the same answer at every epsilon: one call tells all.
    minimal = isinstance(attack, LibraryAttack) and attack.minimal
    for position in [len(grid) - 1] if minimal else range(len(grid)):
        wanted = setting.limit > grid[0 if minimal else position]
        standing = np.flatnonzero(np.isinf(broken_at) & wanted)
        for rows in np.array_split(standing, range(protocol.batch_size, len(standing), protocol.batch_size)):
            if not len(rows):
                continue
            judged = _call(setting, name, attack, rows, position)
            violations += [judged.violation] if judged.violation else []
            hit = rows[judged.fooled]
            distance[hit] = judged.distance[judged.fooled]
            # The perturbation found may be shorter than the epsilon it was looked for at.
            reached = np.searchsorted(grid * (1 + TOLERANCE), distance[hit])
            broken_at[hit] = grid[np.minimum(reached, position)]
            kept = [(int(row), image) for row, image in zip(rows, judged.adversarial, strict=True) if setting.keep[row]]
            adversarial |= {row: image for row, image in kept if np.isfinite(broken_at[row])}
            setting.notify(Progress(name, int(np.isfinite(broken_at).sum()), len(broken_at)))
    return Outcome(broken_at, distance, adversarial, violations)


def _by_epsilon(setting: Setting, name: str, attack: Attack) -> Outcome:
    """Any attack on all images at every epsilon on its own; only what it returns counts."""
    protocol, grid = setting.protocol, setting.protocol.grid
    count = len(setting.images)
    fooled = np.zeros((count, len(grid)), dtype=bool)
    broken_at = np.where(setting.correct, np.inf, 0.0)
    distance = broken_at.copy()
    adversarial: dict[int, Tensor] = {}
    violations: list[str] = []
    for position, epsilon in enumerate(grid):
        for start in range(0, count, protocol.batch_size):
            rows = np.arange(start, min(start + protocol.batch_size, count))
            judged = _call(setting, name, attack, rows, position)
            violations += [judged.violation] if judged.violation else []
            fooled[rows, position] = judged.fooled
            first = judged.fooled & np.isinf(broken_at[rows])
            broken_at[rows[first]] = epsilon
            distance[rows[first]] = judged.distance[first]
            adversarial |= {int(row): judged.adversarial[row - start] for row in rows[first] if setting.keep[row]}
        setting.notify(Progress(name, count * (position + 1) // len(grid), count))
    return Outcome(broken_at, distance, adversarial, violations, fooled)
