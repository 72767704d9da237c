"""Example images, with what an attack changed."""

import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures.style import SMALLEST, fitted, printed
from symmetry_robustness.results.names import epsilon_name

_SIDE = 0.8  # inches that a picture takes: eight fill a page's width
_GAP = 1  # white pixels between pictures
_LETTERS = 14  # of a caption, in a line below a picture


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
    count, _, height, width = next(iter(rows.values())).shape
    lines = sum(max((text.count("\n") + 1 for text in texts), default=0) for texts in captions.values())
    size = (_SIDE * count + 0.4, (_SIDE * height / width + 0.04) * len(rows) + 0.14 * lines + (0.2 if title else 0))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01))
    centers = (width + _GAP) * np.arange(count) + (width - 1) / 2
    # One panel for a whole row: a panel for each picture would take ten times as long to lay out.
    for panel, (row, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        panel.imshow(side_by_side(images), interpolation="nearest")
        panel.set(yticks=[])
        panel.set_xticks(centers, captions.get(row, [""] * count))
        panel.set_ylabel(row, fontsize=SMALLEST)
        panel.tick_params(length=0, pad=1.5)
        panel.spines[:].set_visible(False)
    if title:
        figure.suptitle(fitted(title, size[0]))
    return figure


def side_by_side(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (N, 3, H, W) as one picture (H, N (W + gap) - gap, 3), white between them."""
    padded = np.pad(np.clip(images, 0, 1), [(0, 0), (0, 0), (0, 0), (0, _GAP)], constant_values=1)
    picture: NDArray[np.float32] = np.concatenate([*padded.transpose(0, 2, 3, 1)], axis=1)[:, :-_GAP]
    return picture


def attack_panel(
    examples: Mapping[str, NDArray[np.float32]], broken_at: Mapping[str, NDArray[np.float64]], *, title: str = ""
) -> Figure | None:
    """The clean images, and below them each attack's with what it changed and at which epsilon it succeeded.

    Args:
        examples: "clean" and attack names -> images (k, 3, H, W); may be empty.
        broken_at: attack name -> (k,) smallest epsilon found, 0 where the clean image is misclassified, inf if none.
        title: of the whole figure.

    Returns:
        The figure, or None where there are no examples.
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
    """Caption of an image: the smallest epsilon that broke it, 0 where it was wrong before, inf where none did."""
    if epsilon == 0:
        return "wrong without attack"
    return f"ε = {epsilon_name(epsilon)}" if np.isfinite(epsilon) else "withstood"


def magnified_difference(images: NDArray[np.float32], attacked: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
    """The perturbation of an attack, on mid-grey and magnified as far as [0, 1] allows.

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
