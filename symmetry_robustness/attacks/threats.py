"""All kinds of threats by the names that protocols give them."""

from collections.abc import Sequence
from typing import Final, Literal

from symmetry_robustness.attacks.norms import NORMS
from symmetry_robustness.attacks.spatial import SPATIAL, SpatialThreat
from symmetry_robustness.attacks.threat import Threat, ThreatModel
from symmetry_robustness.errors import UserError

ThreatName = Literal["linf", "l2", "l1", "spatial"]
THREATS: Final = (*NORMS, SPATIAL)


def make_threat(name: str, epsilon: float, bounds: Sequence[float] = (0.0, 1.0)) -> Threat:
    """The threat of a name and size.

    Args:
        name: "linf", "l2" or "l1" for perturbations of pixels, "spatial" for rotations and shifts.
        epsilon: size: a radius in pixel units, or for "spatial" 1 for 30° and 3 pixels.
        bounds: smallest and largest pixel value.

    Raises:
        UserError: no such threat exists, or it does not work with these bounds.

    Examples:
        >>> make_threat("linf", 0.1).epsilon, make_threat("spatial", 0.5).norm
        (0.1, 'spatial')
    """
    if name not in THREATS:
        raise UserError(f"norm must be one of {', '.join(THREATS)}, got {name!r}; choose one of them")
    low, high = bounds
    return SpatialThreat(epsilon, (low, high)) if name == SPATIAL else ThreatModel(name, epsilon, (low, high))  # type: ignore[arg-type]
