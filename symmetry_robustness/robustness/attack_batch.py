"""Attacks applied to a window of images, and their results judged by the evaluator."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import Attack, AttackCall, UpdateRule, as_attack, run_rule
from symmetry_robustness.attacks.threat import TOLERANCE
from symmetry_robustness.attacks.validation import forward, predict
from symmetry_robustness.engine.continuous_batching import CleanPass, ContinuousBatching, misclassified
from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.results.names import epsilon_name
from symmetry_robustness.rng import keyed_generator
from symmetry_robustness.robustness.protocol import EvaluationProtocol

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


_SEVERAL: Final = 4  # changes, of which one or two may be long by chance


class Progress(NamedTuple):
    """How far a stage has come, in images and fractions: "clean", an attack's name, or "measures.NAME"."""

    stage: str
    done: float
    total: int

    def within(self, before: float, total: int) -> "Progress":
        """The same stage of a larger set, of which so many images were done before."""
        return Progress(self.stage, before + self.done, total)


ProgressCallback = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Callback for a caller that does not ask for progress."""


class EvaluationBatch(NamedTuple):
    """A window of N images with all that an attack on them needs.

    `indices` (N,) are their numbers in the data set, `correct` and `keep` masks (N,), `known_epsilon` (N,) the epsilon
    from which on each image need not be attacked, since it is broken there already. `compiled` is the network compiled
    for one shape, None where it is not.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    indices: IntArray
    protocol: EvaluationProtocol
    clean: CleanPass
    correct: BoolArray
    keep: BoolArray
    notify: ProgressCallback
    known_epsilon: FloatArray
    compiled: nn.Module | None = None

    @property
    def attackable(self) -> BoolArray:
        """Mask, (N,), of the images that an attack gets at some epsilon."""
        return np.asarray(self.correct & (self.known_epsilon > self.protocol.grid[0]))


class AttackResult(NamedTuple):
    """Result of one attack on the N images of a window; (N,) each, `fooled` (N, E) only when judged by epsilon.

    `passes` through the network are known of attacks that the evaluator drives.
    """

    minimal_epsilon: FloatArray
    distance: FloatArray
    adversarial: dict[int, Tensor]
    violations: list[str]
    fooled: BoolArray | None = None
    gradients: int = 0
    nonfinite: int = 0
    passes: IntArray | None = None


def apply_attack(batch: EvaluationBatch, name: str, attack: AttackCall) -> AttackResult:
    """Try an attack on a window of images, in the way that suits its properties and the protocol."""
    stated = as_attack(attack)
    if batch.protocol.judge == "returned":
        return _at_every_epsilon(batch, name, stated)
    if stated.update_rule is not None:
        return _drive(batch, name, stated.update_rule)
    return _call_until_broken(batch, name, stated)


def cascade(earlier: AttackResult, own: AttackResult) -> AttackResult:
    """Joint result of an attack and all before it, at the attack's own cost."""
    newly = own.minimal_epsilon < earlier.minimal_epsilon
    return own._replace(
        minimal_epsilon=np.where(newly, own.minimal_epsilon, earlier.minimal_epsilon),
        distance=np.where(newly, own.distance, earlier.distance),
        adversarial=earlier.adversarial | {row: image for row, image in own.adversarial.items() if newly[row]},
    )


def _drive(batch: EvaluationBatch, name: str, rule: UpdateRule) -> AttackResult:
    """An update rule on the correctly classified images, driven by continuous batching."""
    protocol, images = batch.protocol, batch.images
    possible = batch.clean.logits.shape[1] >= rule.min_classes  # the check `enough_classes` says which are left out
    attacked = np.flatnonzero(batch.attackable & possible)
    rows = torch.as_tensor(attacked, device=images.device)
    finished = len(images) - len(attacked)
    network = batch.network if batch.compiled is None else batch.compiled
    threats = [protocol.ball(epsilon) for epsilon in protocol.grid]
    search = ContinuousBatching(
        network, rule, threats, protocol.seed, protocol.batch_size, fixed_batch=batch.compiled is not None
    )
    result = search.find_minimal_epsilon(
        images[rows],
        batch.labels[rows],
        indices=batch.indices[attacked],
        clean=batch.clean.take(rows),
        num_epsilons=np.searchsorted(protocol.grid, batch.known_epsilon[attacked]),
        keep=np.flatnonzero(batch.keep[attacked]).tolist(),
        progress=lambda done: batch.notify(Progress(name, finished + done, len(images))),
    )
    minimal_epsilon = np.where(batch.correct, np.inf, 0.0)
    distance = minimal_epsilon.copy()
    # A perturbation found at one epsilon may fit into the ball of a smaller one.
    grid = np.array([*protocol.grid, np.inf])
    reached = np.searchsorted(grid[:-1] * (1 + TOLERANCE), result.distance)
    found = np.isfinite(result.distance)
    minimal_epsilon[attacked] = np.where(found, grid[np.minimum(result.position, reached)], np.inf)
    distance[attacked] = result.distance
    violations = []
    if result.excess > TOLERANCE * max(1.0, protocol.grid[-1]):
        violations.append(
            f"attack {name}: an iterate leaves its {protocol.norm} ball or the bounds by {result.excess:.3g}"
        )
    adversarial = {int(attacked[row]): image for row, image in result.adversarial.items()}
    passes = np.zeros(len(images), dtype=np.int64)
    passes[attacked] = result.passes
    cost = result.gradients, result.nonfinite, passes
    return AttackResult(minimal_epsilon, distance, adversarial, violations, None, *cost)


class _Judged(NamedTuple):
    """Images (n, C, H, W) that an attack found, which of them count as broken (n,), and their distance (n,)."""

    fooled: BoolArray
    distance: FloatArray
    adversarial: Tensor
    violation: str | None


def _call(batch: EvaluationBatch, name: str, attack: Attack, rows: IntArray, epsilon: float) -> _Judged:
    """Call an attack on some rows at one epsilon and judge the result; images outside the ball do not count."""
    protocol = batch.protocol
    index = torch.as_tensor(rows, device=batch.images.device)
    images, labels = batch.images[index], batch.labels[index]
    source = [keyed_generator(protocol.seed, int(number)) for number in batch.indices[rows]]
    threat = protocol.threat(epsilon)
    if attack.update_rule is not None:  # mode and images are judged by soundness checks, not refused
        ball = protocol.ball(epsilon)
        returned = run_rule(batch.network, images, labels, ball, attack.update_rule, source)
    else:
        with torch.enable_grad(), float32(images.device), _unchanged(batch.network, name):
            # Copies: an attack that writes to its arguments must not reach the images it is judged by.
            network = _Forward(batch.network)
            returned = attack(network, images.clone(), labels.clone(), threat, generator=source)
    shape = threat.point_shape(images)
    if not isinstance(returned, Tensor) or tuple(returned.shape) != shape:
        found = f"the shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else type(returned).__name__
        wanted = "one image for each" if shape == tuple(images.shape) else f"points of the threat, {shape}"
        raise UserError(
            f"attack {name} returned {found} for images {tuple(images.shape)}; return {wanted}, as a tensor"
        )
    returned = returned.detach().to(images.device, images.dtype)
    changed = threat.realize(returned, images)
    wrong = misclassified(predict(batch.network, changed), labels).cpu().numpy()
    excess = threat.excess(returned, images).cpu().numpy()
    tolerance = TOLERANCE * max(1.0, epsilon)
    outside = excess > tolerance
    if attack.minimizes_norm:  # whose result may be longer than epsilon: no success, and no violation
        excess = threat.excess(returned, images, torch.full_like(images[:, 0, 0, 0], torch.inf)).cpu().numpy()
    violation, distance = None, threat.distance(returned, images).cpu().numpy()
    if (excess > tolerance).any():
        violation = (
            f"attack {name}, {protocol.norm} epsilon {epsilon_name(epsilon)}: {int((excess > tolerance).sum())} of "
            f"{len(rows)} images leave the ball or the bounds, by up to {excess.max():.3g}"
        )
    elif attack.minimizes_norm and threat.geometry is not None and wrong.sum() >= _SEVERAL:
        grey = threat.distance(torch.full_like(images, sum(protocol.bounds) / 2), images).cpu().numpy()
        if (distance > grey)[wrong].all():
            violation = (
                f"attack {name} is to find short changes, but each of the {wrong.sum()} that it found is longer than "
                f"turning the image grey (the shortest {distance[wrong].min():.3g})"
            )
    counted = wrong if protocol.outside == "count" else wrong & ~outside
    return _Judged(counted, distance, changed, violation)


class _Forward(nn.Module):
    """A network as an attack calls it: through `forward`, so that in-place layers and float64 weights work."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.training = network, getattr(network, "training", False)  # frozen scripts have none

    def forward(self, images: Tensor) -> Tensor:
        return forward(self.network, images)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.network, name)  # attacks on features look for layers


@contextlib.contextmanager
def _unchanged(network: nn.Module, attack: str) -> Iterator[None]:
    """Restore the modes and gradients that an attack has changed, and refuse one that changes weights.

    Raises:
        UserError: where weights have been written to.
    """
    modes = [(module, module.training) for module in network.modules() if hasattr(module, "training")]
    weights = [(name, weight, weight._version) for name, weight in network.named_parameters()]
    gradients = [(weight, weight.grad) for weight in network.parameters()]
    for weight, _ in gradients:
        weight.grad = None  # so that `backward` adds to no tensor of the caller
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, gradient in gradients:
            weight.grad = gradient
    changed = [name for name, weight, version in weights if weight._version != version]
    if changed:
        raise UserError(f"attack {attack} changes the network ({changed[0]}); let the attack work on a copy of it")


def _call_until_broken(batch: EvaluationBatch, name: str, attack: Attack) -> AttackResult:
    """An attack that can only be called, epsilon by epsilon, each on the images that no smaller epsilon broke."""
    protocol, grid = batch.protocol, np.array(batch.protocol.grid)
    minimal_epsilon = np.where(batch.correct, np.inf, 0.0)
    distance = minimal_epsilon.copy()
    adversarial: dict[int, Tensor] = {}
    violations: list[str] = []
    # An attack that seeks the smallest perturbation gives the same answer at every epsilon, so one call is enough.
    positions = [len(grid) - 1] if attack.minimizes_norm else range(len(grid))
    tried = np.zeros(len(minimal_epsilon))  # share of its epsilons at which an image was attacked
    for turn, position in enumerate(positions, 1):
        wanted = batch.attackable if attack.minimizes_norm else batch.known_epsilon > grid[position]
        left = np.flatnonzero(np.isinf(minimal_epsilon) & wanted)
        for rows in np.array_split(left, range(protocol.batch_size, len(left), protocol.batch_size)):
            if not len(rows):
                continue
            judged = _call(batch, name, attack, rows, float(grid[position]))
            violations += [judged.violation] if judged.violation else []
            broken = rows[judged.fooled]
            distance[broken] = judged.distance[judged.fooled]
            # The perturbation found may be shorter than the epsilon it was looked for at.
            reached = np.searchsorted(grid * (1 + TOLERANCE), distance[broken])
            minimal_epsilon[broken] = grid[np.minimum(reached, position)]
            found = zip(rows, judged.adversarial, judged.fooled, strict=True)
            adversarial |= {int(row): image for row, image, fooled in found if fooled and batch.keep[row]}
            tried[rows] = turn / len(positions)
            batch.notify(Progress(name, float(np.where(np.isfinite(minimal_epsilon), 1, tried).sum()), len(tried)))
    batch.notify(Progress(name, len(tried), len(tried)))
    return AttackResult(minimal_epsilon, distance, adversarial, violations)


def _at_every_epsilon(batch: EvaluationBatch, name: str, attack: Attack) -> AttackResult:
    """Any attack on all images at every epsilon on its own; only the images it returns count."""
    protocol, grid = batch.protocol, batch.protocol.grid
    count = len(batch.images)
    fooled = np.zeros((count, len(grid)), dtype=bool)
    minimal_epsilon = np.where(batch.correct, np.inf, 0.0)
    distance = minimal_epsilon.copy()
    adversarial: dict[int, Tensor] = {}
    violations: list[str] = []
    for position, epsilon in enumerate(grid):
        for start in range(0, count, protocol.batch_size):
            rows = np.arange(start, min(start + protocol.batch_size, count))
            judged = _call(batch, name, attack, rows, epsilon)
            violations += [judged.violation] if judged.violation else []
            fooled[rows, position] = judged.fooled
            first = judged.fooled & np.isinf(minimal_epsilon[rows])
            minimal_epsilon[rows[first]] = epsilon
            distance[rows[first]] = judged.distance[first]
            adversarial |= {int(row): judged.adversarial[row - start] for row in rows[first] if batch.keep[row]}
        batch.notify(Progress(name, count * (position + 1) // len(grid), count))
    return AttackResult(minimal_epsilon, distance, adversarial, violations, fooled)
