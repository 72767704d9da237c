"""Soundness checks of the set-up: protocol, radii, classes and images are such that accuracies mean something."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from symmetry_robustness.attacks.base import AttackCall, as_attack
from symmetry_robustness.attacks.threat import Threat
from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.names import epsilon_name

if TYPE_CHECKING:
    from symmetry_robustness.robustness.protocol import EvaluationProtocol

_FEW: Final = 20  # of fewer images one class, or a repetition, may be meant


def epsilon_range(threat: Threat, epsilons: Sequence[float], dimension: int) -> Check:
    """The largest epsilon has the usual size of its threat; others are often meant for other units or another norm."""
    name, largest = "epsilon_range", max(epsilons, default=0.0)
    if not largest:
        return Check(name, "passed", "no epsilon")
    usual = threat.usual_sizes(dimension)
    size = f"the largest {threat.norm} epsilon is {epsilon_name(largest)}"
    if largest < usual.low:
        question = "was it divided by 255 twice, or meant for another norm?"
        return Check(name, "warned", f"{size}, {usual.clause}: {question}")
    if largest > usual.high * (1 + 1e-6):
        return Check(name, "warned", f"{size}, {usual.clause}: was it meant for pixels up to 255, or for another norm?")
    return Check(name, "passed", f"{size}; {usual.clause}")


def several_classes(labels: npt.NDArray[np.int64]) -> Check:
    """The images belong to several classes; of one class, a network that always names it withstands everything."""
    name, classes = "several_classes", len(np.unique(labels))
    if classes == 1 and len(labels) > 1:
        evidence = f"all {len(labels)} images have the label {labels[0]}; choose images of all classes"
        return Check.judged(name, evidence, failed=len(labels) >= _FEW, warned=True)
    return Check(name, "passed", f"{len(labels)} images of {classes} classes")


def distinct_images(images: Tensor) -> Check:
    """No image appears more than once; repetitions make intervals narrower than the images allow."""
    name, total = "distinct_images", len(images)
    rows = (image for batch in torch.split(images, 512) for image in batch.contiguous().cpu().numpy())
    different = len({hashlib.blake2b(image.tobytes()).digest() for image in rows})
    repeated = total - different > 0.02 * total  # test sets have a few images twice
    evidence = f"{different} of {total} images are different; intervals hold for different ones"
    return Check.judged(name, evidence, failed=repeated and 2 * different <= total >= _FEW, warned=repeated)


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
