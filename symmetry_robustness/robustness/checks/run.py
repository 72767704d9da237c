"""Which soundness checks run with an evaluation, and on which images."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from symmetry_robustness.attacks.validation import device_of
from symmetry_robustness.results.checks import Check, merge_checks
from symmetry_robustness.results.names import WORST_CASE
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness.checks import adversarial, detection, forward
from symmetry_robustness.robustness.checks.adversarial import Target
from symmetry_robustness.robustness.checks.black_box import compare_with_white_box
from symmetry_robustness.robustness.checks.gradients import gradient_matches_difference
from symmetry_robustness.robustness.checks.normalization import normalized_once
from symmetry_robustness.robustness.checks.setup import distinct_images, epsilon_range, protocol_settings
from symmetry_robustness.robustness.measures.base import MeasureInputs
from symmetry_robustness.robustness.protocol import EvaluationProtocol

# Images of the checks that need gradients of their own, and of the one that needs one pass: bounds their cost.
_IMAGES: Final = 32
_NOISE_IMAGES: Final = 256

_CHEAP: Final[tuple[Callable[[MeasureInputs], Check], ...]] = (
    forward.batch_independent,
    gradient_matches_difference,
    forward.optimization_in_forward,
    forward.statistics_match,
)


def run_checks(inputs: MeasureInputs, protocol: EvaluationProtocol, report: RobustnessReport) -> list[Check]:
    """Checks that follow from the protocol, and those that pass some images through the network once more.

    The network is as it was evaluated, the images are all those of the report, on any device. The protocol decides by
    `checks` whether the expensive ones run, results of the report which images are attacked again.
    """
    images = inputs.images
    found = [protocol_settings(protocol), distinct_images(images)]
    if protocol.attacks:
        dimension = images[0].numel() if len(images) else 1
        found.append(epsilon_range(protocol.threat(report.epsilons[-1]), report.epsilons, dimension))
        found.append(adversarial.step_reaches_edge(protocol.attacks, report.epsilons[-1]))
        found.append(adversarial.enough_steps(protocol.attacks))
        found += compare_with_white_box(report, protocol.attacks)
    rows = _first(report, report.predictions >= 0)  # non-finite logits have a check of their own
    if not len(rows):
        return found
    sample = _take(inputs, rows)
    found += [check(sample) for check in _CHEAP]
    found += detection.scores_alike(sample, protocol.measures)
    rows = _first(report, report.predictions >= 0, _NOISE_IMAGES)
    noisy = _take(inputs, rows)._replace(batch_size=protocol.batch_size)
    correct = torch.as_tensor(report.clean_correct[rows])
    found.append(forward.stable_under_noise(noisy, correct))
    if protocol.checks == "full":
        found.append(normalized_once(noisy, correct))
        found.append(forward.sees_whole_range(sample))
        if protocol.attacks:
            found += _adversarial_checks(inputs, protocol, report)
    return list(merge_checks([found]))


def _adversarial_checks(inputs: MeasureInputs, protocol: EvaluationProtocol, report: RobustnessReport) -> list[Check]:
    def target(mask: npt.NDArray[np.bool_], epsilon: float) -> Target:
        few = _take(inputs, _first(report, report.clean_correct & mask))
        return Target(few.network, few.images, few.labels, protocol, epsilon)

    largest, informative = report.epsilons[-1], most_informative_epsilon(report)
    surviving = target(report.correct(WORST_CASE, informative), informative)
    last = target(report.correct(WORST_CASE, largest), largest)
    outcomes: list[Check | None] = [adversarial.noise_attack(surviving)]
    if protocol.threat(largest).geometry is None:  # the others perturb pixels along gradients
        return list(merge_checks([[check for check in outcomes if check is not None]]))
    outcomes += [
        adversarial.zero_at_large_epsilon(target(report.clean_correct, largest)),
        adversarial.longer_attack(surviving),
        adversarial.longer_attack(last),  # where a short attack falls behind most
        adversarial.other_loss(surviving),
    ]
    for check in (adversarial.transfer_attack, adversarial.gradient_free_attack):
        try:
            outcomes.append(check(surviving))
        except Exception as error:  # a network may do what neither its copy nor the library can follow
            outcomes.append(adversarial.not_run(check.__name__, error))
    return list(merge_checks([[check for check in outcomes if check is not None]]))


def most_informative_epsilon(report: RobustnessReport) -> float:
    """The epsilon that breaks about half of the images, where a stronger attack shows most; the largest of equals."""
    half = report.clean_accuracy / 2
    distance = [abs(report.worst_case(epsilon).value - half) for epsilon in report.epsilons]
    return max(zip(report.epsilons, distance, strict=True), key=lambda pair: (-pair[1], pair[0]))[0]


def _first(report: RobustnessReport, mask: npt.NDArray[np.bool_], count: int = _IMAGES) -> npt.NDArray[np.int64]:
    """Rows of the images with the lowest numbers among those of a mask."""
    order = np.argsort(report.indices, kind="stable")
    rows: npt.NDArray[np.int64] = order[mask[order]][:count]
    return rows


def _take(inputs: MeasureInputs, rows: npt.NDArray[np.int64]) -> MeasureInputs:
    """Some images with their labels, where the network is, of which all pass it at once."""
    few, place = inputs.take(rows), device_of(inputs.network, inputs.images)
    return few._replace(images=few.images.to(place), labels=few.labels.to(place), batch_size=max(len(rows), 1))
