"""One evaluation as reports compare it: its report in brief, and the data set that its images are of."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from symmetry_robustness.reporting.comparability import (
    data_title,
    describe_protocol,
    evaluation_data,
    has_versions,
    images_per_test_set,
)
from symmetry_robustness.reporting.statistics import mean_and_error
from symmetry_robustness.results.checks import worst_status
from symmetry_robustness.results.names import digest, is_released, protocol_name, protocol_settings
from symmetry_robustness.results.plots import Curve
from symmetry_robustness.results.report import Estimate, IntArray, RobustnessReport

FINAL = "test"  # name of the evaluation at the end of the run itself


@dataclass(frozen=True)
class Evaluation:
    """A saved report.

    Attributes:
        path: of the JSON file.
        name: `test` for the run's own, otherwise the one given to `symrob evaluate`.
        data: configuration of the data set whose images were evaluated.
        test_images: number of images in each test set; None where it is not known.
        report: without examples, distances and arrays of measures, so that a thousand runs fit into memory.
        means: measure to array name to mean over images; where the split shows images several times, its error is
            clustered by image.
        description: the protocol in a line.
        gaps: what measures declare or measured and no figure or table can show, a sentence each.
    """

    path: Path
    name: str
    data: Mapping[str, Any]
    test_images: int | None
    report: RobustnessReport = field(repr=False)
    means: Mapping[str, Mapping[str, Estimate]] = field(repr=False)
    description: str
    gaps: Sequence[str] = ()

    def whole(self) -> RobustnessReport:
        """The report with all arrays; those that were asked for last are in memory."""
        return load_report(self.path)

    @property
    def split(self) -> str:
        """Split of the images: train, validation or test."""
        return str(self.report.provenance.get("split", "test"))

    @property
    def weights(self) -> str:
        """File of the checkpoint; empty where it is not known (evaluations of early versions)."""
        return "last.ckpt" if self.name == FINAL else str(self.report.provenance.get("file", ""))

    def of_weights(self, file: str) -> "Evaluation":
        """The same with the name that the file of the checkpoint has in its run."""
        return replace(self, report=replace(self.report, provenance={**self.report.provenance, "file": file}))

    @property
    def checkpoint(self) -> str:
        """SHA-256 of the checkpoint's file; empty where it is not known."""
        return str(self.report.provenance.get("checkpoint", ""))

    @property
    def trained(self) -> Mapping[str, Any]:
        """Name, title and seed of the checkpoint's training; empty where they are not known."""
        found = self.report.provenance.get("trained")
        if not isinstance(found, Mapping):
            return {}
        kinds = {"name": str, "title": str, "seed": int}
        return {name: found[name] for name, kind in kinds.items() if isinstance(found.get(name), kind)}

    @property
    def released(self) -> bool:
        """Whether the protocol re-enacts someone's mistakes."""
        return is_released(self.report.settings)

    @property
    def protocol(self) -> str:
        """Name of the protocol: the files' name; for the run's own evaluation the name of its settings, if known."""
        return (protocol_name(self.report.settings) if self.name == FINAL else "") or self.name

    @cached_property
    def comparison_group(self) -> str:
        """Digest of the settings and images that must agree for networks to stand in one table."""
        protocol = digest(protocol_settings(self.report.settings))
        return digest(protocol, evaluation_data(self.data, self.split), self.split, len(self.report))

    @property
    def data_title(self) -> str:
        """Name of the data set, with what is unusual about it."""
        return data_title(self.data)

    @property
    def status(self) -> str:
        """The worst of the soundness checks: passed, warned or failed; empty where none were made."""
        return worst_status(check.status for check in self.report.checks) or ""

    @cached_property
    def images_key(self) -> str:
        """Digest of the images' numbers; where it agrees, networks can be compared image by image."""
        return digest(self.report.indices.tolist())

    @property
    def measures(self) -> Mapping[str, Any]:
        """Settings of the measures, by name."""
        found: Mapping[str, Any] = self.report.settings.get("measures", {})
        return found

    @property
    def lower_bounds(self) -> dict[str, tuple[str, str, str]]:
        """Measures that bound distances from below: name of the mean -> measure, array, norm."""
        return {
            measure_name(measure, array): (measure, array, str(settings.get("norm", self.report.norm)))
            for measure, settings in self.measures.items()
            if (array := settings.get("lower_bound")) and array in self.means.get(measure, {})
        }

    def original_of(self, indices: IntArray) -> IntArray | None:
        """Number of the image that each of these is a version of; None where no image is shown twice."""
        if self.test_images is None or self.split != "test" or not has_versions(self.data):
            return None
        return indices % self.test_images


def load_report(path: Path) -> RobustnessReport:
    """A saved report; those that were asked for last are in memory until their file changes."""
    return _load(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _load(path: Path, changed: int) -> RobustnessReport:
    return RobustnessReport.load(path)


def read_evaluation(path: Path, data: Mapping[str, Any], test_images: int | None, name: str = "") -> Evaluation:
    """Read a report.

    Args:
        path: of the JSON file.
        data: configuration of the data set that the network was trained on, for reports that do not state theirs.
        test_images: number of images in each of its test sets; None where it is not known.
        name: of the evaluation; that of the file if empty.

    Raises:
        UserError: a file is missing, damaged, or contradicts its twin; or it declares plots of an unknown kind.
        KeyError, TypeError, ValueError: the protocol cannot be described.
    """
    whole = load_report(path)
    for measure in whole.measures:
        whole.plots(measure)
    own = whole.provenance.get("data", data)
    if own != data:
        test_images = whole.provenance.get("test_images") or images_per_test_set(own)
    means = whole.measured_means()
    named = {
        name: {**settings, "means": [*means.get(name, ())]}
        for name, settings in whole.settings.get("measures", {}).items()
    }
    settings = {**whole.settings, **({"measures": named} if named else {})}
    brief = replace(whole, distance={}, examples={}, measures={}, settings=settings)
    description = describe_protocol(whole.settings)
    evaluation = Evaluation(
        path, name or path.stem, own, test_images, brief, means, description, [*_gaps(whole, means)]
    )
    if evaluation.original_of(brief.indices) is None:
        return evaluation
    for measure, array in ((measure, array) for measure, found in means.items() for array in found):
        indices, values = whole.per_image(measure, array)
        if len(values):
            error = mean_and_error(values, evaluation.original_of(indices))[1]
            means[measure][array] = means[measure][array]._replace(standard_error=error)
    return evaluation


def _gaps(report: RobustnessReport, means: Mapping[str, Mapping[str, Estimate]]) -> Iterator[str]:
    """Arrays that a measure's curves name and that it did not return, and measures that are NaN for every image."""
    for measure, arrays in report.measures.items():
        curves = (plot for plot in report.plots(measure) if isinstance(plot, Curve))
        named = {name for curve in curves for name in curve.y if not name.endswith("*")}  # * may stand for none
        if missing := sorted(named - set(arrays)):
            yield f"measure {measure} did not return {', '.join(missing)}, which a figure of it needs"
        found = means[measure].values()
        if found and len(arrays["indices"]) and all(np.isnan(mean.value) for mean in found):
            yield f"measure {measure} is NaN for every image"


def measure_name(measure: str, array: str) -> str:
    """Name of a measure's mean in the frame.

    Examples:
        >>> measure_name("removal", "value"), measure_name("symmetry", "turn.correct")
        ('removal', 'symmetry.turn.correct')
    """
    return measure if array == "value" else f"{measure}.{array}"
