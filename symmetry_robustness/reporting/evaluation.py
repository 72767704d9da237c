"""One evaluation as reports compare it: its report in brief, its data set, and its images as bits."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from symmetry_robustness.reporting.comparability import (
    data_title,
    describe_protocol,
    evaluation_data,
    has_versions,
    images_per_test_set,
)
from symmetry_robustness.reporting.statistics import mean_and_error
from symmetry_robustness.results.checks import Check, worst_status
from symmetry_robustness.results.names import WORST_CASE, digest, is_released, protocol_name, protocol_settings
from symmetry_robustness.results.report import BoolArray, Estimate, FloatArray, IntArray, RobustnessReport

FINAL = "test"  # name of the evaluation at the end of the run itself


class Examples(NamedTuple):
    """The example images of a report, k of the evaluated ones.

    Attributes:
        numbers: (k,) of the images in their split.
        clean: (k, 3, H, W); of length 0 where no examples were saved.
        attacked: attack -> (k, 3, H, W) adversarial images, those attacks first that broke most of all images.
        broken_at: attack -> (k,) at which epsilon.
    """

    numbers: IntArray
    clean: NDArray[np.float32]
    attacked: dict[str, NDArray[np.float32]]
    broken_at: dict[str, FloatArray]


@dataclass(frozen=True)
class Evaluation:
    """A saved report, without its larger arrays: a thousand runs fit into memory.

    Attributes:
        path: of the JSON file.
        data: configuration of the data set whose images were evaluated.
        norm: of the threat.
        epsilons: the grid, increasing, pixel units.
        settings: the protocol as plain values.
        provenance: of the evaluation as plain values.
        checks: soundness checks.
        means: measure to array name to mean over images; where the split shows images several times, its error is
            clustered by image.
        indices: (N,) numbers of the images in their split.
        clean: (N,) whether each is classified correctly without attack.
        robust_bits: attack to (N, ⌈E/8⌉) bits: whether each image is classified correctly at each epsilon.
        description: the protocol in a line.
        test_images: number of images in each test set; None where it is not known.
        name: `test` for the run's own, otherwise the one given to `symrob evaluate`.
    """

    path: Path
    data: Mapping[str, Any]
    norm: str
    epsilons: tuple[float, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    checks: tuple[Check, ...]
    means: Mapping[str, Mapping[str, Estimate]] = field(repr=False)
    indices: IntArray = field(repr=False)
    clean: BoolArray = field(repr=False)
    robust_bits: Mapping[str, NDArray[np.uint8]] = field(repr=False)
    description: str
    test_images: int | None
    name: str

    @property
    def report(self) -> RobustnessReport:
        """The whole report; those that were asked for last are in memory."""
        return load_report(self.path)

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks."""
        return list(self.robust_bits)

    @property
    def split(self) -> str:
        """Split of the images: train, validation or test."""
        return str(self.provenance.get("split", "test"))

    @property
    def weights(self) -> str:
        """File of the checkpoint; empty where it is not known (evaluations of early versions)."""
        return "last.ckpt" if self.name == FINAL else str(self.provenance.get("file", ""))

    @property
    def released(self) -> bool:
        """Whether the protocol re-enacts someone's mistakes."""
        return is_released(self.settings)

    @property
    def protocol(self) -> str:
        """Name of the protocol: the files' name; for the run's own evaluation the name of its settings, if known."""
        return (protocol_name(self.settings) if self.name == FINAL else "") or self.name

    @cached_property
    def comparison_group(self) -> str:
        """Digest of the settings and images that must agree for networks to stand in one table."""
        protocol = digest(protocol_settings(self.settings))
        return digest(protocol, evaluation_data(self.data, self.split), self.split, len(self.indices))

    @property
    def data_title(self) -> str:
        """Name of the data set, with what is unusual about it."""
        return data_title(self.data)

    @property
    def status(self) -> str:
        """The worst of the soundness checks: passed, warned or failed; empty where none were made."""
        return worst_status(check.status for check in self.checks) or ""

    @cached_property
    def images_key(self) -> str:
        """Digest of the images' numbers; where it agrees, networks can be compared image by image."""
        return digest(self.indices.tolist())

    @property
    def lower_bounds(self) -> dict[str, tuple[str, str, str]]:
        """Measures that bound distances from below: name of the mean -> measure, array, norm."""
        return {
            measure_name(measure, array): (measure, array, str(settings.get("norm", self.norm)))
            for measure, settings in self.settings.get("measures", {}).items()
            if (array := settings.get("lower_bound")) and array in self.means.get(measure, {})
        }

    def correct(self, attack: str | None = None, position: int = 0) -> BoolArray:
        """Whether each image, (N,), is classified correctly: clean, or under an attack at a position of the grid."""
        return self.clean if attack is None else self.curve(attack)[:, position]

    def curve(self, attack: str) -> BoolArray:
        """Whether each image is classified correctly at each epsilon, (N, E); `worst_case` stands for all attacks."""
        names = self.attacks if attack == WORST_CASE else [attack]
        bits = np.bitwise_and.reduce([self.robust_bits[name] for name in names])
        robust: BoolArray = np.unpackbits(bits, axis=1, count=len(self.epsilons)).astype(np.bool_)
        return robust & self.clean[:, None] if attack == WORST_CASE else robust

    def examples(self) -> Examples:
        """The example images of the report."""
        report = self.report
        clean = report.examples.get("clean", np.zeros((0, 3, 1, 1), np.float32))
        rows = np.argsort(report.indices, kind="stable")[: len(clean)]
        broken_at = {name: report.minimal_epsilon[name] for name in self.attacks if name in report.examples}
        strongest = sorted(broken_at, key=lambda attack: -int(np.isfinite(broken_at[attack]).sum()))
        return Examples(
            report.indices[rows],
            clean,
            {attack: report.examples[attack] for attack in strongest},
            {attack: broken_at[attack][rows] for attack in strongest},
        )

    @cached_property
    def originals(self) -> IntArray | None:
        """(N,) number of the image that each is a version of, where the test sets show images several times."""
        return self.original_of(self.indices)

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
        description: the protocol in a line.
        test_images: number of images in each of its test sets; None where it is not known.
        name: of the evaluation; that of the file if empty.

    Raises:
        UserError: a file is missing, damaged, or contradicts its twin; or it declares plots of an unknown kind.
        KeyError, TypeError, ValueError: the protocol cannot be described.
    """
    report = load_report(path)
    for measure in report.measures:
        report.plots(measure)
    own = report.provenance.get("data", data)
    if own != data:
        test_images = report.provenance.get("test_images") or images_per_test_set(own)
    robust_bits = {attack: np.packbits(report.curve(attack), axis=1) for attack in report.minimal_epsilon}
    about = (path, own, report.norm, report.epsilons, report.settings, report.provenance, report.checks)
    images = (report.indices, report.clean_correct, robust_bits)
    shown = (describe_protocol(report.settings), test_images, name or path.stem)
    evaluation = Evaluation(*about, report.measured_means(), *images, *shown)
    return evaluation if evaluation.originals is None else replace(evaluation, means=_clustered_means(evaluation))


def _clustered_means(evaluation: Evaluation) -> dict[str, dict[str, Estimate]]:
    """Means of measures with errors that count versions of one image as one."""
    clustered: dict[str, dict[str, Estimate]] = {}
    for measure, means in evaluation.means.items():
        for array, mean in means.items():
            indices, values = evaluation.report.per_image(measure, array)
            if mean.images:
                mean = Estimate(*mean_and_error(values, evaluation.original_of(indices)), mean.images)
            clustered.setdefault(measure, {})[array] = mean
    return clustered


def measure_name(measure: str, array: str) -> str:
    """Name of a measure's mean in the frame.

    Examples:
        >>> measure_name("clever", "value"), measure_name("symmetry", "turn.correct")
        ('clever', 'symmetry.turn.correct')
    """
    return measure if array == "value" else f"{measure}.{array}"
