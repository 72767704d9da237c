"""Soundness check by a report's own numbers: attacks without gradients of the network against those with them."""

from collections.abc import Mapping
from typing import Final

from symmetry_robustness.attacks.base import AttackCall, as_attack
from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.report import RobustnessReport
from symmetry_robustness.robustness.checks.adversarial import verdict

# Images that a search may break by luck, and the share of all images from which on Square's lead is noticed by the
# reference implementation of AutoAttack.
_LUCK: Final = 2
_NOTICED: Final = 0.002


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
        kind = "transfer_attack" if attack.origins else "square_better_than_white_box"
        found, standing = int(ahead[position]), int(left[:, position].sum())
        check = verdict(kind, found, standing, report.epsilons[position], name.replace("_", " "))
        if check.status == "passed" and not attack.origins and found > max(_LUCK, _NOTICED * len(report)):
            check = check._replace(status="warned")
        checks.append(check)
    return checks
