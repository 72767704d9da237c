"""Attacks on classifiers of images in [0, 1]: the threat, gradient attacks, and any attack of torchattacks by name."""

from symmetry_robustness.attacks.gradient import FGSM, PGD, GradientAttack
from symmetry_robustness.attacks.threat import Attack, ThreatModel, parse_epsilon
from symmetry_robustness.attacks.torchattacks import LibraryAttack

__all__ = ["FGSM", "PGD", "Attack", "GradientAttack", "LibraryAttack", "ThreatModel", "parse_epsilon"]
