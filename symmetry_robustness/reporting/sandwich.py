"""Bounds from both sides: what is certified, what is estimated and what an attack found, image by image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symmetry_robustness.reporting.aggregate import run_titles
from symmetry_robustness.reporting.comparability import told_apart
from symmetry_robustness.reporting.evaluation import Evaluation
from symmetry_robustness.reporting.figures import style
from symmetry_robustness.reporting.frame import by_image, grouped
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet, flag
from symmetry_robustness.results.names import NORM_TITLES, measure_title

_PANELS: Final = 6  # networks side by side
_NOTE: Final = (
    "Medians over images that are classified correctly. Certified: no perturbation up to there changes the prediction, "
    "proven by the method named. Distance: the shortest that an attack found. Refuted: an attack succeeded below "
    "the estimate. Too pessimistic: it lies below the certificate. Certificates of smoothed classifiers are about "
    "other functions and do not stand here."
)


@dataclass(frozen=True)
class Sandwich:
    """Bounds of one network in one norm.

    Attributes:
        about: data, split and norm.
        norm: of the lengths.
        network: name, with the marks of its checks.
        architecture: name of the network, however it was trained.
        method: of the certificates.
        estimator: title of the measure that estimates.
        images: that are classified correctly, with `certified` radius, `estimate` of the lower bound, NaN where there
            is none, and `distance` found, inf where no attack succeeded.
    """

    about: str
    norm: str
    network: str
    architecture: str
    method: str
    estimator: str
    images: pd.DataFrame

    def row(self) -> dict[str, Any]:
        """Numbers of the table by column; shares of the images that have what is compared."""
        certified, estimate, distance = (self.images[name] for name in ("certified", "estimate", "distance"))
        broken, estimated = np.isfinite(distance), estimate.notna()
        return {
            "network": self.network,
            "images": len(self.images),
            "method": self.method,
            "certified": certified.median(),
            self.estimator: estimate.median(),
            "distance found": distance.median(),
            "certified / distance %": 100 * (certified / distance)[broken].median(),
            f"{self.estimator} refuted %": 100 * (estimate > distance)[estimated & broken].mean(),
            f"{self.estimator} too pessimistic %": 100 * (estimate < certified)[estimated].mean(),
            "certificate beyond distance": int((certified > distance).sum()),
        }


def sandwiches(runs: Sequence[Run]) -> list[Sandwich]:
    """Those of all evaluations that have a proven lower bound and a distance found in its norm."""
    titles = run_titles(runs)
    found = [
        (one, run)
        for run in runs
        for evaluation in run.evaluations.values()
        for one in _of(evaluation, f"{titles[run.place]}, seed {run.seed}{flag(evaluation.status)}", run.name)
    ]
    names, places = [one.network for one, _ in found], [run.place for _, run in found]
    names = told_apart(names, places, within=[one.about for one, _ in found])
    return [replace(one, network=name) for (one, _), name in zip(found, names, strict=True)]


def _of(evaluation: Evaluation, network: str, architecture: str) -> Iterator[Sandwich]:
    measures = evaluation.measures
    if not any(settings.get("proven") for settings in measures.values()):
        return
    report = evaluation.whole()
    for name, settings in measures.items():
        norm, arrays = settings.get("norm"), report.measures.get(name)
        alike = {other: one for other, one in measures.items() if one.get("norm") == norm and other in report.measures}
        upper = [one for one in alike if alike[one].get("upper_bound")]
        lower = [one for one in alike if alike[one].get("lower_bound") and not alike[one].get("proven")]
        if arrays is None or not settings.get("proven") or not upper:
            continue
        found, estimated = report.measures[upper[0]], lower[:1]
        distance = np.where(found["saturated"], np.inf, found[alike[upper[0]]["upper_bound"]])
        bounds = {
            "certified": by_image(arrays[settings["lower_bound"]], arrays["indices"]),
            "estimate": np.nan,
            "distance": by_image(distance, found["indices"]),
        }
        for one in estimated:
            scores = report.measures[one]
            bounds["estimate"] = by_image(scores[alike[one]["lower_bound"]], scores["indices"])
        images = pd.DataFrame(bounds, dtype=np.float64).dropna(subset=["certified", "distance"])
        yield Sandwich(
            about=f"{evaluation.data_title}, {evaluation.split} images, {NORM_TITLES.get(str(norm), norm)}",
            norm=str(norm),
            network=network,
            architecture=architecture,
            method=", ".join(sorted(set(arrays["method"].tolist()))) if "method" in arrays else "",
            estimator=measure_title(estimated[0], measures) if estimated else "estimate",
            images=images[images.index.isin(report.indices[report.clean_correct])],
        )


def sandwich_tables(found: Sequence[Sandwich]) -> TableSet:
    """A table for each data set, norm and estimator, with a row for each network."""
    tables = [
        Table(
            f"Bounds from both sides, {about}",
            [*several[0].row()],
            [[*map(_cell, one.row().values())] for one in several],
            [_NOTE],
        )
        for (about, _), several in grouped(found, lambda one: (one.about, one.estimator)).items()
    ]
    return TableSet("sandwich", tables, pd.DataFrame([{"evaluation": one.about, **one.row()} for one in found]))


def _cell(value: object) -> Cell:
    if isinstance(value, float):
        return Cell("" if np.isnan(value) else "none found" if np.isinf(value) else f"{value:.3g}")
    return Cell(str(value))


def sandwich_figures(found: Sequence[Sandwich], notes: list[str]) -> style.Drawn:
    """A figure for each data set and norm, with a panel for each network."""
    for about, several in grouped((one for one in found if len(one.images)), lambda one: one.about).items():
        architectures = [one.architecture for one in several]
        shown = style.first_of(dict(enumerate(several)), architectures.__getitem__, _PANELS, "sandwich", notes)
        yield f"sandwich-{several[0].norm}", sandwich_figure([*shown.values()], about)


@style.printed
def sandwich_figure(networks: Sequence[Sandwich], about: str) -> Figure:
    """Certified radius, estimate and distance found of every image, in the order of the distances."""
    figure, panels = style.tiled(len(networks), 2.1, 0.7, shared=True)
    for panel, one in zip(panels.flat, networks, strict=False):
        images = one.images.sort_values(["distance", "certified"])
        places = np.arange(len(images))
        certified, estimate, distance = images[["certified", "estimate", "distance"]].to_numpy().T
        broken = np.isfinite(distance)
        both = broken & (certified > 0)
        panel.vlines(places[both], certified[both], distance[both], color="0.85", linewidth=1.0, zorder=0)
        series = (
            ("distance found", distance, broken, "v", style.COLORS[1]),
            (f"{one.estimator} (estimate)", estimate, ~np.isnan(estimate), "x", style.COLORS[2]),
            ("certified radius", certified, certified > 0, "o", style.COLORS[0]),
        )
        for label, values, shown, marker, color in series:
            if shown.any():
                panel.plot(places[shown], values[shown], marker, markersize=3, linestyle="", color=color, label=label)
        panel.set(yscale="log", title=style.fitted(style.shown_network(one.network), 2.0))
        panel.minorticks_off()  # over several decades they took up to half of the time
        panel.grid(True)
    style.label_last(panels, "image, by distance")
    panels[0, 0].set_ylabel("length of a perturbation")
    figure.suptitle(style.fitted(about, 5.0))
    style.legend_below(figure, panels.flat)
    return figure
