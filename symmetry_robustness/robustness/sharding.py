"""An evaluation cut into shares, each saved when done: what was interrupted goes on, and processes share the work."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.threat import as_attack
from symmetry_robustness.errors import UserError
from symmetry_robustness.results.report import RobustnessReport, concatenate, join_measures
from symmetry_robustness.robustness.attack_batch import Progress, ProgressCallback
from symmetry_robustness.robustness.checks.derived import conclude
from symmetry_robustness.robustness.checks.run import place_of
from symmetry_robustness.robustness.evaluate import add_checks, check_numbers, evaluate_robustness
from symmetry_robustness.robustness.measures.base import Measure
from symmetry_robustness.robustness.protocol import EvaluationProtocol

IntArray = npt.NDArray[np.int64]

# Network passes of a measure in one share; a CLEVER score of the original's 500 x 1024 points is a share of its own.
_PASSES: Final = 2**12


# Images of a share by device. At the end of each share the engine's batch runs empty, which on one core took 1.4 times
# as long with 128 images and nothing with 512 (40 steps at 15 epsilons, 4-layer network). An attack of a library works
# minutes on as many images, so that smaller shares cost little and save much.
_WINDOWS: Final = {"cpu": 512, "cuda": 1024}
_LIBRARY_WINDOWS: Final = {"cpu": 64, "cuda": 512}


class Share(NamedTuple):
    """Images that are evaluated together: `rows` of all images, for a part of the protocol, saved under `stem`.

    The part is "attacks", "measures.NAME", or "checks", whose only share has all images and comes last: it is
    the report of all attacks with its checks.
    """

    part: str
    rows: IntArray
    stem: str


class Turn(NamedTuple):
    """Which of several processes this one is."""

    rank: int = 0
    ranks: int = 1


_ALONE: Final = Turn()


def default_window(protocol: EvaluationProtocol, device: torch.device) -> int:
    """Images of a share, so many that evaluating in shares costs next to nothing."""
    quick = all(as_attack(attack).update_rule is not None for attack in protocol.attacks.values())
    windows = _WINDOWS if quick else _LIBRARY_WINDOWS
    return windows.get(device.type, windows["cpu"])


def plan_shares(numbers: IntArray, protocol: EvaluationProtocol, window: int) -> list[Share]:
    """Cut an evaluation into shares of `window` images, in the order of their numbers.

    Each measure has shares of its own, since each may be taken on a number of images of its own; those of a costly one
    are smaller. The checks of the whole are the last share.

    Raises:
        UserError: for a window of no images.
    """
    if window < 1:
        raise UserError(f"window must be at least 1 image, got {window}; leave it out for a suitable one")
    order = np.argsort(numbers, kind="stable")
    shares = _cut("attacks", order, window)
    for name, measure in protocol.measures.items():
        shares += _cut(f"measures.{name}", order[: measure.images], min(window, _images_per_share(measure)))
    return [*shares, *_cut("checks", order, max(len(order), 1))]


def _cut(part: str, rows: IntArray, size: int) -> list[Share]:
    starts = range(0, max(len(rows), 1), size)
    return [Share(part, rows[start : start + size], f"{part}-{start:07d}") for start in starts]


def _images_per_share(measure: Measure) -> int:
    return max(1, _PASSES // max(1, getattr(measure, "passes", 1)))


def evaluate_in_shares(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: EvaluationProtocol,
    folder: Path,
    *,
    indices: Tensor | Sequence[int] | IntArray | None = None,
    window: int | None = None,
    turn: Turn = _ALONE,
    compiled: bool = False,
    is_over: Callable[[], bool] = lambda: False,
    progress: ProgressCallback | None = None,
) -> RobustnessReport | None:
    """Evaluate as `evaluate_robustness` does, but keep every finished share in a folder and take up those found there.

    Shares do not depend on what happened before, so the report is the same however often the work was interrupted and
    however many processes did it. A process that has no share left takes over those of others, the last first: nobody
    waits, and a process that died is no loss.

    Args:
        network: images in [0, 1] to logits, in evaluation mode.
        images: float32 (N, C, H, W), on any device; a share at a time moves to the network's.
        labels: (N,) int64.
        protocol: what is to be measured.
        folder: of the shares; everything found in it must stem from the same network, images and protocol.
        indices: (N,) numbers of the images in their data set; without it 0, 1, 2, ...
        window: images per share; None for a number that suits protocol and device.
        turn: the number of this process and of all; they take the shares round robin.
        compiled: see `evaluate_robustness`.
        is_over: whether another process has completed the report, so that there is nothing left to do.
        progress: called with how far each part has come ("attacks", "measures.NAME", "checks"), all processes
            together.

    Returns:
        The report, or None where another process completed it.

    Raises:
        UserError: for what `evaluate_robustness` refuses.
        OSError: a share cannot be saved.
    """
    numbers = check_numbers(indices, len(images))
    place = place_of(network, images)
    shares = plan_shares(numbers, protocol, default_window(protocol, place) if window is None else window)

    def compute(share: Share) -> RobustnessReport:
        rows = torch.as_tensor(share.rows, device=images.device)
        notify = _overall(progress, shares, share, folder, protocol)
        if share.part == "checks":
            return _checked(network, images[rows], labels[rows], protocol, _merge(folder, shares, "attacks"), notify)
        return evaluate_robustness(
            network,
            images[rows].to(place),
            labels[rows].to(place),
            _part_of(protocol, share),
            indices=numbers[share.rows],
            compiled=compiled and share.part == "attacks",
            progress=notify,
            extra_checks=False,
        )

    try:
        for share in _in_turn(shares, turn):
            if is_over():
                return None
            if _load(folder, share) is None:
                report = compute(share)
                if not is_over():
                    report.save(folder, share.stem)
        return None if is_over() else _complete(folder, shares, protocol)
    except (UserError, OSError):
        if is_over():  # another process has merged the shares and removed them while they were read or written here
            return None
        raise


def _in_turn(shares: Sequence[Share], turn: Turn) -> Iterator[Share]:
    """Our own shares, then those of the other processes, and the checks when everything they need is there."""
    *work, checks = shares
    yield from work[turn.rank :: turn.ranks]
    yield from [share for position, share in enumerate(work) if position % turn.ranks != turn.rank][::-1]
    yield checks


def _load(folder: Path, share: Share) -> RobustnessReport | None:
    """A share that was saved, None where it was not, or is damaged."""
    try:
        return RobustnessReport.load(folder / f"{share.stem}.json")
    except UserError:
        return None


def _part_of(protocol: EvaluationProtocol, share: Share) -> EvaluationProtocol:
    """The part of a protocol that one share carries out."""
    start = int(share.stem.rpartition("-")[2])
    kept = int(np.clip(protocol.keep_examples - start, 0, len(share.rows)))
    if share.part == "attacks":
        return replace(protocol, keep_examples=kept, measures={})
    name = share.part.removeprefix("measures.")
    alone = {name: protocol.measures[name]}
    return replace(protocol, attacks={}, epsilons=(), keep_examples=kept, measures=alone)


def _checked(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    protocol: EvaluationProtocol,
    report: RobustnessReport,
    notify: ProgressCallback | None,
) -> RobustnessReport:
    """The report of all attacks with the checks of the whole."""
    started = time.perf_counter()
    report = add_checks(network, images, labels, protocol, report)
    if notify is not None:
        notify(Progress("checks", len(report), len(report)))
    seconds = report.counts["seconds"] + time.perf_counter() - started
    return replace(report, counts={**report.counts, "seconds": seconds})


def _merge(folder: Path, shares: Sequence[Share], part: str) -> RobustnessReport:
    """The report of all shares of one part, each read from its file."""
    return concatenate([RobustnessReport.load(folder / f"{share.stem}.json") for share in shares if share.part == part])


def _complete(folder: Path, shares: Sequence[Share], protocol: EvaluationProtocol) -> RobustnessReport:
    """The report of all shares."""
    reports = {part: _merge(folder, shares, part) for part in dict.fromkeys(share.part for share in shares)}
    report = reports["checks"]
    measures = join_measures([part.measures for part in reports.values()])
    # The report with the checks has counted the seconds of the attacks.
    seconds = sum(found.counts["seconds"] for part, found in reports.items() if part != "attacks")
    counts = {**report.counts, "seconds": seconds}
    report = replace(report, measures=measures, settings=protocol.describe(), counts=counts)
    return replace(report, checks=conclude(report))


def _overall(
    progress: ProgressCallback | None,
    shares: Sequence[Share],
    current: Share,
    folder: Path,
    protocol: EvaluationProtocol,
) -> ProgressCallback | None:
    """Progress of one share's stages as progress of all shares of its part; reports once at the beginning."""
    if progress is None:
        return None
    same = [share for share in shares if share.part == current.part]
    before = sum(len(share.rows) for share in same if (folder / f"{share.stem}.json").exists())
    total, size = sum(len(share.rows) for share in same), len(current.rows)
    stages: list[str] = ([*protocol.attacks] or ["clean"]) if current.part == "attacks" else [current.part]
    progress(Progress(current.part, before, total))

    def notify(state: Progress) -> None:
        if state.stage in stages and state.total:
            share = (stages.index(state.stage) + state.done / state.total) / len(stages)
            progress(Progress(current.part, before + share * size, total))

    return notify
