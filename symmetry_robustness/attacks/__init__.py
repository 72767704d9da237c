"""Attacks on classifiers of images in [0, 1]: threat models, gradient attacks, any attack of torchattacks by name."""

from symmetry_robustness.attacks.apgd import APGD
from symmetry_robustness.attacks.base import Attack, UpdateRule, as_attack
from symmetry_robustness.attacks.fab import FAB
from symmetry_robustness.attacks.gradient import FGSM, PGD, GradientAttack
from symmetry_robustness.attacks.orbit import OrbitAveraged
from symmetry_robustness.attacks.spatial import SpatialGrid, SpatialRandom, SpatialThreat
from symmetry_robustness.attacks.square import Square
from symmetry_robustness.attacks.subspace import InSubspace, LowFrequencies, Span, principal_components
from symmetry_robustness.attacks.threat import Threat, ThreatModel, parse_epsilon
from symmetry_robustness.attacks.torchattacks import TorchAttack
from symmetry_robustness.attacks.transfer import TransferPGD
from symmetry_robustness.attacks.weight_tuning import AdversarialWeightTuning

LibraryAttack = TorchAttack  # the name of earlier configurations

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "PGD",
    "AdversarialWeightTuning",
    "Attack",
    "GradientAttack",
    "InSubspace",
    "LibraryAttack",
    "LowFrequencies",
    "OrbitAveraged",
    "Span",
    "SpatialGrid",
    "SpatialRandom",
    "SpatialThreat",
    "Square",
    "Threat",
    "ThreatModel",
    "TorchAttack",
    "TransferPGD",
    "UpdateRule",
    "as_attack",
    "parse_epsilon",
    "principal_components",
]
