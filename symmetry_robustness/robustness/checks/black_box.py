"""Soundness check by a report's own numbers: attacks without gradients of the network against those with them."""

from collections.abc import Mapping

from symmetry_robustness.attacks.base import AttackCall, as_attack
from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness.checks.adversarial import verdict


def compare_with_white_box(report: RobustnessReport, attacks: Mapping[str, AttackCall]) -> list[Check]:
    """Transfer, and searches such as Square, break hardly any image that gradients of the network itself do not.

    Each attack counts on its own, at the epsilon where it is furthest ahead. Source: arXiv 1902.06705, sec. 5.

    Args:
        report: of all images.
        attacks: those of its protocol, by name.
    """
    stated = {name: as_attack(attack) for name, attack in attacks.items()}
    white = [report.curve(name) for name, attack in stated.items() if attack.uses_gradient]
    checks = []
    for name, attack in stated.items():
        if attack.uses_gradient or not white:
            continue
        left = report.clean_correct[:, None]
        for curve in white:
            left = left & curve
        ahead = (left & ~report.curve(name)).sum(0)
        position = int(ahead.argmax())
        kind = "transfer_attack" if attack.origins else "gradient_free_attack"
        checks.append(
            verdict(
                kind,
                int(ahead[position]),
                int(left[:, position].sum()),
                report.epsilons[position],
                name.replace("_", " "),
            )
        )
    return checks
