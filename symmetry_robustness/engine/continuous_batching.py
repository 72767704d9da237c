"""Continuous batching: every image climbs the grid of epsilons until it breaks, and its slot is refilled at once.

The unit of work is an *item*: one run of the attack on one image at one epsilon (and one restart). The items of an
image are numbered, all restarts of the smallest epsilon first, and the answer is the first item that succeeds. Items
are independent of each other (each starts at the image, or at a random point drawn for this image and restart), so the
answer depends neither on the batch nor on the order of work, and at every epsilon an image survives only if the plain
attack at that epsilon, and at every smaller one, does not break it.

A rule that minimises the norm has one item for each run, whatever the grid; all are finished, and the answer is the
shortest change that any iterate found.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import Memory, Pass, UpdateRule, likely_targets
from symmetry_robustness.attacks.threat import TOLERANCE, ThreatModel
from symmetry_robustness.attacks.validation import predict
from symmetry_robustness.engine.rounds import Findings, Successes, default_wait, round_length
from symmetry_robustness.precision import float32
from symmetry_robustness.rng import keyed_generator

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Below this many busy slots a pass costs much the same however many there are (a GPU idles, a CPU rearranges weights),
# so later epsilons of the same images are tried ahead of time.
_SPECULATE_BELOW: Final = {"cpu": 16, "cuda": 256}

# Rows up to which a pass is filled with steps to come of rules that look ahead, and how many of one image at most.
_AHEAD_ROWS: Final = 96
_MOST_AHEAD: Final = 8

_TELL_EVERY_S: Final = 0.1  # progress costs as much as a step of a small network


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each prediction, (B,), is wrong; logits that are not finite predict nothing."""
    return (logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)


class CleanPass(NamedTuple):
    """The network at the clean images: logits (N, K) and the gradient of the cross-entropy (N, C, H, W)."""

    logits: Tensor
    gradient: Tensor

    def take(self, rows: Tensor) -> "CleanPass":
        """The same for some of the images."""
        return CleanPass(self.logits[rows], self.gradient[rows])


@dataclass(frozen=True)
class SearchResult:
    """Result per image, (N,), of a search.

    `position` is the index of the smallest epsilon at which the image broke (number of epsilons if never; the largest
    for a rule that minimises the norm), `distance` the norm of the perturbation that broke it (inf if none), `passes`
    how often the image went through the network. `excess` is the largest amount by which a successful iterate left its
    ball or the bounds; `gradients` counts images whose gradient was taken, `nonfinite` those among them whose gradient
    was not finite.
    """

    position: IntArray
    distance: FloatArray
    passes: IntArray
    adversarial: dict[int, Tensor]
    excess: float
    gradients: int
    nonfinite: int


@final
@dataclass(frozen=True)
class ContinuousBatching:
    """A search for the smallest epsilon at which each image breaks; any iterate of the update rule may break it.

    Args:
        network: images to logits, in evaluation mode.
        rule: the attack.
        threats: of one norm and the same bounds, epsilons increasing.
        seed: of the random starts.
        batch_size: number of slots.
        fixed_batch: let every pass have `batch_size` rows, of which some may be idle, for a network compiled for one
            shape.
        wait: passes between two results that the host reads; None for 1 on a CPU and 8 elsewhere. Results are the same.
    """

    network: nn.Module
    rule: UpdateRule
    threats: Sequence[ThreatModel]
    seed: int = 0
    batch_size: int = 128
    fixed_batch: bool = False
    wait: int | None = None

    def find_minimal_epsilon(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        indices: IntArray | None = None,
        clean: CleanPass | None = None,
        num_epsilons: IntArray | None = None,
        keep: Sequence[int] = (),
        progress: Callable[[float], None] | None = None,
    ) -> SearchResult:
        """Attack each image at the smallest epsilon, then at larger ones until it breaks.

        Args:
            images: float32 (N, C, H, W), correctly classified.
            labels: (N,) true classes.
            indices: (N,) numbers of the images in the data set, which decide random starts; 0, 1, 2, ... without.
            clean: the network at the images, if known.
            num_epsilons: (N,) at how many epsilons, the smallest first, each image is attacked; without it at all.
            keep: rows whose adversarial image is wanted.
            progress: called with the number of finished images, those under way as fractions.
        """
        with float32(images.device):  # once, since switching it in every pass takes as long as a small network
            engine = _Engine(self, images, labels, indices, clean, num_epsilons, keep)
            told = time.monotonic()
            while engine.advance():
                if progress is not None and (now := time.monotonic()) - told >= _TELL_EVERY_S:
                    told = now
                    progress(engine.finished())
            if progress is not None:
                progress(engine.finished())
        return SearchResult(
            position=engine.positions(),
            distance=engine.distance,
            passes=engine.passes,
            adversarial=engine.adversarial,
            excess=engine.excess,
            gradients=engine.gradients,
            nonfinite=int(engine.nonfinite),
        )


class _Queue:
    """Order of the items; host-side bookkeeping of all images."""

    def __init__(self, items: IntArray) -> None:
        images = len(items)
        self.limit = items.astype(np.int64)  # first successful item so far, at the start one after the last
        self.cursor = np.zeros(images, dtype=np.int64)  # next item to be started
        self.active = np.zeros(images, dtype=np.int64)  # items being worked on
        self.ready = deque(np.flatnonzero(self.limit).tolist())

    def take(self, count: int, speculative: int) -> list[tuple[int, int]]:
        """Up to `count` (image, item) pairs, of which at most `speculative` before their turn."""
        taken: list[tuple[int, int]] = []
        while self.ready and len(taken) < count:
            row = self.ready.popleft()
            if self.cursor[row] < self.limit[row]:  # unless a success was read after it had become ready
                taken.append(self._start(row))
        speculative = min(speculative, count) - len(taken)
        while speculative > 0:
            waiting = np.flatnonzero((self.active > 0) & (self.cursor < self.limit))
            if not len(waiting):
                break
            for row in waiting[np.argsort(self.cursor[waiting], kind="stable")][:speculative]:
                taken.append(self._start(int(row)))
                speculative -= 1
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

    def __init__(self, images: Tensor, capacity: int) -> None:
        device = images.device
        self.images = torch.empty((capacity, *images.shape[1:]), device=device).to(memory_format=torch.channels_last)
        self.epsilon = torch.ones(capacity, device=device)
        self.labels = torch.zeros(capacity, dtype=torch.int64, device=device)
        self.targets = torch.zeros_like(self.labels)
        self.steps_taken = torch.zeros_like(self.labels)
        # Idle slots pass through the network where the batch is fixed.
        self.memory: Memory = {"iterate": torch.zeros_like(self.images)}
        self.row: IntArray = np.zeros(capacity, dtype=np.int64)
        self.item: IntArray = np.zeros(capacity, dtype=np.int64)
        self.step: IntArray = np.zeros(capacity, dtype=np.int64)  # the same as `steps_taken`, on the host
        self.count = 0

    def remember(self, rows: slice, memory: Memory) -> None:
        """Write what an update rule remembers into some slots."""
        for name, values in memory.items():
            if name not in self.memory:
                like_images = values.shape[1:] == self.images.shape[1:]
                empty = values.new_zeros((len(self.row), *values.shape[1:]))
                self.memory[name] = empty.to(memory_format=torch.channels_last) if like_images else empty
            self.memory[name][rows] = values

    def close(self, holes: IntArray) -> None:
        """Free these slots: the last busy ones move into the holes, so that busy slots stay in front."""
        remaining = self.count - len(holes)
        moved = np.setdiff1d(np.arange(remaining, self.count), holes, assume_unique=True)
        targets = np.sort(holes)[: len(moved)]
        for array in (self.row, self.item, self.step):
            array[targets] = array[moved]
        if len(moved):
            to, source = (torch.as_tensor(index, device=self.labels.device) for index in (targets, moved))
            fixed = (self.images, self.epsilon, self.labels, self.targets, self.steps_taken)
            for tensor in (*fixed, *self.memory.values()):
                tensor[to] = tensor[source]
        self.count = remaining


class _Engine:
    """The loop's state: inputs, queue, slots and findings."""

    def __init__(
        self,
        search: ContinuousBatching,
        images: Tensor,
        labels: Tensor,
        indices: IntArray | None,
        clean: CleanPass | None,
        num_epsilons: IntArray | None,
        keep: Sequence[int],
    ) -> None:
        self.search, self.rule, self.threat = search, search.rule, search.threats[0]
        self.images, self.labels = images, labels
        self.indices = np.arange(len(images)) if indices is None else indices
        self.gradients = 0
        self.passes: IntArray = np.zeros(len(images), dtype=np.int64)
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=images.device)
        self.targets = self._targets(clean)
        self.runs = self.targets.shape[1]
        # A rule that minimises the norm starts once for each run, and may want the gradients of all classes.
        shared = not (self.rule.random_start or self.rule.targeted or self.rule.minimizes_norm)
        self.first = self._first_pass(clean) if shared else None
        if num_epsilons is None:
            num_epsilons = np.full(len(images), len(search.threats))
        if self.rule.minimizes_norm:  # attacks once, in the largest ball
            num_epsilons, self.threat = np.minimum(num_epsilons, 1), search.threats[-1]
        self.grid = np.array([threat.epsilon for threat in search.threats], dtype=np.float32)
        self.queue = _Queue(num_epsilons * self.runs)
        items = int(self.queue.limit.sum())
        self.slots = _Slots(images, search.batch_size if search.fixed_batch else max(1, min(search.batch_size, items)))
        self.distance: FloatArray = np.full(len(images), np.inf)
        self.adversarial: dict[int, Tensor] = {}
        self.keep = frozenset(keep)
        self.excess = 0.0
        self.wait = default_wait(images.device) if search.wait is None else search.wait
        self.length = round_length(self.rule.steps + (self.first is None), self.wait)
        self.findings: list[Findings] = []  # that the host has not read
        self.unread = 0  # passes since it read
        self.ahead = 1  # steps of an image that share a pass

    def _first_pass(self, clean: CleanPass | None) -> CleanPass:
        """Logits and gradients at the images, where every item starts."""
        known = self.rule.loss == "cross_entropy" and self.rule.passes_per_step == 1
        if clean is not None and (known or not self.rule.uses_gradient):
            return clean
        self.gradients += len(self.images) if self.rule.uses_gradient else 0
        self.passes += self.rule.passes_per_step
        parts = [
            self._logits_and_gradient(x.contiguous(memory_format=torch.channels_last), y, y)
            for x, y in zip(
                torch.split(self.images, self.search.batch_size),
                torch.split(self.labels, self.search.batch_size),
                strict=True,
            )
            if len(x)
        ]
        if not parts:
            return CleanPass(self.images.new_zeros(0, 1), torch.zeros_like(self.images))
        return CleanPass(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _logits_and_gradient(self, images: Tensor, labels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not self.rule.uses_gradient:
            return predict(self.search.network, images), torch.zeros_like(images)
        return self.rule.evaluate(self.search.network, images, labels, targets)

    def _targets(self, clean: CleanPass | None) -> Tensor:
        """Classes to be reached, (N, runs): the most likely wrong ones, the true one for a rule without."""
        if not (self.rule.targeted and len(self.images)):
            return self.labels[:, None].expand(-1, self.rule.restarts)
        logits = predict(self.search.network, self.images) if clean is None else clean.logits
        return likely_targets(logits, self.labels, self.rule.restarts)

    def finished(self) -> float:
        """Images with nothing left to do, and fractions of those under way."""
        queue, slots = self.queue, self.slots
        steps = (queue.cursor - queue.active).astype(float)
        np.add.at(steps, slots.row[: slots.count], slots.step[: slots.count] / (self.rule.steps + 1))
        over = (queue.active == 0) & (queue.cursor >= queue.limit)
        return float(np.where(over, 1.0, steps / np.maximum(queue.limit, 1)).clip(0, 1).sum())

    def positions(self) -> IntArray:
        """Index, (N,), of the smallest epsilon at which each image broke, as far as this is known."""
        if self.rule.minimizes_norm:
            return len(self.grid) - np.isfinite(self.distance).astype(np.int64)
        return self.queue.limit // self.runs

    def advance(self) -> bool:
        """Fill the slots, take one pass through the network or a round of several; False when nothing is left."""
        self._fill()
        if not self.slots.count:
            unread = bool(self.findings)
            self._read()
            return unread
        if self.wait == 1:
            self._pass()
        else:
            self._round()
        return True

    def _pass(self) -> None:
        """One pass, judged at once."""
        slots = self.slots
        busy = slice(slots.count)
        if self.rule.looks_ahead and self.rule.draws == 1 and not self.search.fixed_batch:
            logits, gradient = self._evaluate_ahead(busy)
        else:
            logits, gradient = self._evaluate(busy)
        np.add.at(self.passes, slots.row[busy], self.rule.passes_per_step)
        wrong = misclassified(logits, slots.labels[busy]).cpu().numpy()
        over = slots.step[busy] >= self.rule.steps
        if self.rule.minimizes_norm:
            self._record_shortest(np.flatnonzero(wrong))
        else:
            self._record(np.flatnonzero(wrong))
            over |= wrong | (slots.item[busy] > self.queue.limit[slots.row[busy]])
        if not over.all():
            self._step(busy, logits, gradient)
        slots.step[busy] += 1
        slots.steps_taken[busy] += 1
        self._close(over)

    def _close(self, over: BoolArray) -> None:
        """Free the slots of items that are over."""
        if over.any():
            holes = np.flatnonzero(over)
            rows = self.slots.row[holes]
            self.slots.close(holes)
            self.queue.release(rows)

    def _round(self) -> None:
        """Passes that are judged on the device; the host reads when enough of them are unread."""
        slots, rule = self.slots, self.rule
        busy = slice(slots.count)
        passes = np.minimum(rule.steps + 1 - slots.step[busy], self.length)
        images, epsilon = slots.images[busy], slots.epsilon[busy]
        successes = Successes(self.threat, images, epsilon, self.length, rule.minimizes_norm)
        for number in range(self.length):
            counted = successes.open & (slots.steps_taken[busy] <= rule.steps)
            logits, gradient = self._evaluate(busy, counted)
            hit = misclassified(logits, slots.labels[busy]) & counted
            successes.note(number, slots.memory["iterate"][busy], hit)
            if (slots.step[busy] < rule.steps).any():
                self._step(busy, logits, gradient)
            slots.step[busy] += 1
            slots.steps_taken[busy] += 1
        kept = [slot for slot, row in enumerate(slots.row[busy]) if row in self.keep]
        self.findings.append(successes.findings(slots.row[busy], slots.item[busy], passes, kept))
        self.unread += self.length
        over = slots.step[busy] > rule.steps
        if self.unread >= self.wait:
            over |= self._read() & (not rule.minimizes_norm)
            over |= slots.item[busy] > self.queue.limit[slots.row[busy]]
        self._close(over)

    def _read(self) -> BoolArray:
        """Read and note the findings of all rounds in one transfer; whether each slot of the last one succeeded."""
        found, self.findings, self.unread = self.findings, [], 0
        success: BoolArray = np.zeros(0, dtype=bool)
        if not found:
            return success
        values = torch.cat([findings.values for findings in found], dim=1).cpu().numpy()
        ends = np.cumsum([len(findings.row) for findings in found])[:-1]
        for findings, (first, distance, excess) in zip(found, np.split(values, ends, axis=1), strict=True):
            success = first < self.length
            used = findings.passes if self.rule.minimizes_norm else np.minimum(first + 1, findings.passes)
            np.add.at(self.passes, findings.row, self.rule.passes_per_step * used.astype(np.int64))
            hits = np.flatnonzero(success)
            if not self.rule.minimizes_norm:
                hits = self._first_successes(hits, findings.row, findings.item)
            elif len(excess):
                self.excess = max(self.excess, float(excess.max()))
            for slot in hits:
                self._note(int(findings.row[slot]), distance[slot], findings.images.get(int(slot)))
                if not self.rule.minimizes_norm:
                    self.queue.limit[findings.row[slot]] = findings.item[slot]
                    self.excess = max(self.excess, float(excess[slot]))
        return success

    def _first_successes(self, hits: IntArray, row: IntArray, item: IntArray) -> IntArray:
        """Successes of the earliest items so far, later items first, so that the earliest of an image is noted last."""
        hits = hits[item[hits] < self.queue.limit[row[hits]]]
        return hits[np.argsort(-item[hits], kind="stable")]

    def _note(self, row: int, distance: float, adversarial: Tensor | None) -> None:
        """The success of an image; of a rule that minimises the norm only if it is shorter than those before."""
        if self.rule.minimizes_norm and not distance < self.distance[row]:
            return
        self.distance[row] = distance
        if adversarial is not None:
            self.adversarial[row] = adversarial

    def _step(self, rows: slice, logits: Tensor, gradient: Tensor) -> None:
        slots = self.slots
        labels, targets = slots.labels[rows], slots.targets[rows]
        taken = slots.steps_taken[rows].clamp_max(self.rule.steps)  # in a round some go on when they are over
        result = Pass(slots.images[rows], slots.epsilon[rows], labels, targets, taken, logits, gradient)
        memory = {name: values[rows] for name, values in slots.memory.items()}
        slots.remember(rows, self.rule.step(self.threat, result, memory))

    def _evaluate(self, busy: slice, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pass the iterates through the network; gradients for those slots that need one for their next step.

        Args:
            busy: the slots.
            counted: (B,) those whose gradients count where they are not finite; all without.
        """
        slots, rule = self.slots, self.rule
        rows = slice(None) if self.search.fixed_batch else busy
        iterate = slots.memory["iterate"][rows]
        need = rule.uses_gradient & (slots.step[busy] < rule.steps) & (slots.step[busy] % rule.gradient_every == 0)
        if not need.any():
            draws = [predict(self.search.network, iterate)[busy] for _ in range(rule.draws)]
            return torch.stack(draws).mean(0) if rule.draws > 1 else draws[0], torch.zeros_like(iterate[busy])
        if need.all() or self.search.fixed_batch or rule.gradient_every == 1:
            self.gradients += slots.count
            logits, gradient = self._logits_and_gradient(iterate, slots.labels[rows], slots.targets[rows])
            logits, gradient = logits[busy], gradient[busy]
        else:
            logits, gradient = self._evaluate_apart(iterate, need)
        nonfinite = ~torch.isfinite(gradient.flatten(1).sum(1))
        self.nonfinite += (nonfinite if counted is None else nonfinite & counted).sum()  # stays on the device
        return logits, gradient

    def _evaluate_ahead(self, busy: slice) -> tuple[Tensor, Tensor]:
        """Logits at the first iterate of each slot that the rule keeps or that succeeds, of those that it would try.

        The slots move on to that step. Passes of later iterates are in vain; they count for nothing, and cost little
        beside what a pass of few images costs whatever their number.
        """
        slots, rule = self.slots, self.rule
        count, ahead = slots.count, min(self.ahead, max(1, min(_AHEAD_ROWS, self.search.batch_size) // slots.count))
        taken, labels = slots.steps_taken[busy], slots.labels[busy].repeat(ahead)
        memory = {name: torch.cat([values[busy]] * ahead) for name, values in slots.memory.items()}
        iterate = memory["iterate"]
        if ahead > 1:
            steps = (taken + torch.arange(ahead - 1, device=taken.device)[:, None]).flatten()
            images, epsilon = (torch.cat([values[busy]] * (ahead - 1)) for values in (slots.images, slots.epsilon))
            later = {name: values[count:] for name, values in memory.items()}
            iterate[count:] = rule.next_iterate(self.threat, images, epsilon, steps, later)
        logits = predict(self.search.network, iterate)
        ends = rule.keeps(logits, labels, memory) | misclassified(logits, labels)  # which are to be recorded
        ends = ends.view(ahead, count)
        first = torch.where(ends.any(0), ends.int().argmax(0), ahead - 1).minimum(rule.steps - taken)
        chosen = first * count + torch.arange(count, device=first.device)
        slots.memory["iterate"][busy] = iterate[chosen]
        slots.steps_taken[busy] += first
        moved = first.cpu().numpy()
        slots.step[busy] += moved
        np.add.at(self.passes, slots.row[busy], moved)
        share = (moved.mean() + 1) / ahead
        self.ahead = min(2 * ahead, _MOST_AHEAD) if share > 0.8 else max(ahead // 2, 1) if share < 0.5 else ahead
        return logits[chosen], torch.zeros_like(iterate[:count])

    def _evaluate_apart(self, iterate: Tensor, need: BoolArray) -> tuple[Tensor, Tensor]:
        """The same where some slots need a gradient and others only logits."""
        slots, device = self.slots, iterate.device
        self.gradients += int(need.sum())
        some, rest = (torch.as_tensor(np.flatnonzero(mask), device=device) for mask in (need, ~need))
        found, slopes = self._logits_and_gradient(iterate[some], slots.labels[some], slots.targets[some])
        logits = found.new_empty((len(iterate), found.shape[1]))
        logits[some], logits[rest] = found, predict(self.search.network, iterate[rest])
        gradient = slopes.new_zeros((len(iterate), *slopes.shape[1:]))
        gradient[some] = slopes
        return logits, gradient

    def _record_shortest(self, hits: IntArray) -> None:
        """Note successes inside the largest ball that are shorter than those before."""
        if not len(hits):
            return
        slots = self.slots
        chosen = torch.as_tensor(hits, device=slots.labels.device)
        iterate, images = slots.memory["iterate"][chosen], slots.images[chosen]
        distance = self.threat.distance(iterate, images).cpu().numpy()
        everywhere = torch.full_like(slots.epsilon[chosen], torch.inf)
        self.excess = max(self.excess, float(self.threat.excess(iterate, images, everywhere).max()))
        largest = self.threat.epsilon * (1 + TOLERANCE)
        for position, (row, length) in enumerate(zip(slots.row[hits], distance, strict=True)):
            if length <= largest and length < self.distance[row]:
                self.distance[row] = length
                if row in self.keep:
                    self.adversarial[int(row)] = iterate[position].clone(memory_format=torch.contiguous_format)

    def _record(self, hits: IntArray) -> None:
        """Note successes, each unless an earlier item of the same image has succeeded."""
        slots = self.slots
        hits = self._first_successes(hits, slots.row, slots.item)
        if not len(hits):
            return
        chosen = torch.as_tensor(hits, device=slots.labels.device)
        iterate, images = slots.memory["iterate"][chosen], slots.images[chosen]
        distance = self.threat.distance(iterate, images).cpu().numpy()
        self.excess = max(self.excess, float(self.threat.excess(iterate, images, slots.epsilon[chosen]).max()))
        for position, slot in enumerate(hits):
            row = int(slots.row[slot])
            self.queue.limit[row] = slots.item[slot]
            self.distance[row] = distance[position]
            if row in self.keep:
                self.adversarial[row] = iterate[position].clone(memory_format=torch.contiguous_format)

    def _fill(self) -> None:
        """Start items in free slots; where the gradient at the image is known, with the first step taken."""
        slots, rule = self.slots, self.rule
        free = len(slots.row) - slots.count
        all_wanted = rule.minimizes_norm  # so that none is tried in vain
        filled = len(slots.row) if all_wanted else _SPECULATE_BELOW.get(self.images.device.type, 0)
        taken = self.queue.take(free, filled - slots.count) if free else []
        if not taken:
            return
        new = slice(slots.count, slots.count + len(taken))
        slots.row[new], slots.item[new] = np.array(taken).T
        slots.count = new.stop
        rows = torch.as_tensor(slots.row[new], device=self.images.device)
        position, restart = np.divmod(slots.item[new], self.runs)
        epsilons = self.grid[-1:].repeat(len(taken)) if rule.minimizes_norm else self.grid[position]
        slots.images[new] = self.images[rows]
        slots.labels[new] = self.labels[rows]
        slots.epsilon[new] = torch.as_tensor(epsilons, device=self.images.device)
        slots.targets[new] = self.targets[rows, torch.as_tensor(restart, device=self.images.device)]
        slots.step[new] = 0
        slots.steps_taken[new] = 0
        keys = zip(self.indices[slots.row[new]], restart, strict=True) if rule.random_start else ()
        sources = [keyed_generator(self.search.seed, int(index), int(number)) for index, number in keys]
        slots.remember(new, rule.start(self.threat, slots.images[new], slots.epsilon[new], sources))
        if self.first is not None:
            self._step(new, self.first.logits[rows], self.first.gradient[rows])
            slots.step[new] = 1
            slots.steps_taken[new] = 1
