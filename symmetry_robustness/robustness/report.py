"""What an evaluation found: arrays with one entry per image, and the numbers that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from symmetry_robustness.errors import UserError
from symmetry_robustness.robustness.checks.derived import Check, conclude, merge_checks
from symmetry_robustness.robustness.measures.base import Measures, concatenate_measures, order_measures, per_image_means
from symmetry_robustness.robustness.measures.clever import CleverScores
from symmetry_robustness.robustness.report_files import read_pair, write_pair

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_PLAIN: Final = ("indices", "labels", "predictions", "clever_indices")
_NAMED: Final = ("broken_at", "distance", "fooled", "examples")


class Estimate(NamedTuple):
    """A mean over a number of images with its standard error."""

    value: float
    standard_error: float
    images: int


@final
@dataclass(frozen=True)
class RobustnessReport:
    """Result of `evaluate_robustness`; every number is derived from arrays with one entry per image.

    Args:
        norm: of the threat.
        epsilons: the grid, increasing, pixel units.
        indices: (N,) numbers of the images in the data set.
        labels: (N,) true classes.
        predictions: (N,) classes predicted for the clean images, -1 where the logits are not finite.
        broken_at: attack to (N,) smallest epsilon found at which each image is misclassified; 0 where the clean image
            is, inf if never.
        distance: attack to (N,) norm of the perturbation that did it; 0 and inf likewise.
        fooled: attack to (N, E) whether each image is misclassified at each epsilon, only where the protocol judges
            each epsilon on its own.
        examples: attack to adversarial images (k, C, H, W) of the first images, the clean image where none was found;
            "clean" has the clean images.
        clever: CLEVER scores of the images `clever_indices`, or None.
        clever_indices: (M,) numbers of the images that have a score.
        measures: what the measures of the protocol found: measure to array name to (M, ...), the first axis being the
            image; "indices" (M,) are the numbers of these images.
        checks: soundness checks.
        settings: the protocol as plain values.
        counts: what adds up over shares: seconds and gradients spent, zero and non-finite gradients, non-finite logits;
            in a cascade also how many images each attack was given and how many it broke further.
        provenance: what was evaluated (checkpoint, data, software), as plain values.
    """

    norm: str
    epsilons: tuple[float, ...]
    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predictions: npt.NDArray[np.int64]
    broken_at: Mapping[str, FloatArray]
    distance: Mapping[str, FloatArray]
    fooled: Mapping[str, BoolArray] = field(default_factory=dict)
    examples: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    clever: CleverScores | None = None
    clever_indices: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    measures: Measures = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def clean_correct(self) -> BoolArray:
        """Whether each clean image, (N,), is classified correctly."""
        return np.asarray(self.predictions == self.labels)

    @property
    def clean_accuracy(self) -> float:
        """Share of clean images that are classified correctly."""
        return _estimate(self.clean_correct).value

    def correct(self, attack: str, epsilon: float) -> BoolArray:
        """Whether each image, (N,), is classified correctly under an attack; epsilon 0 means no attack.

        Raises:
            UserError: for an attack or an epsilon that was not evaluated.
        """
        if attack not in self.broken_at:
            known = ", ".join(self.broken_at) or "none"
            raise UserError(f"attack {attack!r} was not evaluated; this report has {known}")
        if epsilon == 0:
            return self.clean_correct
        position = self._position(epsilon)
        if attack in self.fooled:
            fooled: BoolArray = self.fooled[attack][:, position]
            return ~fooled
        standing: BoolArray = self.broken_at[attack] > self.epsilons[position]
        return standing

    def accuracy(self, attack: str, epsilon: float) -> Estimate:
        """Robust accuracy and its standard error under one attack at one epsilon of the grid."""
        return _estimate(self.correct(attack, epsilon))

    def worst_correct(self, epsilon: float) -> BoolArray:
        """Whether each image, (N,), withstands every attack at an epsilon of the grid."""
        self._position(epsilon)
        correct = self.clean_correct
        for name in self.broken_at:
            correct = correct & self.correct(name, epsilon)
        return correct

    def worst_case(self, epsilon: float) -> Estimate:
        """Share of images that withstand every attack, with its standard error."""
        return _estimate(self.worst_correct(epsilon))

    def minimal_distance(self) -> FloatArray:
        """Smallest perturbation found for each image, (N,), over all attacks; 0 where clean is wrong, inf if none."""
        start = np.where(self.clean_correct, np.inf, 0.0)
        return np.asarray(np.minimum.reduce([start, *self.distance.values()]))

    def paired_difference(self, other: RobustnessReport, epsilon: float, attack: str | None = None) -> Estimate:
        """Mean difference of accuracy, this minus other, on the images both evaluated.

        The standard error is that of the differences image by image, which is smaller than that of two separate
        accuracies where the networks fail on the same images.

        Args:
            other: report of another network on (some of) the same images.
            epsilon: of both grids.
            attack: name in both reports; None for the worst case over all attacks.

        Raises:
            UserError: where the reports share no image or differ in norm or labels.
        """
        if self.norm != other.norm:
            raise UserError(f"norms differ, {self.norm} and {other.norm}; compare reports of one protocol")
        common, mine, theirs = np.intersect1d(self.indices, other.indices, return_indices=True)
        if not len(common):
            raise UserError("reports have no image in common; evaluate both networks on the same subset")
        if not np.array_equal(self.labels[mine], other.labels[theirs]):
            raise UserError("reports give different labels to the same image numbers; evaluate on the same data set")
        pair = [
            report.worst_correct(epsilon) if attack is None else report.correct(attack, epsilon)
            for report in (self, other)
        ]
        difference = pair[0][mine].astype(np.float64) - pair[1][theirs].astype(np.float64)
        error = float(difference.std(ddof=1) / np.sqrt(len(common))) if len(common) > 1 else float("nan")
        return Estimate(float(difference.mean()), error, len(common))

    def measured(self, measure: str, array: str) -> Estimate:
        """Mean of what a measure found, and its standard error over images; entries that are NaN are left out.

        Raises:
            UserError: for what was not measured.
        """
        if array not in self.measures.get(measure, {}):
            known = [f"{name} {array}" for name, arrays in self.measures.items() for array in arrays]
            raise UserError(f"{measure} {array} was not measured; this report has {', '.join(known) or 'no measures'}")
        values = per_image_means(self.measures[measure][array])
        count = len(values)
        error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
        return Estimate(float(values.mean()) if count else float("nan"), error, count)

    def measured_means(self) -> dict[str, dict[str, Estimate]]:
        """Mean of everything that was measured: measure to array name to estimate."""
        return {
            name: {array: self.measured(name, array) for array in arrays if array != "indices"}
            for name, arrays in self.measures.items()
        }

    def summary(self) -> dict[str, float]:
        """Flat scalars: clean accuracy, robust accuracy by attack and epsilon, worst case, mean CLEVER and measures."""
        result = {"clean_accuracy": self.clean_accuracy}
        for name in self.broken_at:
            for epsilon in self.epsilons:
                key = f"robust_accuracy.{name}.{self.norm}_{epsilon:.4g}"
                result[key] = self.accuracy(name, epsilon).value
        if self.broken_at:
            for epsilon in self.epsilons:
                result[f"worst_case.{self.norm}_{epsilon:.4g}"] = self.worst_case(epsilon).value
        if self.clever is not None and len(self.clever.value):
            result["clever"] = float(self.clever.value.mean())
        for name, means in self.measured_means().items():
            result |= {f"measures.{name}.{array}": mean.value for array, mean in means.items()}
        return result

    def _position(self, epsilon: float) -> int:
        near = np.flatnonzero(np.isclose(self.epsilons, epsilon, rtol=1e-6, atol=0))
        if not len(near):
            grid = ", ".join(f"{value:.4g}" for value in self.epsilons) or "no epsilons"
            raise UserError(f"epsilon {epsilon:.4g} was not evaluated; the grid is {grid}")
        return int(near[0])

    @staticmethod
    def merge(reports: Sequence[RobustnessReport]) -> RobustnessReport:
        """One report from shares of the same evaluation, images in the order of their numbers.

        Raises:
            UserError: where the shares have different settings or contain an image twice.
        """
        merged = concatenate(reports)
        if len(np.unique(merged.indices)) != len(merged.indices):
            raise UserError("shares contain the same image twice; share images out without padding")
        # The examples of a share belong to its lowest image numbers; so do those of the whole.
        shown = [len(report.examples.get("clean", ())) for report in reports]
        owners = np.concatenate([np.sort(r.indices)[:count] for r, count in zip(reports, shown, strict=True)])
        chosen = np.argsort(owners, kind="stable")[: max(shown)]
        scored = np.argsort(merged.clever_indices, kind="stable")[: merged.settings.get("clever_images")]
        merged = replace(
            _take(merged, np.argsort(merged.indices, kind="stable")),
            examples={name: images[chosen] for name, images in merged.examples.items()},
            clever=None if merged.clever is None else merged.clever.take(scored),
            clever_indices=merged.clever_indices[scored],
            measures=order_measures(merged.measures, merged.settings.get("measures", {})),
        )
        return replace(merged, checks=conclude(merged))

    def save(self, directory: Path | str, stem: str) -> Path:
        """Write `stem.json` (settings, summary, checks) and `stem.npz` (arrays); returns the path of the former.

        Each file appears under its name only when it is complete, the JSON file last.
        """
        content = {
            "norm": self.norm,
            "epsilons": list(self.epsilons),
            "images": len(self),
            "attacks": list(self.broken_at),
            "settings": dict(self.settings),
            "summary": self.summary(),
            "checks": [check._asdict() for check in self.checks],
            "clever": None if self.clever is None else dict(self.clever.settings),
            "measures": {
                name: {array: mean._asdict() for array, mean in means.items()}
                for name, means in self.measured_means().items()
            },
            "counts": dict(self.counts),
            "provenance": dict(self.provenance),
        }
        arrays = {name: getattr(self, name) for name in _PLAIN}
        for group in _NAMED:
            arrays |= {f"{group}.{name}": values for name, values in getattr(self, group).items()}
        if self.clever is not None:
            arrays |= {f"clever.{name}": values for name, values in self.clever.arrays().items()}
        for measure, found in self.measures.items():
            arrays |= {f"measures.{measure}.{name}": values for name, values in found.items()}
        return write_pair(Path(directory) / stem, content, arrays)

    @staticmethod
    def load(path: Path | str) -> RobustnessReport:
        """Read a saved report from the path of either file, or of both without the ending.

        Raises:
            UserError: where a file is missing, damaged or of another format.
        """
        content, arrays = read_pair(Path(path))

        def group(name: str) -> dict[str, npt.NDArray[Any]]:
            return {k.removeprefix(f"{name}."): values for k, values in arrays.items() if k.startswith(f"{name}.")}

        try:
            clever = group("clever")
            measures: dict[str, dict[str, npt.NDArray[Any]]] = {}
            for key, values in group("measures").items():
                measure, _, array = key.partition(".")
                measures.setdefault(measure, {})[array] = values
            named: dict[str, Any] = {name: arrays[name] for name in _PLAIN} | {name: group(name) for name in _NAMED}
            return RobustnessReport(
                norm=content["norm"],
                epsilons=tuple(content["epsilons"]),
                clever=CleverScores.from_arrays(clever, content["clever"]) if clever else None,
                measures=measures,
                checks=tuple(Check(**check) for check in content["checks"]),
                settings=content["settings"],
                counts=content["counts"],
                provenance=content.get("provenance", {}),
                **named,
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"report {path} lacks {error}; it was written by other software, evaluate again") from None


def concatenate(reports: Sequence[RobustnessReport]) -> RobustnessReport:
    """One report from several with the same settings, images in the order given.

    Raises:
        UserError: where there is no report, or their settings differ.
    """
    if not reports:
        raise UserError("no reports to merge, got []; give at least one")
    first = reports[0]
    for report in reports[1:]:
        if report.settings != first.settings or report.epsilons != first.epsilons or report.norm != first.norm:
            raise UserError("reports have different settings; merge only shares of one evaluation")

    def join(pick: Callable[[RobustnessReport], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate([pick(report) for report in reports])

    def join_each(pick: Callable[[RobustnessReport], Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
        return {name: np.concatenate([pick(report)[name] for report in reports]) for name in pick(first)}

    scores = [report.clever for report in reports if report.clever is not None]
    counted = {name for report in reports for name in report.counts}
    return replace(
        first,
        indices=join(lambda report: report.indices),
        labels=join(lambda report: report.labels),
        predictions=join(lambda report: report.predictions),
        broken_at=join_each(lambda report: report.broken_at),
        distance=join_each(lambda report: report.distance),
        fooled=join_each(lambda report: report.fooled),
        examples=join_each(lambda report: report.examples),
        clever=CleverScores.concatenate(scores) if scores else None,
        clever_indices=join(lambda report: report.clever_indices),
        measures=concatenate_measures([report.measures for report in reports]),
        checks=merge_checks(report.checks for report in reports),
        counts={name: sum(report.counts.get(name, 0.0) for report in reports) for name in sorted(counted)},
    )


def _take(report: RobustnessReport, rows: npt.NDArray[np.int64]) -> RobustnessReport:
    """The same report with images in another order."""
    return replace(
        report,
        indices=report.indices[rows],
        labels=report.labels[rows],
        predictions=report.predictions[rows],
        broken_at={name: values[rows] for name, values in report.broken_at.items()},
        distance={name: values[rows] for name, values in report.distance.items()},
        fooled={name: values[rows] for name, values in report.fooled.items()},
    )


def _estimate(correct: BoolArray) -> Estimate:
    """Share of true entries with the standard error of a proportion."""
    count = len(correct)
    if not count:
        return Estimate(float("nan"), float("nan"), 0)
    share = float(correct.mean())
    return Estimate(share, float(np.sqrt(share * (1 - share) / count)), count)
