"""Which soundness checks run with an evaluation, and on which images."""

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from symmetry_robustness.results.checks import Check, merge_checks
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness.checks import adversarial as counterattacks
from symmetry_robustness.robustness.checks import derived as soundness
from symmetry_robustness.robustness.checks import forward as probes
from symmetry_robustness.robustness.checks.adversarial import Target
from symmetry_robustness.robustness.checks.forward import Sample
from symmetry_robustness.robustness.checks.setup import distinct_images, epsilon_range
from symmetry_robustness.robustness.protocol import EvaluationProtocol

# Images of the checks that need passes of their own: bounds what they cost, whatever the size of the evaluation.
_IMAGES: Final = 32

_CHEAP: Final[tuple[Callable[[Sample], Check], ...]] = (
    probes.batch_independent,
    probes.gradient_matches_difference,
    probes.statistics_match,
)


def run_checks(
    network: nn.Module, images: Tensor, labels: Tensor, protocol: EvaluationProtocol, report: RobustnessReport
) -> list[Check]:
    """Checks that follow from the protocol, and those that pass some images through the network once more.

    Args:
        network: the network evaluated, as it was evaluated.
        images: (N, C, H, W), all images of the report, on any device.
        labels: (N,).
        protocol: decides by `checks` whether the expensive ones run.
        report: its results decide which images are attacked again.
    """
    found = [soundness.protocol_settings(protocol), distinct_images(images)]
    if protocol.attacks:
        found.append(epsilon_range(protocol.norm, report.epsilons, images[0].numel() if len(images) else 1))
        found.append(counterattacks.step_reaches_edge(protocol.attacks, report.epsilons[-1]))
        found.append(counterattacks.enough_steps(protocol.attacks))
    rows = np.argsort(report.indices, kind="stable")[:_IMAGES]
    rows = rows[report.predictions[rows] >= 0]  # non-finite logits have a check of their own
    if not len(rows):
        return found
    sample = Sample(network, *_take(network, images, labels, rows), protocol.seed)
    found += [check(sample) for check in _CHEAP]
    if protocol.checks == "full":
        found.append(probes.sees_whole_range(sample))
        if protocol.attacks:
            found += _counterattacks(network, images, labels, protocol, report)
    return found


def _counterattacks(
    network: nn.Module, images: Tensor, labels: Tensor, protocol: EvaluationProtocol, report: RobustnessReport
) -> list[Check]:
    def target(mask: npt.NDArray[np.bool_], epsilon: float) -> Target:
        return Target(
            network, *_take(network, images, labels, _first(report, report.clean_correct & mask)), protocol, epsilon
        )

    largest, telling = report.epsilons[-1], telling_epsilon(report)
    standing = target(report.worst_correct(telling), telling)
    last = target(report.worst_correct(largest), largest)
    outcomes: list[Check | None] = [
        counterattacks.zero_at_large_epsilon(target(report.clean_correct, largest)),
        counterattacks.longer_attack(standing),
        counterattacks.longer_attack(last),  # where a short attack falls behind most
        counterattacks.other_loss(standing),
        counterattacks.noise_attack(standing),
    ]
    for check in (counterattacks.transfer_attack, counterattacks.gradient_free_attack):
        try:
            outcomes.append(check(standing))
        except Exception as error:  # a network may do what neither its copy nor the library can follow
            outcomes.append(counterattacks.not_run(check.__name__, error))
    return list(merge_checks([[check for check in outcomes if check is not None]]))


def telling_epsilon(report: RobustnessReport) -> float:
    """The epsilon that breaks about half of the images, where a stronger attack shows most; the largest of equals."""
    half = report.clean_accuracy / 2
    distance = [abs(report.worst_case(epsilon).value - half) for epsilon in report.epsilons]
    return max(zip(report.epsilons, distance, strict=True), key=lambda pair: (-pair[1], pair[0]))[0]


def _first(report: RobustnessReport, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Rows of the images with the lowest numbers among those of a mask."""
    order = np.argsort(report.indices, kind="stable")
    rows: npt.NDArray[np.int64] = order[mask[order]][:_IMAGES]
    return rows


def _take(network: nn.Module, images: Tensor, labels: Tensor, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Some images with their labels, where the network is."""
    index, place = torch.as_tensor(rows, device=images.device), device_of(network, images)
    return images[index].to(place), labels[index].to(place)


def device_of(network: nn.Module, images: Tensor) -> torch.device:
    """The device of a network; that of the images for one without tensors."""
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), images.device)
