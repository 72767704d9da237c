"""The figures of a report: those that its runs support, from the numbers of its tables."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from symmetry_robustness.reporting.aggregate import Summary
from symmetry_robustness.reporting.attack_figures import attack_figures
from symmetry_robustness.reporting.figure_parts import (
    NETWORKS,
    Drawn,
    first_of,
    intervals_over,
    line_of,
    shown_data,
    shown_network,
)
from symmetry_robustness.reporting.figures import accuracy_circle, corruption_map, curve_grid, save_figure
from symmetry_robustness.reporting.frame import BENCHMARK, CORRUPTED, SEVERITIES, records, split
from symmetry_robustness.reporting.measure_figures import Remove
from symmetry_robustness.reporting.run_figures import LAST, run_figures
from symmetry_robustness.reporting.runs import VIEWS, Run

_MAPS: Final = 4  # networks whose corruptions are drawn
_STEM: Final = 100  # letters of a file's name


def write_figures(runs: Sequence[Run], summary: Summary, directory: Path, remove: Remove) -> list[str]:
    """Draw what the runs support, as PDF and PNG.

    Args:
        runs: that were read.
        summary: of them.
        directory: where the files go.
        remove: sets values of images to zero as `RemovalTolerance` does.

    Returns:
        One line for each thing that is left out, because a figure holds no more.
    """
    directory.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    stems: Counter[str] = Counter()
    drawn = (
        attack_figures(summary, notes),
        view_figures(summary, notes),
        corruption_figures(summary, notes),
        run_figures(runs, network_names(summary), remove, notes),
    )
    for figures in drawn:
        for name, figure in figures:
            stem = re.sub(r"[^A-Za-z0-9=._-]+", "_", name)[:_STEM]
            stems[stem] += 1
            save_figure(figure, directory / (stem if stems[stem] == 1 else f"{stem}-{stems[stem]}"))
    return notes


def network_names(summary: Summary) -> dict[str, str]:
    """What figures call each network, by settings key: as tables do, with the data set where that is not enough."""
    rows = summary.results[summary.results["weights"] == LAST]
    rows = rows.loc[rows["label"].str.len().sort_values(kind="stable").index].drop_duplicates("settings")
    plain = Counter(rows["label"])
    full = {row.settings: row.label if plain[row.label] == 1 else f"{row.label}, {row.data}" for row in records(rows)}
    counts = Counter(full.values())
    names = {key: name if counts[name] == 1 else f"{name} {key[:4]}" for key, name in full.items()}
    return {key: shown_network(name) for key, name in names.items()}


def view_figures(summary: Summary, notes: list[str]) -> Drawn:
    """Accuracy over the angle, also around the circle, and over the scale in which test images were shown."""
    for kind, x_label in VIEWS.items():
        rows = summary.results[summary.results["view"].str.startswith(f"{kind}_")].copy()
        rows["at"] = rows["view"].str.removeprefix(f"{kind}_").astype(float)
        for found in split(rows, "section").values():
            networks = first_of(split(found, "settings"), NETWORKS, f"views, {kind}", notes)
            lines = {
                shown_network(str(one["label"].iloc[0])): line_of(one.sort_values("at"), "at")
                for one in networks.values()
            }
            data = re.sub(r",? ?test_transform=\w+\([^)]*\)", "", str(found["data"].iloc[0])).replace(" ()", "")
            title = f"{shown_data(data)}; bands: 95 % over {intervals_over(found)}"
            step = 90.0 if kind == "rotation" else None
            yield f"views-{kind}", curve_grid({"": {"": lines}}, x_label=x_label, title=title, x_step=step)
            if kind == "rotation" and found["at"].nunique() > 3:
                yield f"views-{kind}-circle", accuracy_circle(lines)


def corruption_figures(summary: Summary, notes: list[str]) -> Drawn:
    """Error under each corruption of the benchmark at each severity."""
    rows = summary.results[summary.results["view"].isin(CORRUPTED)]
    for found in split(rows, "section").values():
        errors: dict[str, NDArray[np.float64]] = {}
        for one in split(found, "settings").values():
            error = 1 - one.set_index("view")["value"].reindex(CORRUPTED)
            table = error.to_numpy(np.float64).reshape(len(BENCHMARK), len(SEVERITIES))
            errors[shown_network(str(one["label"].iloc[0]))] = table
        shown = first_of(errors, _MAPS, "corruptions", notes)
        names = [corruption.replace("_", " ") for corruption in BENCHMARK]
        yield "corruptions", corruption_map(shown, names, [str(severity) for severity in SEVERITIES])
