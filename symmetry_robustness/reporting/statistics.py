"""Intervals over seeds or images, and paired comparisons; what each means stands in docs/reporting.md."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FloatArray = NDArray[np.float64]
LEVEL = 0.95


class Difference(NamedTuple):
    """First minus second, with the interval, the p-value of no difference, and what it rests on."""

    value: float
    low: float
    high: float
    p_value: float
    seeds: int
    images: int
    test: str


def undecided(reason: str, seeds: int = 0) -> Difference:
    """The difference that could not be measured, for a reason."""
    return Difference(np.nan, np.nan, np.nan, np.nan, seeds, 0, reason)


def shares_and_errors(correct: NDArray[np.bool_], originals: NDArray[np.int64] | None) -> tuple[FloatArray, FloatArray]:
    """Shares of true entries in each column, and their standard errors over images.

    Args:
        correct: (N, E).
        originals: (N,) which image each row shows a version of, whose errors are summed before they are squared; None
            where all rows are different images, which is the standard error of a proportion.
    """
    shares = correct.mean(axis=0)
    if originals is None:
        return shares, np.sqrt(shares * (1 - shares) / len(correct))
    sums = _sums(correct - shares, originals)
    return shares, np.sqrt((sums**2).sum(axis=0)) / len(correct)


def mean_and_error(values: FloatArray, originals: NDArray[np.int64] | None) -> tuple[float, float]:
    """Mean of (N,) values and its standard error over images, clustered by the image where some show the same."""
    mean = float(values.mean())
    sums = (values - mean) if originals is None else _sums((values - mean)[:, None], originals)[:, 0]
    count = len(sums)
    if count < 2:
        return mean, float("nan")
    return mean, float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values))


def independent(values: FloatArray, originals: NDArray[np.int64] | None) -> FloatArray:
    """Values (N,), brought to one for each of K independent images, (K,), so that the mean stays the same."""
    if originals is None:
        return values
    sums = _sums(values[:, None], originals)[:, 0]
    return np.asarray(sums * (len(sums) / len(values)))


def _sums(values: FloatArray, originals: NDArray[np.int64]) -> FloatArray:
    """Sums (K, E) of the rows of (N, E) values that belong to the same image."""
    order = np.argsort(originals, kind="stable")
    return np.asarray(np.add.reduceat(values[order], np.unique(originals[order], return_index=True)[1], axis=0))


def seeds_interval(
    mean: ArrayLike, deviation: ArrayLike, seeds: ArrayLike, error: ArrayLike = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Interval of a mean over seeds, for other seeds and other images.

    Its half is the root of the sum of two squares: half of Student's t interval over seeds, and half of the normal one
    over images. Where one of the two does not vary, it is the other's.

    Args:
        mean: over seeds.
        deviation: that of single seeds (ddof 1).
        seeds: how many.
        error: standard error over images, which the seeds have in common, so that more seeds do not lessen it; NaN
            where there is none.
    """
    mean, deviation, seeds, error = (np.asarray(values, dtype=np.float64) for values in (mean, deviation, seeds, error))
    with np.errstate(invalid="ignore", divide="ignore"):
        over_seeds = special.stdtrit(seeds - 1, (1 + LEVEL) / 2) * deviation / np.sqrt(seeds)
        half = np.hypot(over_seeds, special.ndtri((1 + LEVEL) / 2) * np.nan_to_num(error))
    return mean - half, mean + half


def share_interval(share: ArrayLike, error: ArrayLike, images: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval of a share over images.

    Args:
        share: in [0, 1].
        error: its standard error; where images are clustered, the number of images that would have it takes the place
            of their number.
        images: how many.
    """
    share, error, images = (np.asarray(values, dtype=np.float64) for values in (share, error, images))
    with np.errstate(invalid="ignore", divide="ignore"):
        count = np.where(error > 0, share * (1 - share) / error**2, images)
    z = special.ndtri((1 + LEVEL) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # At the ends the formula gives 0 and 1 up to rounding.
    return np.clip(middle - half, 0, share), np.clip(middle + half, share, 1)


def mean_interval(mean: ArrayLike, error: ArrayLike, images: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Student's t interval of a mean over images."""
    mean, error, images = (np.asarray(values, dtype=np.float64) for values in (mean, error, images))
    with np.errstate(invalid="ignore"):
        half = special.stdtrit(images - 1, (1 + LEVEL) / 2) * error
    return mean - half, mean + half


def interval(
    mean: ArrayLike, error: ArrayLike, images: ArrayLike, deviation: ArrayLike, seeds: ArrayLike, is_share: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Interval of means as tables and figures show it: over seeds and images, of one seed over images.

    Args:
        mean: over seeds.
        error: standard error over images; NaN where it is not known.
        images: how many.
        deviation: that of single seeds (ddof 1).
        seeds: how many.
        is_share: whether it is a share of images.
    """
    is_share, several, known = np.asarray(is_share), np.asarray(seeds) > 1, ~np.isnan(np.asarray(error, np.float64))
    of_shares = share_interval(np.where(is_share & known, mean, np.nan), error, images)
    over_seeds, over_images = seeds_interval(mean, deviation, seeds, error), mean_interval(mean, error, images)
    # Seeds that agree by chance say nothing of other images: shares have no narrower interval than for one seed.
    wider = np.fmin(of_shares[0], over_seeds[0]), np.fmax(of_shares[1], over_seeds[1])
    kinds = [several & is_share, several, is_share, known]
    low, high = (np.select(kinds, ends, np.nan) for ends in zip(wider, over_seeds, of_shares, over_images, strict=True))
    return np.where(is_share, low.clip(0, 1), low), np.where(is_share, high.clip(0, 1), high)


def paired_difference(first: FloatArray, second: FloatArray, *, coverage: float = 0.0) -> Difference:
    """Compare two networks on the same images, seed by seed.

    With several seeds: Student's t of the mean difference, with one degree of freedom less than seeds. Its variance is
    that over seeds plus that over images, so that it speaks of other seeds and of other images; taking the smaller
    number of degrees of freedom can only make it more careful. (Source: Mickey and Brown 1966, Ann. Math. Statist. 37.)
    With one seed it speaks of these two trained networks alone: McNemar's exact test of shares, paired t of the rest.

    Args:
        first: (S, N) what was found at each image by each seed, 1 for correct; N independent images.
        second: the same of the other network, at the same images, its seeds in the same order.
        coverage: share of all images there are that were evaluated; what is known of all has no error.
    """
    seeds, images = first.shape
    difference = first - second
    mean = float(difference.mean())
    over_images = float(difference.mean(axis=0).var(ddof=1) / images) * (1 - coverage) if images > 1 else np.nan
    over_seeds = float(difference.mean(axis=1).var(ddof=1) / seeds) if seeds > 1 else 0.0
    error, freedom = float(np.sqrt(over_images + over_seeds)), (seeds if seeds > 1 else images) - 1
    low, high = (float(end) for end in mean_interval(mean, error, freedom + 1))
    test = f"t over {seeds} seeds and their images" if seeds > 1 else "paired t over images"
    p_value = _two_sided(mean, error, freedom)
    if seeds == 1 and np.isin((first, second), (0, 1)).all():
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        p_value, test = min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5))), "McNemar over images"
    return Difference(mean, low, high, p_value, seeds, images, test)


def _two_sided(mean: float, error: float, freedom: int) -> float:
    if np.isnan(error) or freedom < 1:
        return float("nan")
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(freedom, -abs(mean) / error))


def holm(p_values: Sequence[float]) -> FloatArray:
    """p-values adjusted for their number; NaN counts and stays. Source: Holm 1979, Scand. J. Statist. 6."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return adjusted
