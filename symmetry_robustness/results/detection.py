"""Statistics of a detector's scores, each as one value per image, so that a mean over images is the statistic."""

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from symmetry_robustness.errors import UserError

FloatArray = npt.NDArray[np.float64]


def placement(positive: FloatArray, negative: FloatArray) -> FloatArray:
    """Share of the negative scores, of which there is one at least, below each positive score; ties count a half.

    The mean over positive scores is the area under the receiver operating characteristic. Source: DeLong et al. 1988.

    Examples:
        >>> placement(np.array([1.0, 3.0]), np.array([0.0, 1.0])).tolist()
        [0.75, 1.0]
    """
    ordered = np.sort(negative)
    below, upto = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    return np.asarray((below + upto) / (2 * len(ordered)), dtype=np.float64)


def threshold_at(positive: FloatArray, rate: float) -> float:
    """Largest threshold that a share of the positive scores reaches.

    Examples:
        >>> threshold_at(np.arange(100.0), 0.95)
        5.0
    """
    return float(np.sort(positive)[::-1][math.ceil(rate * len(positive)) - 1])


def _auroc(positive: FloatArray, negative: FloatArray, settings: Mapping[str, Any]) -> FloatArray:
    """The area plus what each image adds to it as a positive and as a negative one.

    The mean is the area, and the standard error of the mean that of the area, since it counts the chance in the choice
    of both kinds, and that both scores of an image belong together. Source: Obuchowski 1997 (doi 10.2307/2533958),
    with each image as a cluster.
    """
    known, others = ~np.isnan(positive), ~np.isnan(negative)
    values = np.full(len(positive), np.nan)
    if known.any() and others.any():
        above = placement(positive[known], negative[others])
        below = 1 - placement(negative[others], positive[known])
        area, images = above.mean(), np.count_nonzero(known | others)
        values[known | others] = area
        values[known] += images / len(above) * (above - area)
        values[others] += images / len(below) * (below - area)
    return values


def _fpr_at_tpr(positive: FloatArray, negative: FloatArray, settings: Mapping[str, Any]) -> FloatArray:
    """Whether each negative image reaches the threshold that finds a share, `rate`, of the positive ones.

    The threshold is taken as given: its own chance is in no interval.
    """
    known, others = ~np.isnan(negative), positive[~np.isnan(positive)]
    values = np.full(len(negative), np.nan)
    if known.any() and len(others):
        values[known] = negative[known] >= threshold_at(others, float(settings.get("rate", 0.95)))
    return values


_KINDS: Final = {"auroc": _auroc, "fpr_at_tpr": _fpr_at_tpr}


def sources_of(statistics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the arrays of which statistics are derived.

    Raises:
        UserError: for a statistic of an unknown kind, or without names of arrays.
    """
    for name, settings in statistics.items():
        if settings.get("kind") not in _KINDS or not {"positive", "negative"} <= settings.keys():
            kinds = " or ".join(_KINDS)
            raise UserError(f"statistic {name} is {dict(settings)}; it needs the kind {kinds}, positive and negative")
    names = [settings.get(part) for settings in statistics.values() for part in ("positive", "negative", "among")]
    return list(dict.fromkeys(name for name in names if name))


def statistic(settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> FloatArray:
    """One value for each image, (M,), whose mean without NaN is the statistic.

    Args:
        settings: `kind`, "auroc" or "fpr_at_tpr" (with `rate`); `positive` and `negative`, names of scores (M,);
            `among`, the name of a boolean array (M,) of the images whose positive score counts.
        arrays: of the measure.
    """
    positive, negative = (np.asarray(arrays[settings[name]], dtype=np.float64) for name in ("positive", "negative"))
    if settings.get("among"):
        positive = np.where(np.asarray(arrays[settings["among"]], dtype=bool), positive, np.nan)
    return _KINDS[settings["kind"]](positive, negative, settings)
