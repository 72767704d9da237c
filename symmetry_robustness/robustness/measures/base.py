"""Measures: settings that are given a network and images, and give arrays with one entry per image."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.attacks.base import plain
from symmetry_robustness.attacks.validation import check_evaluation_mode, check_images, check_labels, predict
from symmetry_robustness.results.plots import plots_to_plain

IntArray = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[Any]]

# Attributes that a measure may have beside its settings and `plots`.
_OPTIONAL: Final = ("title", "means", "headline", "lower_bound", "upper_bound", "proven", "statistics")


class MeasureInputs(NamedTuple):
    """A network and N images (N, C, H, W) with labels (N,), for a measure.

    `indices` (N,) are the numbers of the images in their data set, increasing; with the seed they decide every random
    draw. Of the first `keep` images a measure may return pictures. `notify` takes the number of images that are done.
    `calibration` (n, C, H, W) are clean images that are none of these, for a measure that has to be calibrated.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    indices: IntArray
    seed: int = 0
    batch_size: int = 128
    keep: int = 0
    notify: Callable[[float], None] = lambda done: None
    calibration: Tensor | None = None

    def logits(self, images: Tensor) -> Tensor:
        """The network's logits (n, K) of images (n, C, H, W) in float32, without gradients."""
        return torch.cat([predict(self.network, part) for part in torch.split(images, self.batch_size)])

    def check(self) -> None:
        """Refuse inputs that measures do not work with.

        Raises:
            UserError: for unsuitable images or labels, or a network in training mode.
        """
        check_images(self.images)
        check_labels(self.labels, self.images)
        check_evaluation_mode(self.network)

    def take(self, rows: slice | IntArray) -> "MeasureInputs":
        """The same with some of the images."""
        index = rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.images.device)
        return self._replace(images=self.images[index], labels=self.labels[index], indices=self.indices[rows])

    def batches(self) -> Iterator["MeasureInputs"]:
        """The images a batch at a time; each is reported as done when the next is asked for."""
        for start in range(0, len(self.images), self.batch_size):
            yield self.take(slice(start, start + self.batch_size))
            self.notify(min(start + self.batch_size, len(self.images)))


@runtime_checkable
class Measure(Protocol):
    """Interface of a measure, usually a frozen dataclass of settings.

    Its results for an image depend on the network, the image, its number, the seed and the settings alone.

    Beside these two members a measure may have the attributes `plots` (figures of its arrays, see `results.plots`),
    `title` (in tables), `means` (names of the arrays whose means are reported; without it all), `headline` (the array
    that stands for the measure: its mean has the measure's name in summaries and logs, and may choose a checkpoint),
    `passes` (network passes for each image, by which work is divided), and `lower_bound` or `upper_bound`: the name of
    an array (M,) of lengths in its setting `norm` below which no perturbation, or at which one, changes the prediction.
    `calibration_images` says how many clean images that are not measured it needs, and `statistics` which statistics of
    its arrays are reported beside the means (see `results.detection`); a measure with these has `unattacked()`, the
    same measure with an attack that changes nothing. A lower bound is an estimate unless `proven` is True. Where a
    boolean array `saturated` (M,) holds, an upper bound is none. Images whose gradient is not finite may be
    marked in a boolean array `nonfinite`.
    """

    @property
    def images(self) -> int | None:
        """On how many images, those with the lowest numbers, it is taken; None for all."""
        ...

    def compute(self, inputs: MeasureInputs) -> Arrays:
        """Arrays by name whose first axis is the image; NaN marks what does not apply.

        With an array "indices", numbers of some of the images, the arrays belong to these images alone.
        """
        ...


def describe_measure(measure: Measure) -> dict[str, Any]:
    """A measure as plain values: class, settings, and how its arrays are shown."""
    settings: dict[str, Any] = {}
    if callable(own := getattr(measure, "describe", None)):
        settings = own()
    elif is_dataclass(measure) and not isinstance(measure, type):
        settings = asdict(measure)
    stated = {name: value for name in _OPTIONAL if (value := getattr(measure, name, None)) is not None}
    return {
        "class": type(measure).__name__,
        **{name: plain(value) for name, value in settings.items()},
        "images": measure.images,
        **{name: plain(value) for name, value in stated.items()},
        "plots": plain(plots_to_plain(getattr(measure, "plots", ()))),
    }
