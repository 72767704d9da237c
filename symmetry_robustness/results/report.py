"""Report of an evaluation: arrays with one entry per image, and the numbers that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
import numpy.typing as npt

from symmetry_robustness.errors import UserError
from symmetry_robustness.results.checks import Check, merge_checks
from symmetry_robustness.results.detection import statistic
from symmetry_robustness.results.names import WORST_CASE, measure_key, measure_title, metric_key
from symmetry_robustness.results.plots import Panel, Plot, plots_from_plain
from symmetry_robustness.results.report_files import damaged, read_report, write_report

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
# Arrays of one measure by name, the first axis being the image; "indices" has the numbers of the images.
Arrays = Mapping[str, npt.NDArray[Any]]

# Arrays (N, ...) of a report; the second group is by attack.
_BY_IMAGE: Final = ("indices", "labels", "predictions")
_BY_ATTACK: Final = ("minimal_epsilon", "distance", "fooled", "passes")


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
        minimal_epsilon: attack to (N,) smallest epsilon found at which each image is misclassified; 0 where the clean
            image is, inf if never.
        distance: attack to (N,) norm of the perturbation that did it; 0 and inf likewise.
        fooled: attack to (N, E) whether each image is misclassified at each epsilon, only where the protocol judges
            each epsilon on its own.
        passes: attack to (N,) how often each image went through the network, only of attacks that are driven. A cost,
            which depends on the batch size: room that is left in a batch is used to try larger epsilons ahead.
        examples: attack to adversarial images (k, C, H, W) of the first images, the clean image where none was found;
            "clean" has the clean images.
        measures: measure to array name to (M, ...), the first axis being the image; "indices" (M,) are the numbers of
            these images. An array of images that a `Panel` shows has the first k of them only.
        checks: soundness checks.
        settings: the protocol as plain values.
        counts: what adds up over shards: seconds and gradients spent, zero and non-finite gradients, non-finite logits;
            in a cascade also how many images each attack was given and how many it broke further.
        provenance: what was evaluated (checkpoint, data, software), as plain values.

    Examples:
        >>> rows, broken = np.arange(3), {"pgd": np.array([0.1, 0.2, np.inf])}
        >>> report = RobustnessReport("linf", (0.1, 0.2), rows, rows, rows, minimal_epsilon=broken, distance=broken)
        >>> round(report.accuracy("pgd", 0.1).value, 3)
        0.667
    """

    norm: str
    epsilons: tuple[float, ...]
    indices: IntArray
    labels: IntArray
    predictions: IntArray
    minimal_epsilon: Mapping[str, FloatArray]
    distance: Mapping[str, FloatArray]
    fooled: Mapping[str, BoolArray] = field(default_factory=dict)
    passes: Mapping[str, IntArray] = field(default_factory=dict)
    examples: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    measures: Mapping[str, Arrays] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def broken_at(self) -> Mapping[str, FloatArray]:
        """Alias of `minimal_epsilon`, for one release."""
        return self.minimal_epsilon

    @property
    def clean_correct(self) -> BoolArray:
        """Whether each clean image, (N,), is classified correctly."""
        return np.asarray(self.predictions == self.labels)

    @property
    def clean_accuracy(self) -> float:
        """Share of clean images that are classified correctly."""
        return share_estimate(self.clean_correct).value

    def correct(self, attack: str, epsilon: float) -> BoolArray:
        """Whether each image, (N,), is classified correctly under an attack; epsilon 0 means no attack.

        Raises:
            UserError: for an attack or an epsilon that was not evaluated.
        """
        self._require(attack)
        return self.clean_correct if epsilon == 0 else self.curve(attack)[:, self._position(epsilon)]

    def curve(self, attack: str) -> BoolArray:
        """Whether each image is classified correctly at each epsilon, (N, E); "worst_case" stands for all attacks.

        Raises:
            UserError: for an attack that was not evaluated.
        """
        self._require(attack)
        if attack == WORST_CASE:
            clean = np.repeat(self.clean_correct[:, None], len(self.epsilons), axis=1)
            return np.asarray(np.logical_and.reduce([clean, *map(self.curve, self.minimal_epsilon)]))
        if attack in self.fooled:
            return np.logical_not(self.fooled[attack])
        withstood: BoolArray = self.minimal_epsilon[attack][:, None] > np.asarray(self.epsilons)
        return withstood

    def accuracy(self, attack: str, epsilon: float) -> Estimate:
        """Robust accuracy under one attack, or "worst_case", at one epsilon of the grid, and its standard error."""
        return share_estimate(self.correct(attack, epsilon))

    def worst_case(self, epsilon: float) -> Estimate:
        """Share of images that withstand every attack, with its standard error."""
        return self.accuracy(WORST_CASE, epsilon)

    def broken_by(self, epsilon: float) -> npt.NDArray[np.str_]:
        """Name of the first attack that broke each image, (N,); "clean" where none is needed, "" where none did."""
        curves = {name: self.correct(name, epsilon) for name in self.minimal_epsilon}
        broken = [~self.clean_correct, *(~correct for correct in curves.values())]
        return np.select(broken, ["clean", *curves], default="")

    def minimal_distance(self) -> FloatArray:
        """Smallest perturbation found for each image, (N,), over all attacks; 0 where clean is wrong, inf if none."""
        start = np.where(self.clean_correct, np.inf, 0.0)
        return np.asarray(np.minimum.reduce([start, *self.distance.values()]))

    def per_image(self, measure: str, array: str) -> tuple[IntArray, FloatArray]:
        """Numbers (m,) of the images and a measure's value for each, averaged over further axes without NaN.

        Images for which nothing but NaN was found are left out.

        Raises:
            UserError: for what was not measured.
        """
        statistics = self._measure_settings(measure).get("statistics", {})
        if array not in self.measures.get(measure, {}) and not (measure in self.measures and array in statistics):
            known = [f"{name} {array}" for name, arrays in self.measures.items() for array in arrays]
            raise UserError(f"{measure} {array} was not measured; this report has {', '.join(known) or 'no measures'}")
        arrays = self.measures[measure]
        values = arrays[array] if array in arrays else statistic(statistics[array], arrays)
        flat = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64)  # of 0 images, too
        known_entries = ~np.isnan(flat)
        count = known_entries.sum(1)
        total: FloatArray = np.where(known_entries, flat, 0.0).sum(1)
        indices: IntArray = self.measures[measure]["indices"][: len(values)]
        return indices[count > 0], total[count > 0] / count[count > 0]

    def measured(self, measure: str, array: str) -> Estimate:
        """Mean of a measure's array, and its standard error over images; entries that are NaN are left out.

        Raises:
            UserError: for what was not measured.
        """
        values = self.per_image(measure, array)[1]
        count = len(values)
        error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
        return Estimate(float(values.mean()) if count else float("nan"), error, count)

    def measured_means(self) -> dict[str, dict[str, Estimate]]:
        """Means of the arrays whose means a measure reports: measure to array name to estimate."""
        means = {}
        for name, arrays in self.measures.items():
            pictures = [plot.images for plot in self.plots(name) if isinstance(plot, Panel)]
            reported = self._measure_settings(name).get("means")
            shown = [array for array in arrays if array not in ("indices", *pictures)] if reported is None else reported
            known = [*shown, *self._measure_settings(name).get("statistics", {})]
            means[name] = {array: self.measured(name, array) for array in known}
        return means

    def plots(self, measure: str) -> tuple[Plot, ...]:
        """Figures that a measure declares of its arrays."""
        return plots_from_plain(self._measure_settings(measure).get("plots", ()))

    @property
    def headlines(self) -> dict[str, str]:
        """Titles by name of the measures with a headline; the name is the key of its mean in summaries."""
        summary, measures = self.summary(), {name: self._measure_settings(name) for name in self.measures}
        return {name: measure_title(name, measures) for name in measures if name in summary}

    def summary(self) -> dict[str, float]:
        """Flat scalars: clean accuracy, robust accuracy by attack and epsilon, worst case, means of measures."""
        result = {"clean_accuracy": self.clean_accuracy}
        for name in [*self.minimal_epsilon, *([WORST_CASE] if self.minimal_epsilon else [])]:
            for epsilon in self.epsilons:
                result[metric_key(name, self.norm, epsilon)] = self.accuracy(name, epsilon).value
        for name, means in self.measured_means().items():
            headline = self._measure_settings(name).get("headline")
            result |= {measure_key(name, array, headline): mean.value for array, mean in means.items()}
        return result

    def _require(self, attack: str) -> None:
        if attack not in (WORST_CASE, *self.minimal_epsilon):
            known = ", ".join(self.minimal_epsilon) or "none"
            raise UserError(f"attack {attack!r} was not evaluated; this report has {known}")

    def _measure_settings(self, measure: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.settings.get("measures", {}).get(measure, {})
        return found

    def _position(self, epsilon: float) -> int:
        near = np.flatnonzero(np.isclose(self.epsilons, epsilon, rtol=1e-6, atol=0))
        if not len(near):
            grid = ", ".join(f"{value:.4g}" for value in self.epsilons) or "no epsilons"
            raise UserError(f"epsilon {epsilon:.4g} was not evaluated; the grid is {grid}")
        return int(near[0])

    @staticmethod
    def merge(reports: Sequence[RobustnessReport]) -> RobustnessReport:
        """One report from shards of the same evaluation, images in the order of their numbers.

        Checks are merged by name, the worst counting; those that follow from the numbers of the whole are not computed
        anew.

        Raises:
            UserError: where the shards have different settings or contain an image twice.
        """
        merged = concatenate(reports)
        if len(np.unique(merged.indices)) != len(merged.indices):
            raise UserError("shards contain the same image twice; shard images without padding")
        # The examples of a shard belong to its lowest image numbers; so do those of the whole.
        shown = [len(report.examples.get("clean", ())) for report in reports]
        owners = np.concatenate([np.sort(r.indices)[:count] for r, count in zip(reports, shown, strict=True)])
        chosen = np.argsort(owners, kind="stable")[: max(shown)]
        order = np.argsort(merged.indices, kind="stable")
        limits = {name: merged._measure_settings(name).get("images") for name in merged.measures}
        ordered: dict[str, Any] = {name: getattr(merged, name)[order] for name in _BY_IMAGE}
        for group in _BY_ATTACK:
            ordered[group] = {name: values[order] for name, values in getattr(merged, group).items()}
        return replace(
            merged,
            **ordered,
            examples={name: images[chosen] for name, images in merged.examples.items()},
            measures=join_measures([report.measures for report in reports], limits),
        )

    def save(self, directory: Path | str, stem: str) -> Path:
        """Write `stem.json` (settings, summary, checks) and `stem.npz` (arrays); returns the path of the former.

        Each file appears under its name only when it is complete, the JSON file last.
        """
        content = {
            "norm": self.norm,
            "epsilons": list(self.epsilons),
            "images": len(self),
            "attacks": list(self.minimal_epsilon),
            "settings": dict(self.settings),
            "summary": self.summary(),
            "checks": [check._asdict() for check in self.checks],
            "measures": {
                name: {array: mean._asdict() for array, mean in means.items()}
                for name, means in self.measured_means().items()
            },
            "counts": dict(self.counts),
            "provenance": dict(self.provenance),
        }
        arrays = {name: getattr(self, name) for name in _BY_IMAGE}
        for group in (*_BY_ATTACK, "examples"):
            arrays |= {f"{group}.{name}": values for name, values in getattr(self, group).items()}
        for measure, found in self.measures.items():
            arrays |= {f"measures.{measure}.{name}": values for name, values in found.items()}
        return write_report(Path(directory) / stem, content, arrays)

    @staticmethod
    def load(path: Path | str) -> RobustnessReport:
        """Read a saved report from the path of either file, or of both without the ending.

        Raises:
            UserError: where a file is missing, damaged, of another format, or its summary is not that of its images.
        """
        content, arrays = read_report(Path(path))

        def group(name: str) -> dict[str, npt.NDArray[Any]]:
            return {k.removeprefix(f"{name}."): values for k, values in arrays.items() if k.startswith(f"{name}.")}

        measures: dict[str, dict[str, npt.NDArray[Any]]] = {}
        for key, values in group("measures").items():
            measure, _, array = key.partition(".")
            measures.setdefault(measure, {})[array] = values
        named: dict[str, Any] = {name: arrays[name] for name in _BY_IMAGE}
        # In the order of the JSON file.
        for name in _BY_ATTACK:
            found = group(name)
            named[name] = {attack: found[attack] for attack in content["attacks"] if attack in found}
        report = RobustnessReport(
            norm=content["norm"],
            epsilons=tuple(map(float, content["epsilons"])),
            examples=group("examples"),
            measures=measures,
            checks=tuple(
                Check(check["name"], check["status"], check.get("evidence", "")) for check in content["checks"]
            ),
            settings=content["settings"],
            counts=content.get("counts", {}),
            provenance=content.get("provenance", {}),
            **named,
        )
        report._compare(content["summary"], Path(path))
        return report

    def _compare(self, stated: Mapping[str, float | None], path: Path) -> None:
        """Refuse a summary that does not follow from the arrays.

        Raises:
            UserError: names the first number that differs.
        """
        for name, value in self.summary().items():
            number = stated.get(name, np.inf)
            same = np.isnan(value) if number is None else abs(number - value) <= 1e-6 * max(1.0, abs(value))
            if not same:
                raise damaged(path, f"its summary says {name} {stated.get(name)}, its images {value:.6g}")


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
            raise UserError("reports have different settings; merge only shards of one evaluation")
    joined: dict[str, Any] = {name: np.concatenate([getattr(report, name) for report in reports]) for name in _BY_IMAGE}
    for group in (*_BY_ATTACK, "examples"):
        joined[group] = {
            name: np.concatenate([getattr(report, group)[name] for report in reports]) for name in getattr(first, group)
        }
    counted = {name for report in reports for name in report.counts}
    return replace(
        first,
        **joined,
        measures=join_measures([report.measures for report in reports]),
        checks=merge_checks(report.checks for report in reports),
        counts={name: sum(report.counts.get(name, 0.0) for report in reports) for name in sorted(counted)},
    )


def join_measures(
    parts: Sequence[Mapping[str, Arrays]], limits: Mapping[str, int | None] | None = None
) -> dict[str, Arrays]:
    """Measures of several sets of images as one, images in the order of their numbers.

    Args:
        parts: measures of each set; a set on which something was not measured adds nothing to it.
        limits: measure to how many images are kept at most; of arrays of example images as many as one set has.
    """
    joined: dict[str, Arrays] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        found = [part[name] for part in parts if name in part]
        arrays = {}
        for array in dict.fromkeys(array for one in found for array in one):
            owning = [one for one in found if array in one]  # pictures are of the first images alone
            owners = np.concatenate([one["indices"][: len(one[array])] for one in owning])
            order = np.argsort(owners, kind="stable")
            if limits is not None:
                partial = any(len(one[array]) < len(one["indices"]) for one in owning)
                order = order[: max(len(one[array]) for one in owning) if partial else limits.get(name)]
            arrays[array] = np.concatenate([one[array] for one in owning])[order]
        joined[name] = arrays
    return joined


def share_estimate(correct: BoolArray) -> Estimate:
    """Share of true entries with the standard error of a proportion."""
    count = len(correct)
    if not count:
        return Estimate(float("nan"), float("nan"), 0)
    share = float(correct.mean())
    return Estimate(share, float(np.sqrt(share * (1 - share) / count)), count)
