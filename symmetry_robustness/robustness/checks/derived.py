"""Soundness checks that follow from the protocol and from the numbers of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from symmetry_robustness.attacks.base import AttackCall, as_attack
from symmetry_robustness.attacks.threat import TOLERANCE
from symmetry_robustness.attacks.validation import predict, training_layers
from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness.checks.setup import several_classes

if TYPE_CHECKING:
    from symmetry_robustness.robustness.protocol import EvaluationProtocol


_REPEATED = 32  # images that pass several times


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
    fresh = {check.name: check for check in derived if check is not None}
    others = [check for check in report.checks if check.name not in fresh]
    return replace(report, checks=(*others, *fresh.values()))


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


def protocol_settings(protocol: EvaluationProtocol) -> Check:
    """The protocol's settings are those of a sound evaluation; a re-enactment of another one is marked as such."""
    unsound = []
    if protocol.bounds != (0.0, 1.0):
        unsound.append(f"attacks clamp pixels to [{protocol.bounds[0]:g}, {protocol.bounds[1]:g}]")
    if protocol.mode != "evaluation":
        unsound.append("batch norm uses the statistics of the attacked batch")
    if protocol.outside != "discard":
        unsound.append("results outside of the ball count")
    if unsound:
        return Check("protocol_settings", "failed", f"no sound evaluation: {'; '.join(unsound)}")
    if protocol.judge != "any":
        return Check("protocol_settings", "warned", "only images that attacks return count, not the iterates before")
    return Check("protocol_settings", "passed", "bounds [0, 1], evaluation mode, any iterate inside the ball counts")


def images_in_bounds(images: Tensor, bounds: tuple[float, float]) -> Check:
    """Pixels lie in [0, 1] and in the bounds; else epsilon is in other units. Source: arXiv 1902.06705, sec. 4."""
    if not len(images):
        return Check("images_in_bounds", "passed", "no images")
    low, high = (float(value) for value in torch.aminmax(images))
    inside = max(bounds[0], 0.0) <= low and high <= min(bounds[1], 1.0)
    spread = f"pixels span [{low:.4g}, {high:.4g}], bounds are [{bounds[0]:g}, {bounds[1]:g}]"
    return Check("images_in_bounds", "passed" if inside else "failed", spread)


def evaluation_mode(network: nn.Module) -> Check:
    """No normalisation or dropout layer is in training mode: they would see the attacked batch."""
    names = training_layers(network)
    if names:
        return Check("evaluation_mode", "failed", f"{len(names)} layers in training mode, first {names[0]}")
    return Check("evaluation_mode", "passed", "no normalisation or dropout layer is in training mode")


def random_outputs(network: nn.Module, images: Tensor, attacks: Mapping[str, AttackCall] | None = None) -> Check:
    """Repeated passes give the same logits; randomness hides gradients. Source: arXiv 1802.00420; 2003.01690 (flags).

    A random network is no failure where every attack averages over draws.
    """
    logits, few = predict(network, images), images[:_REPEATED]
    passes = [predict(network, images), *(predict(network, few) for _ in range(3))]
    difference = torch.stack([(found[: len(few)] - logits[: len(few)]).abs() for found in passes]).nan_to_num(0.0)
    difference = torch.cat([difference.flatten(), (passes[0] - logits).abs().flatten()])
    size = float(logits.nan_to_num(0.0).abs().max()) if logits.numel() else 0.0
    worst = float(difference.nan_to_num(0.0).max()) if difference.numel() else 0.0
    # GPU kernels may sum in another order from call to call.
    evidence = f"logits of {len(images)} images differ by at most {worst:.2g} between passes"
    if worst <= 1e-4 * max(1.0, size):
        return Check("random_outputs", "passed", evidence)
    draws = min((rule.draws for rule in map(as_attack, (attacks or {}).values())), default=1)
    if draws > 1:
        return Check("random_outputs", "warned", f"{evidence}; every attack averages over {draws} passes or more")
    return Check("random_outputs", "failed", f"{evidence}; use robustness=autoattack_rand, or switch the chance off")


def softmax_outputs(logits: Tensor) -> Check:
    """Outputs are no probabilities, whose loss saturates. Source: arXiv 2003.01690, flags of the implementation."""
    low, high = (float(value) for value in torch.aminmax(logits.nan_to_num(-1.0)))
    total = (logits.sum(1) - 1).abs()
    if low >= -1e-5 and high <= 1 + 1e-5 and bool((total <= 1e-5 * logits.shape[1]).all()):
        return Check(
            "softmax_outputs", "failed", "outputs lie in [0, 1] and sum to 1 for each image; return the logits"
        )
    return Check("softmax_outputs", "passed", "outputs are no probabilities")


def enough_classes(attacks: Mapping[str, AttackCall], classes: int) -> Check:
    """Attacks that need more classes were left out, and target classes that are not there."""
    left_out, fewer = [], []
    for name, attack in attacks.items():
        rule = as_attack(attack).update_rule
        if rule is None:
            continue
        if classes < rule.min_classes:
            left_out.append(f"{name} needs {rule.min_classes} and is left out")
        elif rule.targeted and rule.restarts > classes - 1:
            fewer.append(f"{name} has {classes - 1} target classes instead of {rule.restarts}")
    evidence = "; ".join([f"{classes} classes", *left_out, *fewer])
    return Check("enough_classes", "warned" if left_out else "passed", evidence)


def finite_logits(broken: int, total: int) -> Check:
    """Logits of clean images are finite; images whose logits are not count as misclassified."""
    return Check.judged("finite_logits", f"{broken} of {total} images have non-finite logits", failed=broken > 0)


def finite_gradients(broken: int, total: int) -> Check:
    """Input gradients are finite; an attack cannot follow others."""
    return Check.judged("finite_gradients", f"{broken} of {total} input gradients are not finite", failed=broken > 0)


def zero_gradients(zero: int, total: int) -> Check:
    """Input gradients of the loss are not exactly zero; zeros mean masking. Source: arXiv 2106.09947, indicator I1."""
    share = zero / total if total else 0.0
    evidence = f"{zero} of {total} correctly classified images have a zero gradient"
    return Check.judged("zero_gradients", evidence, failed=share > 0.5, warned=share > 0.05)


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
