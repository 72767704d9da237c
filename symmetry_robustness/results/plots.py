"""Figures that a measure declares: they name its arrays, a report draws them, and no code from a file runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

from symmetry_robustness.errors import UserError


@final
@dataclass(frozen=True)
class Curve:
    """Means over images, with standard errors, at T positions; curves of one measure with the same labels share axes.

    Args:
        x: T positions.
        y: names of arrays (M,) or (M, T'), whose columns together belong to the T positions, in this order. Where the
            last name ends in `*` there is one line for each array that fits, named by the part that `*` stands for.
        xlabel: label of the x-axis, with its unit.
        ylabel: label of the y-axis.
        label: of the line, where several share axes.
        circular: whether positions are angles in degrees, drawn on a circle.

    Examples:
        >>> Curve((0.0, 90.0), ("upright", "turned"), "angle (degrees)", "accuracy").y
        ('upright', 'turned')
    """

    x: tuple[float, ...]
    y: tuple[str, ...]
    xlabel: str
    ylabel: str
    label: str = ""
    circular: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", tuple(map(float, self.x)))
        object.__setattr__(self, "y", (self.y,) if isinstance(self.y, str) else tuple(self.y))


@final
@dataclass(frozen=True)
class Distribution:
    """Distribution over images of an array (M,).

    Args:
        array: name of the array.
        label: of its axis, with the unit.
    """

    array: str
    label: str


@final
@dataclass(frozen=True)
class Panel:
    """Example images, each with a value below it.

    Args:
        images: name of an array (k, C, H, W) of images in [0, 1] that belong to the first k of the M images.
        values: name of an array (M,).
        label: of the value.
    """

    images: str
    values: str
    label: str


Plot = Curve | Distribution | Panel

_KINDS: Final[Mapping[str, type[Plot]]] = {"curve": Curve, "distribution": Distribution, "panel": Panel}


def plots_to_plain(plots: Sequence[Plot]) -> list[dict[str, Any]]:
    """Plots as plain values for a JSON file, each with its `kind`."""
    names = {kind: name for name, kind in _KINDS.items()}
    return [{"kind": names[type(plot)], **asdict(plot)} for plot in plots]


def plots_from_plain(entries: Sequence[Mapping[str, Any]]) -> tuple[Plot, ...]:
    """Inverse of `plots_to_plain`.

    Examples:
        >>> plots_from_plain(plots_to_plain([Distribution("value", "score")]))
        (Distribution(array='value', label='score'),)

    Raises:
        UserError: for an unknown kind or field.
    """
    try:
        return tuple(_KINDS[entry["kind"]](**{k: v for k, v in entry.items() if k != "kind"}) for entry in entries)
    except (KeyError, TypeError) as error:
        raise UserError(f"plots of a measure cannot be read ({error}); evaluate again with this version") from None


def equivariance_plots(angles: Sequence[float], scales: Sequence[float], layers: bool) -> list[Plot]:
    """Plots of the arrays that `EquivarianceError` gives at these angles (degrees) and scales."""
    plots: list[Plot] = []
    families = {
        "rotation": ("angle (degrees)", angles, 0.0, True),
        "scale": ("scale", scales, 1.0, False),
    }
    for family, (axis, positions, identity, circular) in families.items():
        if layers and positions:
            plots += [
                Curve(tuple(positions), (f"{family}.error.*",), axis, "relative error of a layer"),
                Curve(tuple(positions), (f"{family}.floor.*",), axis, "relative error of a layer", "there and back"),
            ]
        if len(positions) < 3:
            continue  # fewer make no curve
        still = ((identity, *positions), ("disc.correct", f"{family}.correct"))
        plots += [
            Curve(*still, axis, "accuracy", "accuracy", circular),
            Curve(tuple(positions), (f"{family}.consistent",), axis, "accuracy", "same prediction", circular),
            Curve(tuple(positions), (f"{family}.error.logits",), axis, "relative error", "logits"),
            Curve(tuple(positions), (f"{family}.floor.logits",), axis, "relative error", "logits, there and back"),
        ]
    if layers:
        turns = (90.0, 180.0, 270.0)
        plots.append(Curve(turns, ("turn.error.*",), "quarter turn (degrees)", "relative error of a layer"))
    return plots
