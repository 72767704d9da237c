"""Soundness checks that follow from the numbers of a report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from symmetry_robustness.attacks.base import AttackCall, as_attack
from symmetry_robustness.attacks.threat import TOLERANCE
from symmetry_robustness.results.checks import Check, merge_checks
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness.checks.detection import false_positive_rates
from symmetry_robustness.robustness.checks.gradients import finite_gradients, zero_gradients
from symmetry_robustness.robustness.checks.setup import several_classes


def add_derived_checks(report: RobustnessReport, attacks: Mapping[str, AttackCall]) -> RobustnessReport:
    """The report with the checks that follow from its numbers, computed for the whole instead of for shards.

    Args:
        report: of all images.
        attacks: those of its protocol, by name.
    """
    counts, total = report.counts, len(report)
    passes = sum(count for name, count in counts.items() if name.startswith("gradients."))
    unbounded = np.concatenate(
        [np.zeros(0), *(found["nonfinite"] for found in report.measures.values() if "nonfinite" in found)]
    )
    correct = {name: report.curve(name) for name in report.minimal_epsilon}
    single = {name: values for name, values in correct.items() if as_attack(attacks[name]).steps == 1}
    iterative = {name: values for name, values in correct.items() if name not in single}
    derived: list[Check | None] = [
        finite_logits(int(counts.get("nonfinite_logits", 0)), total),
        finite_gradients(int(counts.get("nonfinite_gradients", 0) + unbounded.sum()), int(passes) + len(unbounded)),
        zero_gradients(int(counts.get("zero_gradients", 0)), int(report.clean_correct.sum())),
        several_classes(report.labels),
        clean_accuracy(report.labels, report.predictions, report.settings.get("expected_clean_accuracy")),
    ]
    if correct and total:
        derived.append(falls_with_epsilon({name: values.mean(0).tolist() for name, values in correct.items()}))
        derived.append(iterative_at_least_single(single, iterative))
    derived += _bounds_checks(report)
    derived += merge_checks([false_positive_rates(report)])
    derived.append(measures_defined(report))
    fresh = {check.name: check for check in derived if check is not None}
    others = [check for check in report.checks if check.name not in fresh]
    return replace(report, checks=(*others, *fresh.values()))


def measures_defined(report: RobustnessReport) -> Check | None:
    """Each mean that a measure reports has a number for some image; NaN marks what does not apply to one.

    None where there are no measures.
    """
    means = [
        (f"{name}.{array}", mean) for name, found in report.measured_means().items() for array, mean in found.items()
    ]
    judged = bool(report.clean_correct.any())  # many measures apply to correctly classified images only
    empty = [name for name, mean in means if judged and math.isnan(mean.value)]
    if not means:
        return None
    evidence = f"{len(means) - len(empty)} of {len(means)} means of measures are numbers"
    detail = f"; NaN for all images: {', '.join(empty)}" if empty else ""
    return Check.judged("measures_defined", evidence + detail, warned=bool(empty))


def _bounds_checks(report: RobustnessReport) -> Iterator[Check]:
    """Compare lower bounds, proven ones and estimates, with the shortest changes found in their norm."""
    described = report.settings.get("measures", {})
    for proven, check in ((True, certificates_below_distance), (False, bounds_below_distance)):
        exceeding = total = 0
        for name, settings in described.items():
            if settings.get("lower_bound") is None or name not in report.measures:
                continue
            if bool(settings.get("proven")) is not proven:
                continue
            found, shortest = report.measures[name], _shortest_changes(report, settings.get("norm"))
            _, rows, bounded = np.intersect1d(report.indices, found["indices"], return_indices=True)
            distance, value = shortest[rows], found[settings["lower_bound"]][bounded]
            known = np.isfinite(distance) & (distance > 0)
            exceeding, total = exceeding + int((value > distance)[known].sum()), total + int(known.sum())
        if total:
            yield check(exceeding, total)


def _shortest_changes(report: RobustnessReport, norm: str | None) -> npt.NDArray[np.float64]:
    """Length, (N,), of the shortest change found in a norm; inf where there is none."""
    shortest = report.minimal_distance() if report.norm == norm else np.full(len(report), np.inf)
    for name, settings in report.settings.get("measures", {}).items():
        if settings.get("upper_bound") is not None and settings.get("norm") == norm and name in report.measures:
            found = report.measures[name]
            _, rows, measured = np.intersect1d(report.indices, found["indices"], return_indices=True)
            saturated = found.get("saturated", np.zeros(len(found["indices"]), dtype=bool))
            distance = np.where(saturated, np.inf, found[settings["upper_bound"]])[measured]
            shortest[rows] = np.minimum(shortest[rows], distance)
    return shortest


def finite_logits(broken: int, total: int) -> Check:
    """Logits of clean images are finite; images whose logits are not count as misclassified."""
    return Check.judged("finite_logits", f"{broken} of {total} images have non-finite logits", failed=broken > 0)


def inside_ball(violations: Sequence[str]) -> Check:
    """Images that attacks returned lie in the ball and in the bounds; those outside did not count as broken."""
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        return Check("inside_ball", "failed", violations[0] + more)
    return Check("inside_ball", "passed", f"no perturbation leaves ball or bounds by more than {TOLERANCE:g}")


def falls_with_epsilon(curves: Mapping[str, Sequence[float]]) -> Check:
    """Robust accuracy does not rise with epsilon. Source: arXiv 1902.06705, sec. 5."""
    rising = [name for name, curve in curves.items() if np.any(np.diff(curve) > 1e-12)]
    if rising:
        return Check("falls_with_epsilon", "failed", f"accuracy rises with epsilon under {', '.join(rising)}")
    return Check("falls_with_epsilon", "passed", "robust accuracy never rises with epsilon")


def iterative_at_least_single(
    single: Mapping[str, npt.NDArray[np.bool_]], iterative: Mapping[str, npt.NDArray[np.bool_]]
) -> Check | None:
    """Attacks of many steps break at least as many images as those of one. Source: arXiv 1802.00420, sec. 3.1.

    Both map the attack's name to whether each image is correct at each epsilon, (N, E).
    """
    if not single or not iterative:
        return None
    one, many = (np.logical_and.reduce([*attacks.values()]) for attacks in (single, iterative))
    total = max(len(one), 1)
    only_one, only_many = (many & ~one).sum(0), (one & ~many).sum(0)  # images that only the one or the other breaks
    excess = only_one - only_many
    gap = int(excess.max(initial=0))
    # Two standard errors of that difference, and of one of proportions at its widest.
    beyond = bool((excess > 2 * np.sqrt(only_one + only_many)).any())
    evidence = f"{'/'.join(iterative)} leaves up to {gap} of {len(one)} images more than {'/'.join(single)}"
    far = bool(gap > 2 * np.sqrt(0.5 * total))
    return Check.judged("iterative_at_least_single", evidence, failed=far, warned=beyond)


def clean_accuracy(
    labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64], expected: float | None = None
) -> Check:
    """Clean accuracy beats the most frequent label, no renaming of classes does much better, and it is as expected."""
    total = len(labels)
    if not total:
        return Check("clean_accuracy", "passed", "no images")
    accuracy = float((labels == predictions).mean())
    classes, counts = np.unique(labels, return_counts=True)
    guess = float(counts.max() / total)
    noise = 2 * float(np.sqrt(max(accuracy * (1 - accuracy), 1 / total) / total))
    evidence = f"{accuracy:.3f} of {total} images, always guessing the most frequent label gives {guess:.3f}"
    if expected is not None and accuracy < expected - noise - 0.01:
        return Check("clean_accuracy", "failed", f"{evidence}, expected {expected:.3f}")
    if total >= 10 * len(classes) > 10:
        renamed = _accuracy_after_renaming(labels, predictions)
        if renamed > accuracy + 0.3:
            return Check("clean_accuracy", "failed", f"{evidence}, renaming the classes {renamed:.3f}: wrong labels")
    low = total >= 20 and len(classes) > 1 and accuracy <= guess + noise
    return Check("clean_accuracy", "warned" if low else "passed", evidence)


def _accuracy_after_renaming(labels: npt.NDArray[np.int64], predictions: npt.NDArray[np.int64]) -> float:
    """Largest accuracy that a one-to-one renaming of the predicted classes can give."""
    kept = predictions >= 0
    table = np.zeros((max(labels.max(), predictions.max()) + 1,) * 2)
    np.add.at(table, (predictions[kept], labels[kept]), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


def bounds_below_distance(exceeding: int, total: int) -> Check:
    """An estimated lower bound should not exceed the length of a change that broke the image."""
    share = exceeding / total if total else 0.0
    evidence = f"{exceeding} of {total} scores exceed the distance of an attack"
    return Check.judged("bounds_below_distance", evidence, warned=share > 0.05)


def certificates_below_distance(exceeding: int, total: int) -> Check:
    """No change that broke an image is shorter than the image's certified radius: a proof allows no exception."""
    evidence = f"{exceeding} of {total} certified radii exceed the distance of an attack"
    return Check.judged("certificates_below_distance", evidence, failed=exceeding > 0)
