"""Each interval and test against scipy's own, or against its definition written out."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from symmetry_robustness.reporting.statistics import (
    holm,
    independent,
    mean_and_error,
    mean_interval,
    paired_difference,
    seeds_interval,
    share_interval,
    shares_and_errors,
)

GENERATOR = np.random.default_rng(0)


def test_the_interval_over_seeds_is_students() -> None:
    values = np.array([0.31, 0.35, 0.30])
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    np.testing.assert_allclose(seeds_interval(values.mean(), values.std(ddof=1), 3), expected)
    np.testing.assert_allclose(seeds_interval(values.mean(), values.std(ddof=1), 3, np.nan), expected)


def test_the_interval_over_seeds_is_that_over_images_where_seeds_agree() -> None:
    np.testing.assert_allclose(seeds_interval(0.3, 0.0, 3, 0.02), stats.norm.interval(0.95, 0.3, 0.02))
    low, high = seeds_interval(0.3, 0.01, 3, 0.02)
    assert high - low > 2 * 1.96 * 0.02


@pytest.mark.parametrize("over_seeds", [0.0, 0.02, 0.1])
def test_equal_networks_are_told_apart_in_one_case_of_twenty_at_most(over_seeds: float) -> None:
    """Chance of seeds and of images: accuracies of seeds vary, and images are as hard for one network as the other."""
    generator, found = np.random.default_rng(1), 0
    for _ in range(1000):
        shares = 0.5 + over_seeds * generator.standard_normal((2, 3, 1))
        first, second = (generator.random((2, 3, 100)) < shares).astype(np.float64)
        found += paired_difference(first, second).p_value <= 0.05
    assert found <= 65  # 50 expected at most, and two deviations


@pytest.mark.parametrize("hits", [0, 1, 37, 63, 64])
def test_the_interval_over_images_is_wilsons(hits: int) -> None:
    share = hits / 64
    expected = stats.binomtest(hits, 64).proportion_ci(0.95, method="wilson")
    found = share_interval(share, np.sqrt(share * (1 - share) / 64), 64)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_interval_of_other_means_is_students() -> None:
    np.testing.assert_allclose(mean_interval(0.3, 0.02, 4), stats.t.interval(0.95, 3, 0.3, 0.02))


def test_versions_of_an_image_count_once() -> None:
    """Five equal copies of each image tell no more than one."""
    correct = GENERATOR.random((200, 3)) < 0.4
    values = GENERATOR.normal(size=200)
    originals = np.tile(np.arange(200), 5)
    shares, errors = shares_and_errors(np.tile(correct, (5, 1)), originals)
    np.testing.assert_allclose(shares, correct.mean(axis=0))
    np.testing.assert_allclose(errors, np.sqrt(shares * (1 - shares) / 200))
    np.testing.assert_allclose(mean_and_error(np.tile(values, 5), originals), (values.mean(), stats.sem(values)))
    np.testing.assert_allclose(mean_and_error(values, None), (values.mean(), stats.sem(values)))


def test_clusters_of_different_sizes_are_those_of_the_definition() -> None:
    originals = GENERATOR.integers(0, 20, 60)
    correct = GENERATOR.random((60, 1)) < 0.5
    share = correct.mean()
    sums = [sum(correct[i, 0] - share for i in range(60) if originals[i] == image) for image in set(originals)]
    _, errors = shares_and_errors(correct, originals)
    np.testing.assert_allclose(errors[0], np.sqrt(sum(s**2 for s in sums)) / 60)
    one_each = independent(correct[:, 0].astype(float), originals)
    assert len(one_each) == len(set(originals))
    np.testing.assert_allclose(one_each.mean(), share)


def test_one_seed_is_mcnemars_exact_test() -> None:
    first, second = GENERATOR.random((1, 300)) < 0.6, GENERATOR.random((1, 300)) < 0.5
    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    found = paired_difference(first.astype(float), second.astype(float))
    np.testing.assert_allclose(found.value, (won - lost) / 300)
    np.testing.assert_allclose(found.p_value, stats.binomtest(won, won + lost).pvalue)
    same = paired_difference(first.astype(float), first.astype(float))
    assert (same.value, same.p_value) == (0, 1)


def test_one_seed_of_other_values_is_a_paired_t_test() -> None:
    first, second = GENERATOR.normal(0.3, 1, (1, 40)), GENERATOR.normal(0, 1, (1, 40))
    found = paired_difference(first, second)
    np.testing.assert_allclose(found.p_value, stats.ttest_rel(first[0], second[0]).pvalue)


def test_seeds_alone_are_a_paired_t_test_over_seeds() -> None:
    """Where all images agree nothing is added for them."""
    first, second = np.array([0.3, 0.5, 0.4]), np.array([0.25, 0.3, 0.4])
    found = paired_difference(np.repeat(first[:, None], 50, 1), np.repeat(second[:, None], 50, 1))
    expected = stats.ttest_rel(first, second)
    np.testing.assert_allclose(found.p_value, expected.pvalue)
    np.testing.assert_allclose((found.low, found.high), expected.confidence_interval())


def test_the_variance_is_that_over_seeds_and_that_over_images() -> None:
    first, second = (GENERATOR.random((2, 3, 80)) < 0.5).astype(float)
    by_seed = [np.mean([first[s, i] - second[s, i] for i in range(80)]) for s in range(3)]
    by_image = [np.mean([first[s, i] - second[s, i] for s in range(3)]) for i in range(80)]
    error = np.sqrt(np.var(by_seed, ddof=1) / 3 + np.var(by_image, ddof=1) / 80)
    found = paired_difference(first, second)
    np.testing.assert_allclose(found.p_value, 2 * stats.t.sf(abs(np.mean(by_seed)) / error, 2))
    known = paired_difference(first, second, coverage=1.0)
    np.testing.assert_allclose(known.p_value, stats.ttest_1samp(by_seed, 0).pvalue)


@pytest.mark.parametrize("over_seeds", [0.0, 0.03, 0.2])
def test_equal_networks_are_rarely_told_apart(over_seeds: float) -> None:
    """Shares that vary over seeds and images, but not between the two networks; at most 5 % of tests may say so."""
    wrong, trials = 0, 400
    for _ in range(trials):
        image = GENERATOR.normal(0, 0.2, 200)
        shares = 0.5 + image + GENERATOR.normal(0, over_seeds, (2, 3, 1))
        first, second = (GENERATOR.random((2, 3, 200)) < shares).astype(float)
        wrong += paired_difference(first, second).p_value <= 0.05
    assert wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_holm_is_the_closure_of_bonferroni() -> None:
    """A hypothesis falls where Bonferroni's test falls for every set that holds it."""
    values = np.array([0.04, 0.001, 0.02, 0.5, 0.021])
    sets = [chosen for size in range(1, 6) for chosen in combinations(range(5), size)]
    expected = [max(min(1, len(s) * min(values[list(s)])) for s in sets if index in s) for index in range(5)]
    np.testing.assert_allclose(holm(values), expected)


def test_a_comparison_that_could_not_be_made_counts_and_stays_open() -> None:
    adjusted = holm([0.02, float("nan")])
    assert adjusted[0] == pytest.approx(0.04)
    assert np.isnan(adjusted[1])
