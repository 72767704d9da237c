"""An evaluation cut into shards, each saved when done: interrupted work resumes, and processes divide it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import as_attack
from symmetry_robustness.attacks.validation import check_images, check_indices, check_labels, device_of
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.report import RobustnessReport, concatenate, join_measures
from symmetry_robustness.robustness.attack_batch import Progress, ProgressCallback, ignore
from symmetry_robustness.robustness.checks.derived import add_derived_checks
from symmetry_robustness.robustness.evaluate import add_checks, evaluate_robustness
from symmetry_robustness.robustness.measures.base import MeasureInputs
from symmetry_robustness.robustness.protocol import EvaluationProtocol, require_protocol

IntArray = npt.NDArray[np.int64]

# Network passes of a measure in one shard; a score of 500 x 1024 points is a shard of its own.
_PASSES: Final = 2**12

# Images of a shard by device. At the end of each shard the engine's batch runs empty, which on one core took 1.4 times
# as long with 128 images and nothing with 512 (40 steps at 15 epsilons, 4-layer network). An attack that can only be
# called, or takes thousands of passes, works minutes on as many images: smaller shards cost little and save much.
_DRIVEN_SIZES: Final = {"cpu": 512, "cuda": 1024}
_CALLED_SIZES: Final = {"cpu": 64, "cuda": 512}
_LONG: Final = 2000  # passes for an image that withstands


class Shard(NamedTuple):
    """Images that are evaluated together: `rows` of all images, for a part of the protocol, saved under `stem`.

    The part is "attacks", "measures.NAME", or "checks", whose only shard has all images and comes last: it is the
    report of all attacks with its checks.
    """

    part: str
    rows: IntArray
    stem: str


class Worker(NamedTuple):
    """Number of this process, and of all that divide the work."""

    rank: int = 0
    workers: int = 1


_ALONE: Final = Worker()


def default_shard_size(protocol: EvaluationProtocol, device: torch.device) -> int:
    """Images of a shard, so many that evaluating in shards costs next to nothing."""
    attacks = [as_attack(attack) for attack in protocol.attacks.values()]
    long = sum(attack.cost or 0.0 for attack in attacks) > _LONG
    driven = all(attack.update_rule is not None for attack in attacks)
    sizes = _DRIVEN_SIZES if driven and not long else _CALLED_SIZES
    return sizes.get(device.type, sizes["cpu"])


def plan_shards(indices: IntArray, protocol: EvaluationProtocol, shard_size: int) -> list[Shard]:
    """Cut an evaluation into shards of `shard_size` images, in the order of their numbers.

    Each measure has shards of its own, since each may be taken on a number of images of its own; those of a costly one
    are smaller. The checks of the whole are the last shard.

    Raises:
        UserError: for shards of no images.
    """
    if shard_size < 1:
        raise UserError(f"shard_size must be at least 1 image, got {shard_size}; leave it out for a suitable one")
    order = np.argsort(indices, kind="stable")
    shards = _cut("attacks", order, shard_size)
    for name, measure in protocol.measures.items():
        affordable = max(1, _PASSES // max(1, getattr(measure, "passes", 1)))
        shards += _cut(f"measures.{name}", order[: measure.images], min(shard_size, affordable))
    return [*shards, *_cut("checks", order, max(len(order), 1))]


def _cut(part: str, rows: IntArray, size: int) -> list[Shard]:
    starts = range(0, max(len(rows), 1), size)
    return [Shard(part, rows[start : start + size], f"{part}-{start:07d}") for start in starts]


def evaluate_in_shards(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: EvaluationProtocol,
    folder: Path,
    *,
    indices: Tensor | Sequence[int] | IntArray | None = None,
    shard_size: int | None = None,
    worker: Worker = _ALONE,
    compiled: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    progress: ProgressCallback | None = None,
    calibration: Tensor | None = None,
) -> RobustnessReport | None:
    """Evaluate as `evaluate_robustness` does, but save every finished shard in a folder and resume from those in it.

    Shards do not depend on what happened before, so the report is the same however often the work was interrupted and
    however many processes did it. A process that has no shard left takes over those of others, the last first: nobody
    waits, and a process that died is no loss.

    Args:
        network: images in [0, 1] to logits, in evaluation mode.
        images: float32 (N, C, H, W), on any device; a shard at a time moves to the network's.
        labels: (N,) int64.
        protocol: what is to be measured.
        folder: of the shards; everything found in it must stem from the same network, images and protocol.
        indices: (N,) numbers of the images in their data set; without it 0, 1, 2, ...
        shard_size: images per shard; None for a number that suits protocol and device.
        worker: the number of this process and of all; they take the shards round robin.
        compiled: see `evaluate_robustness`.
        should_stop: whether another process has completed the report, so that there is nothing left to do.
        progress: called with how far each part has come ("attacks", "measures.NAME", "checks"), all processes
            together.

        calibration: see `evaluate_robustness`.

    Returns:
        The report, or None where another process completed it.

    Raises:
        UserError: for what `evaluate_robustness` refuses.
        OSError: a shard cannot be saved.
    """
    require_protocol(protocol)
    images = check_images(images, (-np.inf, np.inf))
    labels = check_labels(labels, images)
    numbers, device = check_indices(indices, len(images)), device_of(network, images)
    size = default_shard_size(protocol, device) if shard_size is None else shard_size
    protocol = protocol.against(network, images[:2].to(device))
    shards = plan_shards(numbers, protocol, size)
    clean = None if calibration is None else check_images(calibration).to(device)

    def compute(shard: Shard) -> RobustnessReport:
        rows = torch.as_tensor(shard.rows, device=images.device)
        notify = _part_progress(progress or ignore, shards, shard, folder, protocol)
        if shard.part == "checks":
            inputs = MeasureInputs(network, images[rows], labels[rows], numbers[shard.rows], protocol.seed)
            inputs = inputs._replace(calibration=clean)
            report = add_checks(inputs, protocol, _merge(folder, shards, "attacks"))
            notify(Progress("checks", len(rows), len(rows)))
            return report
        return evaluate_robustness(
            network,
            images[rows].to(device),
            labels[rows].to(device),
            _part_of(protocol, shard),
            indices=numbers[shard.rows],
            compiled=compiled and shard.part == "attacks",
            progress=notify,
            extra_checks=False,
            calibration=clean,
        )

    try:
        for shard in _in_order(shards, worker):
            if should_stop():
                return None
            if _load(folder, shard) is None:
                report = compute(shard)
                if not should_stop():
                    report.save(folder, shard.stem)
        return None if should_stop() else _complete(folder, shards, protocol)
    except (UserError, OSError):
        if should_stop():  # another process has merged the shards and removed them while they were read or written here
            return None
        raise


def _in_order(shards: Sequence[Shard], worker: Worker) -> Iterator[Shard]:
    """Our own shards, then those of the other processes, and the checks when everything they need is there."""
    *work, checks = shards
    yield from work[worker.rank :: worker.workers]
    yield from [shard for position, shard in enumerate(work) if position % worker.workers != worker.rank][::-1]
    yield checks


def _load(folder: Path, shard: Shard) -> RobustnessReport | None:
    """A shard that was saved, None where it was not, or is damaged."""
    try:
        return RobustnessReport.load(folder / f"{shard.stem}.json")
    except UserError:
        return None


def _part_of(protocol: EvaluationProtocol, shard: Shard) -> EvaluationProtocol:
    """The part of a protocol that one shard carries out."""
    start = int(shard.stem.rpartition("-")[2])
    kept = int(np.clip(protocol.keep_examples - start, 0, len(shard.rows)))
    if shard.part == "attacks":
        return replace(protocol, keep_examples=kept, measures={})
    name = shard.part.removeprefix("measures.")
    alone = {name: protocol.measures[name]}
    return replace(protocol, attacks={}, epsilons=(), keep_examples=kept, measures=alone)


def _merge(folder: Path, shards: Sequence[Shard], part: str) -> RobustnessReport:
    """The report of all shards of one part, each read from its file."""
    return concatenate([RobustnessReport.load(folder / f"{shard.stem}.json") for shard in shards if shard.part == part])


def _complete(folder: Path, shards: Sequence[Shard], protocol: EvaluationProtocol) -> RobustnessReport:
    """The report of all shards."""
    reports = {part: _merge(folder, shards, part) for part in dict.fromkeys(shard.part for shard in shards)}
    report = reports["checks"]
    # The report with the checks has counted the seconds of the attacks.
    seconds = sum(found.counts["seconds"] for part, found in reports.items() if part != "attacks")
    return add_derived_checks(
        replace(
            report,
            measures=join_measures([part.measures for part in reports.values()]),
            settings=protocol.describe(),
            counts={**report.counts, "seconds": seconds},
        ),
        protocol.attacks,
    )


def _part_progress(
    progress: ProgressCallback, shards: Sequence[Shard], current: Shard, folder: Path, protocol: EvaluationProtocol
) -> ProgressCallback:
    """Progress of one shard's stages as progress of all shards of its part; reports once at the beginning."""
    same = [shard for shard in shards if shard.part == current.part]
    before = sum(len(shard.rows) for shard in same if (folder / f"{shard.stem}.json").exists())
    total = sum(len(shard.rows) for shard in same)
    costs = {name: as_attack(attack).cost or 1.0 for name, attack in protocol.attacks.items()} or {"clean": 1.0}
    stages = costs if current.part == "attacks" else {current.part: 1.0}
    progress(Progress(current.part, before, total))

    def notify(state: Progress) -> None:
        if state.stage in stages and state.total:
            earlier = sum([*stages.values()][: [*stages].index(state.stage)])
            fraction = (earlier + stages[state.stage] * state.done / state.total) / sum(stages.values())
            progress(Progress(current.part, before + fraction * len(current.rows), total))

    return notify
