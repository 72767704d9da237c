"""Continuous batching: every image climbs the grid of epsilons until it breaks, and its slot is refilled at once.

The unit of work is an *item*: one run of the attack on one image at one epsilon (and one restart). The items of an
image are numbered, all restarts of the smallest epsilon first, and the answer is the first item that succeeds. Items
are independent of each other (each starts at the image, or at a random point drawn for this image and restart), so the
answer depends neither on the batch nor on the order of work, and at every epsilon an image survives only if the plain
attack at that epsilon, and at every smaller one, leaves it standing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.gradient import PGD, Ball, loss_gradient, start_noise, started, take_step
from symmetry_robustness.attacks.rng import example_generator
from symmetry_robustness.attacks.threat import Norm
from symmetry_robustness.precision import float32

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Below this many busy slots a pass costs much the same however many there are (a GPU idles, a CPU rearranges weights),
# so later epsilons of the same images are tried ahead of time.
_AHEAD: Final = {"cpu": 16, "cuda": 256}


@dataclass(frozen=True)
class Grid:
    """The radii to be tried: norm, increasing epsilons, pixel bounds."""

    norm: Norm
    epsilons: tuple[float, ...]
    bounds: tuple[float, float]


@dataclass(frozen=True)
class WalkResult:
    """Per image, (N,), what a walk found.

    `broken` is the index of the smallest epsilon at which the image broke (number of epsilons if never), `distance` the
    norm of the change that broke it (inf if none). `excess` is the largest amount by which a successful iterate left
    its ball or the bounds; `gradients` counts images whose gradient was taken, `nonfinite` those
    among them whose gradient was not finite.
    """

    broken: IntArray
    distance: FloatArray
    adversarial: dict[int, Tensor]
    excess: float
    gradients: int
    nonfinite: int


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each prediction, (B,), is wrong; logits that are not finite predict nothing."""
    return (logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)


def distances(norm: Norm, adversarial: Tensor, images: Tensor) -> FloatArray:
    """Norm of each perturbation, (B,), computed in float64 so that rounding does not look like leaving the ball."""
    result: FloatArray = norm.length(adversarial.double() - images.double()).cpu().numpy()
    return result


def excess(ball: Ball, adversarial: Tensor, distance: FloatArray) -> FloatArray:
    """By how much each adversarial image, (B,), leaves its ball or the bounds; not positive where it does not."""
    low, high = ball.bounds
    outside = torch.maximum(low - adversarial, adversarial - high).flatten(1).amax(1).double().cpu().numpy()
    radius = ball.epsilon.double().cpu().numpy()
    result: FloatArray = np.maximum(distance - radius, outside)
    return np.where(np.isfinite(result), result, np.inf)


class _Queue:
    """Which item comes next; host-side bookkeeping of all images."""

    def __init__(self, items: IntArray) -> None:
        images = len(items)
        self.limit = items.astype(np.int64)  # first successful item so far, at the start one after the last
        self.cursor = np.zeros(images, dtype=np.int64)  # next item to be started
        self.active = np.zeros(images, dtype=np.int64)  # items being worked on
        self.ready = deque(np.flatnonzero(self.limit).tolist())

    def take(self, count: int, ahead: int) -> list[tuple[int, int]]:
        """Up to `count` (image, item) pairs, of which at most `ahead` before their turn."""
        taken: list[tuple[int, int]] = []
        while self.ready and len(taken) < count:
            taken.append(self._start(self.ready.popleft()))
        ahead = min(ahead, count) - len(taken)
        while ahead > 0:
            waiting = np.flatnonzero((self.active > 0) & (self.cursor < self.limit))
            if not len(waiting):
                break
            for row in waiting[np.argsort(self.cursor[waiting], kind="stable")][:ahead]:
                taken.append(self._start(int(row)))
                ahead -= 1
        return taken

    def _start(self, row: int) -> tuple[int, int]:
        item = int(self.cursor[row])
        self.cursor[row] += 1
        self.active[row] += 1
        return row, item

    def release(self, rows: IntArray) -> None:
        """Items of these images ended; images with nothing under way and items left are ready again."""
        np.subtract.at(self.active, rows, 1)
        for row in np.unique(rows):
            if not self.active[row] and self.cursor[row] < self.limit[row]:
                self.ready.appendleft(int(row))


class _Slots:
    """The batch: device tensors of a fixed capacity, of which the first `count` rows are in use."""

    def __init__(self, images: Tensor, capacity: int, rule: PGD) -> None:
        shape, device = (capacity, *images.shape[1:]), images.device
        self.images = torch.empty(shape, device=device).to(memory_format=torch.channels_last)
        self.iterate = torch.zeros_like(self.images)  # idle slots pass through the network where passes are padded
        self.velocity = torch.zeros_like(self.images) if rule.momentum else None
        self.epsilon = torch.ones(capacity, device=device)
        self.labels = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.goals = torch.zeros(capacity, dtype=torch.int64, device=device)  # what the loss is about
        self.row: IntArray = np.zeros(capacity, dtype=np.int64)
        self.item: IntArray = np.zeros(capacity, dtype=np.int64)
        self.step: IntArray = np.zeros(capacity, dtype=np.int64)
        self.count = 0

    def tensors(self) -> list[Tensor]:
        fields = [self.images, self.iterate, self.epsilon, self.labels, self.goals]
        return fields if self.velocity is None else [*fields, self.velocity]

    def close(self, holes: IntArray) -> None:
        """Free these slots: the last busy ones move into the holes, so that busy slots stay in front."""
        remaining = self.count - len(holes)
        kept = np.setdiff1d(np.arange(remaining, self.count), holes, assume_unique=True)
        targets = np.sort(holes)[: len(kept)]
        for array in (self.row, self.item, self.step):
            array[targets] = array[kept]
        if len(kept):
            to, source = (torch.as_tensor(index, device=self.labels.device) for index in (targets, kept))
            for tensor in self.tensors():
                tensor[to] = tensor[source]
        self.count = remaining


@dataclass(frozen=True)
class _Task:
    """What stays the same during a walk; `first` holds the loss gradients at the images, if they can be shared."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    goals: Tensor | None
    indices: IntArray
    rule: PGD
    grid: Grid
    seed: int
    first: Tensor | None


def walk(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    rule: PGD,
    grid: Grid,
    *,
    indices: IntArray,
    logits: Tensor,
    seed: int = 0,
    batch_size: int = 128,
    first_gradient: Tensor | None = None,
    tries: IntArray | None = None,
    keep: Sequence[int] = (),
    padded: bool = False,
    progress: Callable[[int], None] | None = None,
) -> WalkResult:
    """Find the smallest epsilon of the grid at which each image breaks; any iterate may do it.

    Args:
        network: images to logits, in evaluation mode.
        images: float32 (N, C, H, W), correctly classified.
        labels: (N,) true classes.
        rule: the attack's settings.
        grid: norm, epsilons, bounds.
        indices: (N,) numbers of the images in the data set; with the seed they decide random starts.
        logits: (N, K) at the images; they decide the target classes of a targeted attack.
        seed: of the random starts.
        batch_size: number of slots.
        first_gradient: gradient (N, C, H, W) of the cross-entropy at the images, if known.
        tries: (N,) at how many epsilons, the smallest first, each image is attacked; without it at all.
        keep: rows whose adversarial image is wanted.
        padded: let every pass have `batch_size` rows, of which some may be idle, for a network compiled for one shape.
        progress: called with the number of finished images.
    """
    goals = _targets(logits, labels, rule.restarts) if rule.targeted else None
    shared = not (rule.random_start or rule.targeted)
    gradients = 0
    if not shared or rule.loss != "cross_entropy":
        first_gradient = None
    if shared and first_gradient is None:
        first_gradient = _first_gradient(network, images, labels, rule, batch_size)
        gradients = len(images)
    task = _Task(network, images, labels, goals, indices, rule, grid, seed, first_gradient)
    if tries is None:
        tries = np.full(len(images), len(grid.epsilons))
    walker = _Walker(task, batch_size, tries * rule.restarts, keep, padded)
    while walker.advance():
        if progress is not None:
            progress(walker.finished())
    return WalkResult(
        broken=walker.queue.limit // rule.restarts,
        distance=walker.distance,
        adversarial=walker.adversarial,
        excess=walker.excess,
        gradients=gradients + walker.gradients,
        nonfinite=int(walker.nonfinite),
    )


class _Walker:
    """The loop's state: queue, slots and what was found."""

    def __init__(self, task: _Task, batch_size: int, items: IntArray, keep: Sequence[int], padded: bool) -> None:
        self.task = task
        self.ahead = _AHEAD.get(task.images.device.type, 0)
        self.padded = padded
        self.queue = _Queue(items)
        capacity = batch_size if padded else max(1, min(batch_size, int(items.sum())))
        self.slots = _Slots(task.images, capacity, task.rule)
        self.distance: FloatArray = np.full(len(task.images), np.inf)
        self.adversarial: dict[int, Tensor] = {}
        self.keep = frozenset(keep)
        self.excess = 0.0
        self.gradients = 0
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=task.images.device)

    def finished(self) -> int:
        """Images with nothing left to do."""
        return int(((self.queue.active == 0) & (self.queue.cursor >= self.queue.limit)).sum())

    def advance(self) -> bool:
        """Fill the slots, take one pass through the network, judge and step; False when nothing is left."""
        slots = self.slots
        self._fill()
        if not slots.count:
            return False
        busy = slice(slots.count)
        wrong, gradient = self._evaluate(busy)
        over = wrong | (slots.step[busy] >= self.task.rule.steps)
        self._record(np.flatnonzero(wrong))
        over |= slots.item[busy] > self.queue.limit[slots.row[busy]]
        if gradient is not None and not over.all():
            velocity = None if slots.velocity is None else slots.velocity[busy]
            iterate, velocity = take_step(self.task.rule, self._ball(busy), slots.iterate[busy], gradient, velocity)
            slots.iterate[busy] = iterate
            if slots.velocity is not None and velocity is not None:
                slots.velocity[busy] = velocity
        slots.step[busy] += 1
        if over.any():
            holes = np.flatnonzero(over)
            rows = slots.row[holes]
            slots.close(holes)
            self.queue.release(rows)
        return True

    def _ball(self, rows: slice | Tensor) -> Ball:
        grid, slots = self.task.grid, self.slots
        return Ball(grid.norm, slots.images[rows], slots.epsilon[rows], grid.bounds)

    def _evaluate(self, busy: slice) -> tuple[BoolArray, Tensor | None]:
        """Pass the iterates through the network; gradients only if some slot still has a step to take."""
        slots, task = self.slots, self.task
        gradient: Tensor | None = None
        rows = slice(None) if self.padded else busy
        if (slots.step[busy] < task.rule.steps).any():
            logits, gradient = loss_gradient(task.network, slots.iterate[rows], slots.goals[rows], task.rule)
            gradient = gradient[busy]
            self.gradients += slots.count
            self.nonfinite += (~torch.isfinite(gradient.flatten(1).sum(1))).sum()  # stays on the device
        else:
            with torch.no_grad(), float32(slots.iterate.device):
                logits = task.network(slots.iterate[rows])
        return misclassified(logits[busy], slots.labels[busy]).cpu().numpy(), gradient

    def _record(self, hits: IntArray) -> None:
        """Note successes, each unless an earlier item of the same image has succeeded."""
        slots = self.slots
        hits = hits[slots.item[hits] < self.queue.limit[slots.row[hits]]]
        if not len(hits):
            return
        # Later items first, so that the earliest of an image is written last.
        hits = hits[np.argsort(-slots.item[hits], kind="stable")]
        chosen = torch.as_tensor(hits, device=slots.labels.device)
        ball = self._ball(chosen)
        distance = distances(ball.norm, slots.iterate[chosen], ball.images)
        leaving = excess(ball, slots.iterate[chosen], distance)
        self.excess = max(self.excess, float(leaving.max()))
        for slot, length in zip(hits, distance, strict=True):
            row = int(slots.row[slot])
            self.queue.limit[row] = slots.item[slot]
            self.distance[row] = length
            if row in self.keep:
                self.adversarial[row] = slots.iterate[slot].detach().clone(memory_format=torch.contiguous_format)

    def _fill(self) -> None:
        slots, task = self.slots, self.task
        free = len(slots.row) - slots.count
        if not free:
            return
        taken = self.queue.take(free, self.ahead - slots.count)
        if not taken:
            return
        new = slice(slots.count, slots.count + len(taken))
        slots.row[new], slots.item[new] = np.array(taken).T
        slots.count = new.stop
        rows = torch.as_tensor(slots.row[new], device=task.images.device)
        epsilons = np.array(task.grid.epsilons, dtype=np.float32)[slots.item[new] // task.rule.restarts]
        slots.images[new] = task.images[rows]
        slots.labels[new] = task.labels[rows]
        slots.epsilon[new] = torch.as_tensor(epsilons, device=task.images.device)
        restarts = torch.as_tensor(slots.item[new] % task.rule.restarts, device=task.images.device)
        slots.goals[new] = slots.labels[new] if task.goals is None else task.goals[rows, restarts]
        self._start(new, rows)

    def _start(self, new: slice, rows: Tensor) -> None:
        """First iterates of new slots; where the gradient at the image is known, the first step is already taken."""
        slots, task = self.slots, self.task
        ball = self._ball(new)
        slots.step[new] = 0
        if slots.velocity is not None:
            slots.velocity[new] = 0
        if task.rule.random_start:
            keys = zip(task.indices[slots.row[new]], slots.item[new] % task.rule.restarts, strict=True)
            sources = [example_generator(task.seed, int(index), int(restart)) for index, restart in keys]
            slots.iterate[new] = started(ball, start_noise(task.rule, ball.norm, ball.images, sources))
        elif task.first is None:
            slots.iterate[new] = ball.images
        else:
            iterate, velocity = take_step(task.rule, ball, ball.images, task.first[rows], None)
            slots.iterate[new] = iterate
            if slots.velocity is not None and velocity is not None:
                slots.velocity[new] = velocity
            slots.step[new] = 1


def _targets(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The `count` most likely wrong classes, (N, count), most likely first; repeated where classes run out."""
    others = logits.scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]
    return others[:, torch.arange(count, device=others.device) % others.shape[1]]


def _first_gradient(network: nn.Module, images: Tensor, labels: Tensor, rule: PGD, batch_size: int) -> Tensor:
    parts = [
        loss_gradient(network, x.contiguous(memory_format=torch.channels_last), y, rule)[1]
        for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros_like(images)
