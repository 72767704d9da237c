"""Bounds from both sides: what is certified, what is estimated and what an attack found, image by image."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from symmetry_robustness.reporting.evaluation import Evaluation
from symmetry_robustness.reporting.figures.labels import Drawn, shown_network
from symmetry_robustness.reporting.figures.style import COLORS, fitted, label_last, legend_below, printed, tiled
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
    """Bounds of one network in one norm; arrays are (N,), of images that are classified correctly.

    Attributes:
        about: data, number of images and norm.
        norm: of the lengths.
        network: name, with the marks of its checks.
        method: of the certificates.
        certified: proven radii.
        estimate: estimated lower bounds, NaN where there are none.
        estimator: title of the measure that estimates.
        distance: lengths of changes that an attack found; inf where none succeeded.
    """

    about: str
    norm: str
    network: str
    method: str
    certified: NDArray[np.float64]
    estimate: NDArray[np.float64]
    distance: NDArray[np.float64]
    estimator: str = "estimate"

    def row(self) -> dict[str, Any]:
        """Numbers of the table by column; shares of the images that have what is compared."""
        broken, estimated = np.isfinite(self.distance), ~np.isnan(self.estimate)
        ratio = self.certified[broken] / self.distance[broken]
        return {
            "network": self.network,
            "images": len(self.certified),
            "method": self.method,
            "certified": _median(self.certified),
            self.estimator: _median(self.estimate[estimated]),
            "distance found": _median(self.distance),
            "certified / distance %": 100 * _median(ratio),
            f"{self.estimator} refuted %": 100 * _share(self.estimate > self.distance, estimated & broken),
            f"{self.estimator} too pessimistic %": 100 * _share(self.estimate < self.certified, estimated),
            "certificate beyond distance": int((self.certified > self.distance).sum()),
        }


def sandwiches(runs: Sequence[Run]) -> list[Sandwich]:
    """Those of all evaluations that have a proven lower bound and a distance found in its norm."""
    found = [
        (one, run.place) for run in runs for evaluation in run.evaluations.values() for one in _of(run, evaluation)
    ]
    known = Counter((one.about, one.network) for one, _ in found)
    return [
        one if known[one.about, one.network] == 1 else replace(one, network=f"{one.network}, {place}")
        for one, place in found
    ]


def _of(run: Run, evaluation: Evaluation) -> Iterator[Sandwich]:
    measures: Mapping[str, Any] = evaluation.report.settings.get("measures", {})
    if not any(settings.get("proven") for settings in measures.values()):
        return
    report = evaluation.whole()
    for name, settings in measures.items():
        if not settings.get("proven") or name not in report.measures:
            continue
        norm, arrays = settings.get("norm"), report.measures[name]
        alike = {other: one for other, one in measures.items() if one.get("norm") == norm and other in report.measures}
        upper = [one for one in alike if alike[one].get("upper_bound")]
        lower = [one for one in alike if alike[one].get("lower_bound") and not alike[one].get("proven")]
        if not upper:
            continue
        correct = np.isin(arrays["indices"], report.indices[report.clean_correct])
        numbers = arrays["indices"][correct]
        found = report.measures[upper[0]]
        distance = np.where(found["saturated"], np.inf, found[alike[upper[0]]["upper_bound"]])
        estimate, estimator = np.full(len(numbers), np.nan), "estimate"
        if lower:
            estimator = measure_title(lower[0], measures)
            scores = report.measures[lower[0]]
            estimate = _aligned(numbers, scores["indices"], scores[alike[lower[0]]["lower_bound"]])
        distance = _aligned(numbers, found["indices"], distance)
        both = ~np.isnan(distance)
        title = f"{evaluation.data_title}, {evaluation.split} images, {NORM_TITLES.get(str(norm), norm)}"
        methods = ", ".join(sorted(set(arrays["method"].tolist()))) if "method" in arrays else ""
        label = f"{run.title}, seed {run.seed}{flag(evaluation.status)}"
        bounds = arrays[settings["lower_bound"]][correct]
        yield Sandwich(title, str(norm), label, methods, bounds[both], estimate[both], distance[both], estimator)


def _aligned(numbers: NDArray[np.int64], owners: NDArray[np.int64], values: NDArray[Any]) -> NDArray[np.float64]:
    """Values of the images with these numbers; NaN where an image has none."""
    known = dict(zip(owners.tolist(), values.tolist(), strict=True))
    return np.array([known.get(number, np.nan) for number in numbers.tolist()], dtype=np.float64)


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _share(which: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    return float(which[among].mean()) if among.any() else float("nan")


def sandwich_tables(found: Sequence[Sandwich]) -> TableSet:
    """A table for each data set, norm and estimator, with a row for each network."""
    groups: dict[tuple[str, str], list[Sandwich]] = {}
    for one in found:
        groups.setdefault((one.about, one.estimator), []).append(one)
    tables = [
        Table(
            f"Bounds from both sides, {about}",
            [*several[0].row()],
            [[*map(_cell, one.row().values())] for one in several],
            [_NOTE],
        )
        for (about, _), several in groups.items()
    ]
    return TableSet("sandwich", tables, pd.DataFrame([{"evaluation": one.about, **one.row()} for one in found]))


def _cell(value: object) -> Cell:
    if isinstance(value, float):
        return Cell("" if np.isnan(value) else "none found" if np.isinf(value) else f"{value:.3g}")
    return Cell(str(value))


def sandwich_figures(found: Sequence[Sandwich], notes: list[str]) -> Drawn:
    """A figure for each data set and norm, with a panel for each network."""
    groups: dict[str, list[Sandwich]] = {}
    for one in found:
        if len(one.certified):
            groups.setdefault(one.about, []).append(one)
    for about, several in groups.items():
        if len(several) > _PANELS:
            notes.append(f"sandwich: {len(several) - _PANELS} of {len(several)} networks are not drawn")
        yield f"sandwich-{several[0].norm}", sandwich_figure(several[:_PANELS], about)


@printed
def sandwich_figure(networks: Sequence[Sandwich], about: str) -> Figure:
    """Certified radius, estimate and distance found of every image, in the order of the distances.

    Args:
        networks: a panel for each, of one data set and norm.
        about: the data set and norm.
    """
    figure, panels = tiled(len(networks), 2.1, 0.7, shared=True)
    for panel, one in zip(panels.flat, networks, strict=False):
        order = np.lexsort((one.certified, one.distance))
        places = np.arange(len(order))
        certified, estimate, distance = one.certified[order], one.estimate[order], one.distance[order]
        broken = np.isfinite(distance)
        both = broken & (certified > 0)
        panel.vlines(places[both], certified[both], distance[both], color="0.85", linewidth=1.0, zorder=0)
        series = (
            ("distance found", distance, broken, "v", COLORS[1]),
            (f"{one.estimator} (estimate)", estimate, ~np.isnan(estimate), "x", COLORS[2]),
            ("certified radius", certified, certified > 0, "o", COLORS[0]),
        )
        for label, values, shown, marker, color in series:
            if shown.any():
                panel.plot(places[shown], values[shown], marker, markersize=3, linestyle="", color=color, label=label)
        panel.set(yscale="log", title=fitted(shown_network(one.network), 2.2))
        panel.grid(True)
    label_last(panels, "image, by distance")
    panels[0, 0].set_ylabel("length of a perturbation")
    figure.suptitle(fitted(about, 5.0))
    legend_below(figure, panels.flat)
    return figure
