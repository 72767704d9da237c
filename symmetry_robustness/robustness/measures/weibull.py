"""Location of a reverse Weibull distribution by penalised maximum likelihood, for many samples at once."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from scipy.stats import kstwo

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Weight of shape², which keeps the shape from running to infinity, and the smallest Kolmogorov-Smirnov p-value at which
# a fit is believed. Source: clever.py of github.com/IBM/CLEVER-Robustness-Score (method mle_reg).
_PENALTY: Final = 0.01
_BELIEVED: Final = 0.001

# Below this relative spread the maxima are one number with float32 rounding: the gradient is constant.
_CONSTANT: Final = 1e-5

# Distance from the largest maximum to the location, in units of the range of the maxima.
_OFFSETS: Final = np.geomspace(1e-4, 1e3, 57)


class WeibullFit(NamedTuple):
    """Fit of each of T samples; all (T,).

    `location` is the upper end of the distribution, `p_value` that of the Kolmogorov-Smirnov test. `fallback` marks
    fits that were rejected and `degenerate` samples without spread; for both the location is the largest value and the
    shape NaN.
    """

    location: FloatArray
    shape: FloatArray
    scale: FloatArray
    p_value: FloatArray
    fallback: BoolArray
    degenerate: BoolArray


def fit_reverse_weibull(samples: FloatArray) -> WeibullFit:
    """Fit a reverse Weibull distribution to each row of samples (T, n).

    Given the distance between largest value and location, the likelihood has one maximum in the other two parameters,
    so all local maxima are found along a line instead of from several starting shapes; the one with the best p-value
    counts, as in the original. Values are rescaled to [0, 1] first, and a fit with p < 0.001 gives way to the largest
    value. Source: arXiv 1801.10578, sec. 4.1 and the code published with it.

    Args:
        samples: (T, n) maxima, not negative.
    """
    samples = np.asarray(samples, dtype=np.float64)
    count = samples.shape[0]
    largest = samples.max(1)
    spread = largest - samples.min(1)
    degenerate = ~(spread > _CONSTANT * largest)
    nan = np.full(count, np.nan)
    fit = WeibullFit(largest.copy(), nan, nan.copy(), nan.copy(), np.zeros(count, dtype=bool), degenerate)
    usable = np.flatnonzero(~degenerate)
    if not len(usable):
        return fit
    gaps = np.sort((largest[usable, None] - samples[usable]) / spread[usable, None], axis=1)
    owner, offset, shape, scale = _candidates(gaps)
    p_value = _p_value(gaps[owner], offset, shape, scale)
    for row, index in enumerate(usable):
        mine = np.flatnonzero(owner == row)
        best = mine[np.argmax(p_value[mine])]
        fit.p_value[index] = p_value[best]
        if p_value[best] < _BELIEVED:
            fit.fallback[index] = True
        else:
            fit.location[index] = largest[index] + offset[best] * spread[index]
            fit.shape[index], fit.scale[index] = shape[best], scale[best] * spread[index]
    return fit


def _candidates(gaps: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray, FloatArray]:
    """Local maxima of the likelihood along the offset: row of gaps (T, n), offset, shape, scale, each (M,)."""
    height = np.stack([_profile(gaps, np.full(len(gaps), offset))[0] for offset in _OFFSETS], axis=1)
    walled = np.pad(height, ((0, 0), (1, 1)), constant_values=-np.inf)
    peak = (height >= walled[:, :-2]) & (height > walled[:, 2:])
    # At the lower end the likelihood may grow without bound while the shape falls below one; that is no maximum if
    # there is another.
    peak[:, 0] &= peak.sum(1) == 1
    owner, position = np.nonzero(peak)
    low = np.log(_OFFSETS[np.maximum(position - 1, 0)])
    high = np.log(_OFFSETS[np.minimum(position + 1, len(_OFFSETS) - 1)])
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(16):  # golden section: the interval shrinks to 1/2000
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        rising = _profile(gaps[owner], np.exp(left))[0] < _profile(gaps[owner], np.exp(right))[0]
        low, high = np.where(rising, left, low), np.where(rising, high, right)
    offset = np.exp((low + high) / 2)
    _, shape, scale = _profile(gaps[owner], offset)
    return owner, offset, shape, scale


def _profile(gaps: FloatArray, offset: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Largest penalised log-likelihood of gaps (T, n) at offsets (T,), and the shape and scale that reach it."""
    logs = np.log(gaps + offset[:, None])
    count, top, total = gaps.shape[1], logs[:, -1:], logs.sum(1)
    shape = np.pi / np.sqrt(6) / np.maximum(logs.std(1), 1e-12)  # log-Weibull variables have this spread
    for _ in range(8):  # Newton's method on a concave function, kept positive
        weight = np.exp(shape[:, None] * (logs - top))
        weight /= weight.sum(1, keepdims=True)
        mean = (weight * logs).sum(1)
        variance = np.maximum((weight * logs**2).sum(1) - mean**2, 0)
        slope = count / shape + total - count * mean - 2 * _PENALTY * shape
        bend = count / shape**2 + count * variance + 2 * _PENALTY
        shape = np.clip(shape + slope / bend, shape / 3, shape * 3)
    log_scale = (logsumexp(shape[:, None] * logs, axis=1) - np.log(count)) / shape
    height = count * np.log(shape) - count * shape * log_scale + (shape - 1) * total - count - _PENALTY * shape**2
    return height, shape, np.exp(log_scale)


def _p_value(gaps: FloatArray, offset: FloatArray, shape: FloatArray, scale: FloatArray) -> FloatArray:
    """Two-sided Kolmogorov-Smirnov p-value of sorted gaps (T, n) under each fit."""
    count = gaps.shape[1]
    cumulative = -np.expm1(-(((gaps + offset[:, None]) / scale[:, None]) ** shape[:, None]))
    steps = np.arange(count + 1) / count
    distance = np.maximum((steps[1:] - cumulative).max(1), (cumulative - steps[:-1]).max(1))
    return np.asarray(kstwo.sf(distance, count))
