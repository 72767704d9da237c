"""Measures: settings that are called with a network and images, and give arrays with one entry per image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
# What a measure found, by name, the first axis being the image. In a report "indices" has the numbers of the images.
Arrays = Mapping[str, npt.NDArray[Any]]
Measures = Mapping[str, Arrays]


class Subject(NamedTuple):
    """What is measured: a network at N images (N, C, H, W) with labels (N,).

    `numbers` (N,) are those of the images in their data set; with the seed they decide every random draw. `notify`
    takes the number of images that are done.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    numbers: IntArray
    seed: int = 0
    batch_size: int = 128
    notify: Callable[[int], None] = lambda done: None

    def take(self, rows: slice | IntArray) -> "Subject":
        """The same with some of the images."""
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.images.device)
        return self._replace(images=self.images[index], labels=self.labels[index], numbers=self.numbers[rows])

    def batches(self) -> Iterator["Subject"]:
        """The images a batch at a time; each is reported as done when the next is asked for."""
        for start in range(0, len(self.images), self.batch_size):
            yield self.take(slice(start, start + self.batch_size))
            self.notify(min(start + self.batch_size, len(self.images)))


@runtime_checkable
class Measure(Protocol):
    """What the evaluator calls; a frozen dataclass of settings.

    What it finds about an image depends on the network, the image, its number, the seed and the settings alone.
    """

    @property
    def images(self) -> int | None:
        """On how many images, those with the lowest numbers, it is taken; None for all."""
        ...

    def __call__(self, subject: Subject) -> Arrays:
        """Arrays by name whose first axis is the image; NaN marks what does not apply."""
        ...


def lowest(numbers: IntArray, count: int | None) -> IntArray:
    """Rows of the `count` lowest numbers, in the order of the rows; all rows for None."""
    return np.sort(np.argsort(numbers, kind="stable")[:count])


def concatenate_measures(parts: Sequence[Measures]) -> dict[str, Arrays]:
    """Measures of several sets of images as one; a set on which something was not measured adds nothing to it."""
    names = dict.fromkeys(name for part in parts for name in part)
    joined: dict[str, Arrays] = {}
    for name in names:
        found = [part[name] for part in parts if name in part]
        joined[name] = {array: np.concatenate([arrays[array] for arrays in found]) for array in found[0]}
    return joined


def order_measures(measures: Measures, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Arrays]:
    """Each measure's images in the order of their numbers, no more of them than its settings say."""
    ordered: dict[str, Arrays] = {}
    for name, arrays in measures.items():
        rows = np.argsort(arrays["indices"], kind="stable")[: settings[name]["images"]]
        ordered[name] = {array: values[rows] for array, values in arrays.items()}
    return ordered


def per_image_means(values: npt.NDArray[Any]) -> FloatArray:
    """Mean over all axes but the first, without entries that are NaN; images of which nothing is left are left out."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    known = ~np.isnan(flat)
    count = known.sum(1)
    total: FloatArray = np.where(known, flat, 0.0).sum(1)
    means: FloatArray = total[count > 0] / count[count > 0]
    return means
