"""Robustness over epochs, from the evaluations during training."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from symmetry_robustness.reporting.comparability import data_title, digest
from symmetry_robustness.reporting.figure_parts import NETWORKS, Drawn, first_of
from symmetry_robustness.reporting.figures import Line, curve_grid, epsilon_name
from symmetry_robustness.reporting.runs import Run
from symmetry_robustness.reporting.statistics import seeds_interval, share_interval
from symmetry_robustness.results.files import read_content
from symmetry_robustness.results.names import NORM_TITLES as NORMS
from symmetry_robustness.results.names import metric_key

_SEEDS: Final = 5  # runs of a network whose epochs are read
_POINTS: Final = 40  # epochs of a run that are read


class Epoch(NamedTuple):
    """One evaluation during training: shares by title of their panel, over so many images."""

    number: int
    images: int
    shares: dict[str, float]


def epoch_figures(networks: Mapping[str, Sequence[Run]], notes: list[str]) -> Drawn:
    """Accuracy without attack and under the worst of the attacks after the epochs that were evaluated."""
    groups: dict[tuple[str, ...], dict[str, list[list[Epoch]]]] = {}
    for name, several in networks.items():
        for run in several[:_SEEDS]:
            about, epochs = _epochs(run, notes)
            if len(epochs) > 1:
                groups.setdefault(about, {}).setdefault(name, []).append(epochs)
    for (data, part, *_), found in groups.items():
        shown = first_of(found, NETWORKS, "robustness over epochs", notes)
        panels = {
            title: {name: _mean_line(several, title) for name, several in shown.items()}
            for title in next(iter(shown.values()))[0][0].shares
        }
        title = f"{data}, {part} images during training; bands: 95 % over seeds and images"
        yield "epochs", curve_grid({"": panels}, x_label="epoch", title=title)


def _epochs(run: Run, notes: list[str]) -> tuple[tuple[str, ...], list[Epoch]]:
    """What the evaluations during a run have in common (data, split, protocol, panels), and what they found.

    No more than `_POINTS` are read; one that is damaged, or of another protocol than the first, is left out.
    """
    files = run.during_files()
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, min(len(files), _POINTS)).astype(int))]
    common: tuple[str, ...] = ()
    epochs = []
    for number, path in chosen:
        try:
            content = read_content(path)
            shares = _panel_shares(content)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            notes.append(f"{path}: damaged ({type(error).__name__}: {error})")
            continue
        about = (data_title(run.config["data"]), path.stem.partition("-")[0], digest(content["settings"]), *shares)
        common = common or about
        if about == common:
            epochs.append(Epoch(number + 1, int(content["images"]), shares))
        else:
            notes.append(f"{path}: another protocol than after the epochs before; left out")
    return common, epochs


def _panel_shares(content: Mapping[str, Any]) -> dict[str, float]:
    """Clean accuracy, and the worst case at the first, the middle and the last epsilon of the grid."""
    summary, grid = content["summary"], content["epsilons"]
    shares = {"clean": float(summary["clean_accuracy"])}
    if content["attacks"]:
        for index in dict.fromkeys((0, len(grid) // 2, len(grid) - 1)):
            name = f"worst case, {NORMS[content['norm']]} ε = {epsilon_name(grid[index])}"
            shares[name] = float(summary[metric_key("worst_case", content["norm"], grid[index])])
    return shares


def _mean_line(several: Sequence[Sequence[Epoch]], title: str) -> Line:
    """Mean over seeds at the epochs that all of them have, with Student's interval; of a single one over images."""
    by_number = [{epoch.number: epoch for epoch in epochs} for epochs in several]
    numbers = sorted(set.intersection(*map(set, by_number)))
    values = np.array([[epochs[number].shares[title] for number in numbers] for epochs in by_number])
    positions, mean = np.array(numbers, dtype=np.float64), values.mean(axis=0)
    images = np.array([by_number[0][number].images for number in numbers], dtype=np.float64)
    error = np.sqrt(mean * (1 - mean) / images)
    low, high = share_interval(mean, error, images)
    if len(several) > 1:
        wider = seeds_interval(mean, values.std(axis=0, ddof=1), len(several), error)
        low, high = np.minimum(low, wider[0]).clip(0), np.maximum(high, wider[1]).clip(max=1)
    return Line(positions, mean, low, high)
