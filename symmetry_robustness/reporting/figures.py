"""Figures, drawn by matplotlib from plain arrays."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

# Okabe and Ito's palette: told apart under every common colour blindness (https://jfly.uni-koeln.de/color/).
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


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
    figure = Figure(figsize=(0.6 + 3.4 * len(attacks), 3.3), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0])
    for panel, attack in zip(panels, attacks, strict=True):
        for index, (name, by_attack) in enumerate(curves.items()):
            if attack not in by_attack:
                continue
            epsilons, accuracies, errors = by_attack[attack]
            color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
            panel.plot(epsilons, accuracies, color=color, marker=marker, markersize=4, label=name)
            panel.fill_between(
                epsilons, accuracies - 2 * errors, accuracies + 2 * errors, color=color, alpha=0.15, linewidth=0
            )
        panel.set(title=attack.replace("_", " "), xlabel=x_label, ylim=(0, 1), xlim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    if any(curves):
        panels[-1].legend(frameon=False, fontsize="small")
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
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
        for number, accuracies in enumerate(runs):
            lines = panel.plot(
                list(accuracies), list(accuracies.values()), color=color, marker=marker, markersize=4, alpha=0.7
            )
            lines[0].set_label(name if number == 0 else "_")  # matplotlib leaves names with _ out of the legend
    panel.set(xlabel=x_label, ylabel="accuracy", ylim=(0, 1.02))
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize="small")
    return figure


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
        captions[attack] = [_outcome(epsilon) for epsilon in found]
    return example_panel(rows, captions)


def _outcome(epsilon: float) -> str:
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
