"""The measures of a protocol, taken on the images of a report."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from symmetry_robustness.errors import UserError
from symmetry_robustness.precision import float32
from symmetry_robustness.results.plots import Panel
from symmetry_robustness.results.report import Arrays, RobustnessReport
from symmetry_robustness.robustness.attack_batch import Progress, ProgressCallback
from symmetry_robustness.robustness.measures.base import Measure, MeasureInputs
from symmetry_robustness.robustness.protocol import EvaluationProtocol


def add_measures(
    whole: MeasureInputs, protocol: EvaluationProtocol, report: RobustnessReport, progress: ProgressCallback
) -> RobustnessReport:
    """The report with the arrays of the protocol's measures; stages of progress are called `measures.NAME`.

    The network is in evaluation mode and made of modules, since measures may look inside; the images are those of the
    report.

    Raises:
        UserError: for images or a network that a measure refuses, or arrays that do not fit the images.
    """
    measures: dict[str, Arrays] = {}
    for name, measure in protocol.measures.items():
        inputs = whole.take(np.argsort(whole.indices, kind="stable")[: measure.images])
        total = len(inputs.images)
        if not total:
            continue

        def notify(done: float, stage: str = f"measures.{name}", total: int = total) -> None:
            progress(Progress(stage, done, total))

        with float32(whole.images.device):
            found = measure.compute(inputs._replace(notify=notify, keep=min(protocol.keep_examples, total)))
        notify(total)
        if not isinstance(found, Mapping):
            raise UserError(f"measure {name} returned {type(found).__name__}; return arrays by name, as a dictionary")
        measures[name] = {"indices": inputs.indices, **{array: _as_array(value) for array, value in found.items()}}
        _check_arrays(name, measure, measures[name])
    return replace(report, measures=measures)


def _as_array(values: object) -> npt.NDArray[Any]:
    """The values as an array, from whatever device they lie on."""
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _check_arrays(name: str, measure: Measure, found: Arrays) -> None:
    """Refuse arrays that hold no numbers, or do not have one entry for each image.

    Names are let through in arrays whose means are not reported.

    Raises:
        UserError: names the array.
    """
    pictures = [plot.images for plot in getattr(measure, "plots", ()) if isinstance(plot, Panel)]
    total = len(found["indices"])
    means = getattr(measure, "means", None)
    for array, values in found.items():
        named = means is not None and array not in (*means, "indices") and values.dtype.kind == "U"
        if values.dtype.kind not in "biuf" and not named:
            raise UserError(f"measure {name}: {array} is of type {values.dtype}; return real numbers or booleans")
        if array not in pictures and values.shape[:1] != (total,):
            raise UserError(f"measure {name}: {array} has the shape {values.shape}; the first axis must be {total}")
