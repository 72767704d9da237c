"""The two files of one evaluation: its settings, and for each image whether the network withstood."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from symmetry_robustness.reporting.comparability import (
    data_title,
    evaluation_data,
    has_versions,
    images_per_test_set,
)
from symmetry_robustness.reporting.protocols import describe_protocol
from symmetry_robustness.results.checks import worst_status
from symmetry_robustness.results.files import read_content
from symmetry_robustness.results.names import digest, is_released, protocol_name, protocol_settings
from symmetry_robustness.results.report import RobustnessReport

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FINAL = "test"  # stem of the evaluation at the end of the run itself


class Examples(NamedTuple):
    """The images that were kept, k of the evaluated ones.

    Attributes:
        numbers: (k,) of the images in their split.
        clean: (k, 3, H, W) as they are; without any where none were kept.
        attacked: attack -> (k, 3, H, W) what became of them, those attacks first that broke most of all images.
        broken_at: attack -> (k,) at which epsilon.
    """

    numbers: IntArray
    clean: NDArray[np.float32]
    attacked: dict[str, NDArray[np.float32]]
    broken_at: dict[str, FloatArray]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found, image by image.

    Attributes:
        path: of the JSON file.
        content: what stands in it.
        data: configuration of the data set whose images were evaluated.
        indices: (N,) numbers of the images in their split.
        clean: (N,) whether each is classified correctly without attack.
        standing: attack to (N, ⌈E/8⌉) bits: whether each image is classified correctly at each epsilon.
    """

    path: Path
    content: dict[str, Any]
    data: Mapping[str, Any]
    indices: IntArray
    clean: BoolArray
    standing: dict[str, NDArray[np.uint8]]

    @property
    def stem(self) -> str:
        """Name of the files: `test`, or the one given to `symrob evaluate`."""
        return self.path.stem

    @property
    def report(self) -> RobustnessReport:
        """The report with all of its arrays."""
        return load_report(self.path)

    @property
    def norm(self) -> str:
        """Of the threat."""
        return str(self.content["norm"])

    @property
    def epsilons(self) -> list[float]:
        """The grid, increasing, in pixel units."""
        return [float(epsilon) for epsilon in self.content["epsilons"]]

    @property
    def attacks(self) -> list[str]:
        """Their names."""
        return list(self.standing)

    @property
    def settings(self) -> dict[str, Any]:
        """The protocol, as plain values."""
        return dict(self.content["settings"])

    @property
    def split(self) -> str:
        """Which images: train, validation or test."""
        return str(self.content.get("provenance", {}).get("split", "test"))

    @property
    def weights(self) -> str:
        """Which checkpoint; empty where it is not known (evaluations of early versions)."""
        return "last.ckpt" if self.stem == FINAL else str(self.content.get("provenance", {}).get("file", ""))

    @property
    def released(self) -> bool:
        """Whether the protocol re-enacts someone's mistakes."""
        return is_released(self.settings)

    @property
    def protocol(self) -> str:
        """Name of the protocol: the files' stem, for the run's own evaluation what its settings are known as."""
        return (protocol_name(self.settings) if self.stem == FINAL else "") or self.stem

    @cached_property
    def protocol_key(self) -> str:
        """Digest of all of the protocol that decides a number."""
        return digest(protocol_settings(self.settings))

    @cached_property
    def section(self) -> str:
        """Digest of what must agree for numbers of several networks to stand in one table."""
        return digest(self.protocol_key, evaluation_data(self.data, self.split), self.split, len(self.indices))

    @property
    def data_title(self) -> str:
        """Name of the data set, with what is unusual about it."""
        return data_title(self.data)

    @property
    def checks(self) -> str:
        """The worst of the soundness checks: passed, warned or failed; empty where none were made."""
        return worst_status(check["status"] for check in self.content["checks"]) or ""

    @cached_property
    def images_key(self) -> str:
        """Digest of which images they are; where it agrees, networks can be compared image by image."""
        return digest(self.indices.tolist())

    def correct(self, attack: str | None = None, position: int = 0) -> BoolArray:
        """Whether each image, (N,), is classified correctly: clean, or under an attack at a position of the grid.

        The attack `worst_case` stands for all of them.
        """
        if attack is None:
            return self.clean
        names = self.attacks if attack == "worst_case" else [attack]
        byte, bit = divmod(position, 8)
        found = np.bitwise_and.reduce([self.standing[name][:, byte] for name in names])
        standing: BoolArray = (found >> (7 - bit)) & 1 == 1
        return standing & self.clean if attack == "worst_case" else standing

    def curve(self, attack: str) -> BoolArray:
        """Whether each image is classified correctly at each epsilon, (N, E)."""
        names = self.attacks if attack == "worst_case" else [attack]
        bits = np.bitwise_and.reduce([self.standing[name] for name in names])
        standing: BoolArray = np.unpackbits(bits, axis=1, count=len(self.epsilons)).astype(np.bool_)
        return standing & self.clean[:, None] if attack == "worst_case" else standing

    def measured(self, measure: str, array: str = "value") -> tuple[IntArray, FloatArray]:
        """Numbers (M,) of the images that a measure was taken of, and its values, (M,), NaN left out."""
        return self.report.per_image(measure, array)

    def examples(self) -> Examples:
        """The images that were kept."""
        kept, report = self.report.examples, self.report
        broken_at = {attack: report.minimal_epsilon[attack] for attack in self.attacks if attack in kept}
        clean = kept.get("clean", np.zeros((0, 3, 1, 1), np.float32))
        rows = np.argsort(self.indices, kind="stable")[: len(clean)]
        strongest = sorted(broken_at, key=lambda attack: -int(np.isfinite(broken_at[attack]).sum()))
        return Examples(
            self.indices[rows],
            clean,
            {attack: kept[attack] for attack in strongest},
            {attack: broken_at[attack][rows] for attack in strongest},
        )

    @cached_property
    def originals(self) -> IntArray | None:
        """(N,) which image each is a version of, where the test sets show the same images several times."""
        return self.original_of(self.indices)

    def original_of(self, indices: IntArray) -> IntArray | None:
        """Which image each of these numbers is a version of; None where no image is shown twice."""
        size = images_per_test_set(self.data) if self.split == "test" and has_versions(self.data) else None
        return None if size is None else indices % size


@functools.lru_cache(maxsize=16)
def load_report(path: Path) -> RobustnessReport:
    """The report of a JSON file; those that were asked for last are cached."""
    return RobustnessReport.load(path)


def read_evaluation(path: Path, data: Mapping[str, Any]) -> Evaluation:
    """Read an evaluation, whose two files must agree.

    Args:
        path: of the JSON file.
        data: configuration of the data set that the network was trained on.

    Raises:
        UserError: a file is damaged or contradicts its twin.
        ValueError, KeyError, TypeError: settings that cannot be described.
    """
    load_report.cache_clear()  # the files may be others than before
    report, content = load_report(path), read_content(path)
    if not len(report):
        raise ValueError(f"{path.name} is of no images")
    own = content.get("provenance", {}).get("data", data)
    standing = {attack: np.packbits(report.curve(attack), axis=1) for attack in content["attacks"]}
    evaluation = Evaluation(path, content, own, report.indices, report.clean_correct, standing)
    if evaluation.examples().clean.shape[1] != 3:
        raise ValueError(f"{path.stem}.npz: examples have no 3 channels")
    describe_protocol(evaluation.settings)
    return evaluation
