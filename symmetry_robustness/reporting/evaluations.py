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
    digest,
    evaluation_data,
    has_versions,
    images_per_test_set,
)
from symmetry_robustness.reporting.protocols import describe_protocol, is_released, protocol_name, protocol_settings
from symmetry_robustness.reporting.schema import EvaluationFile, read_checked

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FINAL = "test"  # stem of the evaluation at the end of the run itself
_WORST = ("failed", "warned", "passed")


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
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """All arrays of the npz file."""
        return read_arrays(self.path.with_suffix(".npz"))

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
        states = {check["status"] for check in self.content["checks"]}
        return next((state for state in _WORST if state in states), "")

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
        """Numbers (M,) of the images that CLEVER or a measure was taken of, and what was found, (M,), NaN left out."""
        clever = measure == "clever"
        key, numbers = (
            ("clever.value", "clever_indices")
            if clever
            else (f"measures.{measure}.{array}", f"measures.{measure}.indices")
        )
        values, indices = np.asarray(self.arrays[key], dtype=np.float64), self.arrays[numbers]
        values = values.reshape(len(values), -1)
        known = ~np.isnan(values)
        some = known.any(axis=1)
        means = np.where(known, values, 0).sum(axis=1)[some] / known.sum(axis=1)[some]
        return indices[some], means

    def examples(self) -> Examples:
        """The images that were kept."""
        kept = {name.removeprefix("examples."): found for name, found in self.arrays.items() if name[:9] == "examples."}
        broken_at = {attack: self.arrays[f"broken_at.{attack}"] for attack in self.attacks if attack in kept}
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
def read_arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    """All arrays of an npz file; those of the files that were asked for last are kept."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def read_evaluation(path: Path, data: Mapping[str, Any]) -> Evaluation:
    """Read an evaluation and hold its two files against each other.

    Args:
        path: of the JSON file.
        data: configuration of the data set that the network was trained on.

    Raises:
        ValueError, KeyError, TypeError, OSError, BadZipFile: a file is damaged or says other things than its twin.
    """
    content = read_checked(path, EvaluationFile)
    arrays = read_arrays(path.with_suffix(".npz"))
    indices, clean = arrays["indices"], arrays["predictions"] == arrays["labels"]
    epsilons = np.asarray(content["epsilons"], dtype=np.float64)
    standing = {}
    for attack in content["attacks"]:
        broken_at, fooled = arrays[f"broken_at.{attack}"], arrays.get(f"fooled.{attack}")
        if np.isnan(broken_at).any():
            raise ValueError(f"{path.stem}.npz: broken_at.{attack} holds what is not a number")
        withstood = broken_at[:, None] > epsilons if fooled is None else ~fooled
        if withstood.shape != (len(indices), len(epsilons)):
            raise ValueError(f"{path.stem}.npz: {attack} has results for {len(withstood)} of {len(indices)} images")
        standing[attack] = np.packbits(withstood, axis=1)
    own = content.get("provenance", {}).get("data", data)
    evaluation = Evaluation(path, content, own, indices, clean, standing)
    _check_numbers(evaluation)
    _check_arrays(evaluation, arrays)
    return evaluation


def _check_numbers(evaluation: Evaluation) -> None:
    """Raise ValueError where the summary is not that of the images."""
    content = evaluation.content
    if len({len(evaluation.indices), len(evaluation.clean), int(content["images"])}) > 1:
        raise ValueError(f"{evaluation.path.name} counts {content['images']} images, its npz {len(evaluation.indices)}")
    found = {"clean_accuracy": float(evaluation.clean.mean())}
    for attack in evaluation.attacks:
        shares = evaluation.curve(attack).mean(axis=0)
        for epsilon, share in zip(evaluation.epsilons, shares, strict=True):
            found[f"robust_accuracy.{attack}.{evaluation.norm}_{epsilon:.4g}"] = float(share)
    for name, share in found.items():
        stated = content["summary"][name]
        if stated is None or abs(stated - share) > 1e-6:
            raise ValueError(f"{evaluation.path.name} says {name} {stated}, its images {share}")


def _check_arrays(evaluation: Evaluation, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Try what a report will ask of the arrays; raises where one is missing, or of another shape than it should be."""
    if evaluation.content.get("clever"):
        evaluation.measured("clever")
    for measure, found in evaluation.content.get("measures", {}).items():
        if evaluation.originals is not None:
            for array in found:
                evaluation.measured(measure, array)
    examples = evaluation.examples()
    shapes = {found.shape for found in (examples.clean, *examples.attacked.values())}
    if len(shapes) > 1 or examples.clean.ndim != 4 or examples.clean.shape[1] != 3:
        raise ValueError(f"{evaluation.path.stem}.npz: examples of shapes {', '.join(map(str, sorted(shapes)))}")
    describe_protocol(evaluation.settings)
