"""Pictures: adversarial examples with what was changed, images with values removed."""

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures.style import SMALLEST, fitted, printed

_SIDE = 0.8  # inches that a picture takes: eight fill a page's width
_LETTERS = 14  # of a caption, in a line below a picture


def removal_panel(images: NDArray[np.float32], removed: NDArray[np.float32], tolerances: NDArray[np.float64]) -> Figure:
    """Images, and below them what is left of each at its removal tolerance.

    Args:
        images: (k, 3, H, W) in [0, 1], at least one.
        removed: the same with the tolerated share of their values set to zero.
        tolerances: (k,) shares.
    """
    captions = {"at tolerance": [f"{100 * share:.3g} % removed" for share in tolerances]}
    return example_panel({"clean": images, "at tolerance": removed}, captions)


@printed
def example_panel(
    rows: Mapping[str, NDArray[np.float32]], captions: Mapping[str, list[str]] | None = None, *, title: str = ""
) -> Figure:
    """Images above each other: one column per example, one row per entry, e.g. clean, attacked, what was changed.

    Args:
        rows: title -> images (N, 3, H, W) in [0, 1].
        captions: title -> a line below each of the N images.
        title: of the whole figure.
    """
    captions = {row: [textwrap.fill(text, _LETTERS) for text in texts] for row, texts in (captions or {}).items()}
    count = len(next(iter(rows.values())))
    lines = {row: max((text.count("\n") + 1 for text in captions.get(row, []) if text), default=0) for row in rows}
    height = (_SIDE + 0.03) * len(rows) + 0.14 * sum(lines.values()) + (0.2 if title else 0)
    figure = Figure(figsize=(_SIDE * count + 0.4, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)  # type: ignore[union-attr]
    panels = figure.subplots(len(rows), count, squeeze=False)
    for line, (row, images) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(row, fontsize=SMALLEST)
        for panel, image in zip(line, images, strict=True):
            panel.imshow(np.clip(image.transpose(1, 2, 0), 0, 1), interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        for panel, caption in zip(line, captions.get(row, [""] * count), strict=True):
            panel.set_xlabel(caption, fontsize=SMALLEST, labelpad=1.5)
    if title:
        figure.suptitle(fitted(title, figure.get_figwidth()))
    return figure


def attack_panel(
    examples: Mapping[str, NDArray[np.float32]], broken_at: Mapping[str, NDArray[np.float64]], *, title: str = ""
) -> Figure | None:
    """The clean images, and below them each attack's with what it changed and at which epsilon it succeeded.

    Args:
        examples: "clean" and attack names -> images (k, 3, H, W); may be empty.
        broken_at: attack name -> (k,) smallest epsilon found, 0 where the clean image is misclassified, inf if none.
        title: of the whole figure.

    Returns:
        The figure, or None where no examples were kept.
    """
    if not examples or not len(examples["clean"]):
        return None
    rows, captions = {"clean": examples["clean"]}, {}
    for attack, found in broken_at.items():
        difference, factor = magnified_difference(examples["clean"], examples[attack])
        name = attack.replace("_", " ")
        rows |= {name: examples[attack], f"{name}\nchange ×{factor}": difference}
        captions[name] = [outcome_name(epsilon) for epsilon in found]
    return example_panel(rows, captions, title=title)


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
    largest = float(np.abs(difference).max())
    factor = max(1, int(0.5 / largest + 1e-3)) if largest > 1e-6 else 1
    return (0.5 + factor * difference).astype(np.float32), factor
