"""Figures, drawn by matplotlib from plain arrays."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

# Okabe and Ito's palette: told apart under every common colour blindness (https://jfly.uni-koeln.de/color/).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
_BAND: dict[str, Any] = {"alpha": 0.15, "linewidth": 0}
# Range of relative errors: what lies below is next to exact and is drawn at the lower end; above nothing can be.
_ERRORS = (1e-6, 8.0)


# Several figures by name.
Figures = dict[str, Figure]


class Curve(NamedTuple):
    """Accuracy over epsilon, each of shape (E,); accuracies and standard errors in [0, 1]."""

    epsilons: NDArray[np.float64]
    accuracies: NDArray[np.float64]
    standard_errors: NDArray[np.float64]


def epsilon_curves(curves: Mapping[str, Mapping[str, Curve]], *, x_label: str = "ε") -> Figure:
    """One panel per attack, one line per network, with bands of two standard errors.

    Args:
        curves: network name -> attack name -> curve.
        x_label: names norm and unit of epsilon.
    """
    attacks = list(dict.fromkeys(attack for by_attack in curves.values() for attack in by_attack))
    figure = Figure(figsize=(2.4 + 3.4 * len(attacks), 3.3), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0])
    for panel, attack in zip(panels, attacks, strict=True):
        for index, (name, by_attack) in enumerate(curves.items()):
            if attack not in by_attack:
                continue
            epsilons, accuracies, errors = by_attack[attack]
            color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
            panel.plot(epsilons, accuracies, color=color, marker=marker, markersize=4, label=name)
            panel.fill_between(
                epsilons, accuracies - 2 * errors, accuracies + 2 * errors, color=color, alpha=0.15, linewidth=0
            )
        panel.set(title=attack.replace("_", " "), xlabel=x_label, ylim=(0, 1), xlim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    if any(curves):
        panels[-1].legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))  # never over data
    return figure


def view_curves(curves: Mapping[str, Sequence[Mapping[float, float]]], *, x_label: str) -> Figure:
    """Accuracy over the angle or scale at which test images were shown: one colour per network, one line per run.

    Args:
        curves: network name -> for each of its runs, angle or scale -> accuracy in [0, 1].
        x_label: names what varies, and its unit.
    """
    figure = Figure(figsize=(5, 3.3), layout="constrained")
    panel = figure.subplots()
    for index, (name, runs) in enumerate(curves.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        for number, accuracies in enumerate(runs):
            lines = panel.plot(
                list(accuracies), list(accuracies.values()), color=color, marker=marker, markersize=4, alpha=0.7
            )
            lines[0].set_label(name if number == 0 else "_")  # matplotlib leaves names with _ out of the legend
    panel.set(xlabel=x_label, ylabel="accuracy", ylim=(0, 1.02))
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize="small")
    return figure


class Line(NamedTuple):
    """A mean over images, with its standard error, at each of some angles or scales; each of shape (T,)."""

    positions: NDArray[np.float64]
    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64]


class Errors(NamedTuple):
    """Mean relative error and, beside it, the floor that resampling alone is responsible for; lines of one length."""

    error: Line
    floor: Line


def accuracy_circle(lines: Mapping[str, Line]) -> Figure:
    """Accuracy in every direction: one closed line per network or quantity, the angle being that of the rotation.

    Args:
        lines: name -> values in [0, 1] over angles in degrees, counter-clockwise.
    """
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    panel = cast(PolarAxes, figure.add_subplot(projection="polar"))
    panel.set_theta_zero_location("N")
    for index, (name, line) in enumerate(lines.items()):
        order = np.argsort(line.positions % 360)
        closed = np.append(order, order[:1])
        angles = np.radians(line.positions[closed] % 360)
        angles[-1] += 2 * np.pi
        values, errors, color = line.values[closed], 2 * line.standard_errors[closed], COLORS[index % len(COLORS)]
        panel.plot(angles, values, color=color, marker=MARKERS[index % len(MARKERS)], markersize=3, label=name)
        panel.fill_between(angles, np.clip(values - errors, 0, 1), np.clip(values + errors, 0, 1), color=color, **_BAND)
    panel.set(ylim=(0, 1), yticks=[0.25, 0.5, 0.75, 1], yticklabels=["", "0.5", "", "1"])
    panel.set_rlabel_position(67.5)
    panel.set_title("images rotated about their centre", fontsize="medium")
    panel.tick_params(axis="y", labelsize="x-small")
    panel.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=len(lines), frameon=False, fontsize="small")
    return figure


def accuracy_over_scales(lines: Mapping[str, Line]) -> Figure:
    """Accuracy over magnification: one line per network or quantity, with bands of two standard errors.

    Args:
        lines: name -> values in [0, 1] over scales.
    """
    figure = Figure(figsize=(4.4, 3.3), layout="constrained")
    panel = figure.subplots()
    for index, (name, line) in enumerate(lines.items()):
        _draw(panel, line, COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)], name)
    panel.set(ylim=(0, 1.04), xlabel="scale of the image", ylabel="share of images")
    panel.legend(frameon=False, fontsize="small")
    return figure


def equivariance_errors(families: Mapping[str, Errors], places: Mapping[str, Mapping[str, Errors]]) -> Figure:
    """Relative error of the logits over angles and over scales with the floor beside it, and of all layers.

    Args:
        families: "rotation", "scale" -> the logits' errors over the family's elements.
        places: family -> layer, or "logits" -> errors, whose means over the family's elements are shown; the floor of
            elements that are exact has no positions. At least one of the two must not be empty.
    """
    count = max(map(len, places.values()), default=0)
    widths = [3.6] * len(families) + ([max(4.4, 1.6 + 0.3 * count)] if places else [])
    figure = Figure(figsize=(sum(widths), 4.0), layout="constrained")
    panels = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    for panel, (family, errors) in zip(panels, families.items(), strict=False):
        error, floor = (line._replace(values=np.maximum(line.values, _ERRORS[0])) for line in errors)
        _draw(panel, error, COLORS[0], "o", "logits")
        _draw(panel, floor, COLORS[6], "", "moved there and back", "--")
        if family == "scale":
            panel.set(xlabel="scale of the image")
        else:
            panel.set(xlabel="rotation of the image, degrees", xticks=range(0, 361, 90))
    if places:
        _draw_places(panels[-1], places)
    for panel in panels:
        panel.set(yscale="log", ylim=_ERRORS)
        panel.grid(alpha=0.3)
        panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize="x-small")
    panels[0].set_ylabel("relative squared error")
    return figure


def _draw_places(panel: Axes, places: Mapping[str, Mapping[str, Errors]]) -> None:
    """Mean error of each layer, in the order of the layers; a hollow marker of the same shape is the floor."""
    names = list(dict.fromkeys(name for errors in places.values() for name in errors))
    for index, (family, by_name) in enumerate(places.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        for kind, style in (("error", "full"), ("floor", "none")):
            lines = {names.index(name): getattr(errors, kind).values for name, errors in by_name.items()}
            means = {place: max(values.mean(), _ERRORS[0]) for place, values in lines.items() if len(values)}
            label = family if kind == "error" else f"{family}, there and back"
            if means:
                panel.plot(
                    [*means], [*means.values()], marker, color=color, fillstyle=style, label=label, clip_on=False
                )
    panel.set(xlim=(-0.5, len(names) - 0.5))
    panel.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize="x-small")


def _draw(panel: Axes, line: Line, color: str, marker: str, label: str, style: str = "-") -> None:
    """One line with its band of two standard errors."""
    positions, values, errors = line
    panel.plot(positions, values, color=color, linestyle=style, marker=marker, markersize=4, label=label)
    panel.fill_between(positions, values - 2 * errors, values + 2 * errors, color=color, **_BAND)
    panel.grid(alpha=0.3)


def removal_panel(images: NDArray[np.float32], removed: NDArray[np.float32], tolerances: NDArray[np.float64]) -> Figure:
    """Images, and below them what is left of each at its removal tolerance.

    Args:
        images: (k, 3, H, W) in [0, 1], at least one.
        removed: the same with the tolerated share of their values set to zero.
        tolerances: (k,) shares.
    """
    captions = {"at tolerance": [f"{100 * share:.3g} % removed" for share in tolerances]}
    return example_panel({"clean": images, "at tolerance": removed}, captions)


def example_panel(rows: Mapping[str, NDArray[np.float32]], captions: Mapping[str, list[str]] | None = None) -> Figure:
    """Images above each other: one column per example, one row per entry, e.g. clean, attacked, what was changed.

    Args:
        rows: title -> images (N, 3, H, W) in [0, 1].
        captions: title -> a line below each of the N images.
    """
    captions = captions or {}
    count = len(next(iter(rows.values())))
    heights = [1.28 if title in captions else 1.1 for title in rows]
    figure = Figure(figsize=(1.1 * count + 0.4, sum(heights)), layout="constrained")
    panels = figure.subplots(len(rows), count, squeeze=False, height_ratios=heights)
    for line, (title, images) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(title, fontsize="small")
        for panel, image in zip(line, images, strict=True):
            panel.imshow(np.clip(image.transpose(1, 2, 0), 0, 1), interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        for panel, caption in zip(line, captions.get(title, [""] * count), strict=True):
            panel.set_xlabel(caption, fontsize="x-small")
    return figure


def attack_panel(
    examples: Mapping[str, NDArray[np.float32]], broken_at: Mapping[str, NDArray[np.float64]]
) -> Figure | None:
    """The clean images, and below them each attack's with what it changed and at which epsilon it succeeded.

    Args:
        examples: "clean" and attack names -> images (k, 3, H, W); may be empty.
        broken_at: attack name -> (k,) smallest epsilon found, 0 where the clean image is misclassified, inf if none.

    Returns:
        The figure, or None where no examples were kept.
    """
    if not examples or not len(examples["clean"]):
        return None
    rows, captions = {"clean": examples["clean"]}, {}
    for attack, found in broken_at.items():
        difference, factor = magnified_difference(examples["clean"], examples[attack])
        rows |= {attack: examples[attack], f"{attack} change ×{factor}": difference}
        captions[attack] = [outcome_name(epsilon) for epsilon in found]
    return example_panel(rows, captions)


def outcome_name(epsilon: float) -> str:
    """What became of an image: the smallest epsilon that broke it, 0 where it was wrong before, inf where none did."""
    if epsilon == 0:
        return "wrong without attack"
    return f"ε = {epsilon_name(epsilon)}" if np.isfinite(epsilon) else "withstood"


def epsilon_name(epsilon: float) -> str:
    """As a fraction of 255 where it is one (8/255), in decimals otherwise."""
    steps = round(2 * 255 * epsilon) / 2
    return f"{steps:g}/255" if steps and abs(255 * epsilon - steps) < 1e-3 else f"{epsilon:.4g}"


def magnified_difference(images: NDArray[np.float32], attacked: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """What an attack added, on mid-grey and magnified as far as [0, 1] allows.

    Args:
        images: (N, 3, H, W) in [0, 1].
        attacked: the same after the attack.

    Returns:
        Pictures (N, 3, H, W) in [0, 1], and the factor of magnification.
    """
    difference = attacked - images
    factor = max(1, int(0.5 / max(float(np.abs(difference).max()), 1e-6) + 1e-3))
    return (0.5 + factor * difference).astype(np.float32), factor


def as_pixels(figure: Figure, *, dpi: int = 120) -> NDArray[np.uint8]:
    """The figure as an image (H, W, 3), for trackers that keep pictures."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return np.array(Image.open(file).convert("RGB"))
