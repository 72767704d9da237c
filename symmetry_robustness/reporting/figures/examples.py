"""Example images, with what an attack changed."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from symmetry_robustness.reporting.figures import style
from symmetry_robustness.results.names import epsilon_name
from symmetry_robustness.results.plots import Panel
from symmetry_robustness.results.report import RobustnessReport

_SIDE = 0.8  # inches that a picture takes: eight fill a page's width
_GAP = 1  # white pixels between pictures
_LETTERS = 14  # of a caption, in a line below a picture

# Title -> images (N, 3, H, W) in [0, 1], and a caption below each, or none.
Rows = Mapping[str, tuple[NDArray[np.float32], Sequence[str]]]


def attack_rows(report: RobustnessReport, most: int | None = None) -> Rows:
    """Clean images, and each attack's with its change and the ε at which it succeeded; empty without examples.

    Of more attacks than `most` those are shown that broke most of all images.
    """
    if not report.examples or not len(clean := report.examples["clean"]):
        return {}
    # Examples belong to the images of the lowest numbers.
    first = np.argsort(report.indices, kind="stable")[: len(clean)]
    broken_at = {name: found for name, found in report.minimal_epsilon.items() if name in report.examples}
    rows = {"clean": (clean, list[str]())}
    for attack in sorted(broken_at, key=lambda name: -int(np.isfinite(broken_at[name]).sum()))[:most]:
        name, (change, factor) = attack.replace("_", " "), magnified_difference(clean, report.examples[attack])
        rows[name] = report.examples[attack], [outcome_name(epsilon) for epsilon in broken_at[attack][first]]
        rows[f"{name}\nchange ×{factor}"] = change, []
    return rows


def panel_rows(report: RobustnessReport, measure: str) -> Rows:
    """Images that a measure shows, below the clean ones where the report has these; empty where it shows none."""
    arrays, rows = report.measures.get(measure, {}), {}
    for plot in report.plots(measure):
        if isinstance(plot, Panel) and {plot.images, plot.values} <= set(arrays) and len(arrays[plot.images]):
            images = arrays[plot.images]
            clean = report.examples.get("clean", images[:0])[: len(images)]
            same = np.array_equal(arrays["indices"][: len(images)], np.sort(report.indices)[: len(images)])
            if same and len(clean) == len(images):
                rows["clean"] = clean, list[str]()
            rows[measure] = images, [f"{plot.label} {value:.3g}" for value in arrays[plot.values][: len(images)]]
    return rows


@style.printed
def example_panel(rows: Rows, *, title: str = "") -> Figure:
    """Images above each other: one column per example, one row per entry, e.g. clean, attacked, what was changed."""
    captions = {row: [textwrap.fill(text, _LETTERS) for text in texts] for row, (_, texts) in rows.items()}
    count, _, height, width = next(iter(rows.values()))[0].shape
    lines = sum(max((text.count("\n") + 1 for text in texts), default=0) for texts in captions.values())
    size = (_SIDE * count + 0.4, (_SIDE * height / width + 0.04) * len(rows) + 0.14 * lines + (0.2 if title else 0))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01))
    centers = (width + _GAP) * np.arange(count) + (width - 1) / 2
    # One panel for a whole row: a panel for each picture would take ten times as long to lay out.
    for panel, (row, (images, _)) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows.items(), strict=True):
        panel.imshow(side_by_side(images), interpolation="nearest")
        panel.set(yticks=[])
        panel.set_xticks(centers, captions[row] or [""] * count)
        panel.set_ylabel(row, fontsize=style.SMALLEST)
        panel.tick_params(length=0, pad=1.5)
        panel.spines[:].set_visible(False)
    if title:
        figure.suptitle(style.fitted(title, size[0]))
    return figure


def side_by_side(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (N, 3, H, W) as one picture (H, N (W + gap) - gap, 3), white between them."""
    padded = np.pad(np.clip(images, 0, 1), [(0, 0), (0, 0), (0, 0), (0, _GAP)], constant_values=1)
    return np.concatenate([*padded.transpose(0, 2, 3, 1)], axis=1)[:, :-_GAP]


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
