"""Figures that need the single images or epochs of runs: examples, measures, CLEVER, robustness during training."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from symmetry_robustness.reporting.evaluations import FINAL, Evaluation
from symmetry_robustness.reporting.figures import (
    COLORS,
    Line,
    Pairs,
    accuracy_circle,
    attack_panel,
    curve_grid,
    epsilon_name,
    estimate_against_distance,
)
from symmetry_robustness.reporting.frame import settings_key
from symmetry_robustness.reporting.measure_figures import Remove, Shown, measure_figures, shares_of
from symmetry_robustness.reporting.runs import Run
from symmetry_robustness.reporting.settings import data_title, digest, evaluation_data
from symmetry_robustness.reporting.statistics import seeds_interval, share_interval

LAST: Final = "last.ckpt"  # the weights that a figure shows unless it says so
_NETWORKS: Final = len(COLORS)
_PANELS: Final = 6  # networks whose CLEVER scores are drawn
_SHOWN: Final = 4  # networks whose pictures are drawn
_ATTACKS: Final = 2  # attacks whose examples are shown, the ones that broke most
_SEEDS: Final = 5  # runs of a network whose epochs are read
_POINTS: Final = 40  # epochs of a run that are read
_NORMS: Final = {"linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1"}

# Name of a network -> its runs, by seed.
Networks = Mapping[str, Sequence[Run]]
# Pairs of a file's stem and a figure.
Drawn = Iterator[tuple[str, Figure]]
T = TypeVar("T")


def run_figures(runs: Sequence[Run], names: Mapping[str, str], remove: Remove, notes: list[str]) -> Drawn:
    """Stems and figures, of a few networks each.

    Args:
        runs: all runs.
        names: settings key -> name of the network.
        remove: sets values of images to zero as `RemovalTolerance` does.
        notes: gets a line for each thing that is left out.
    """
    networks: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        networks.setdefault(names[settings_key(run, LAST)], []).append(run)
    yield from epoch_figures(networks, notes)
    yield from clever_figures(networks, notes)
    yield from circle_figures(networks, notes)
    pictured = {name: several[0] for name, several in networks.items() if several[0].evaluations}
    for name, run in _first(pictured, _SHOWN, "examples and measures", notes).items():
        yield from picture_figures(name, run, remove)


def picture_figures(name: str, run: Run, remove: Remove) -> Drawn:
    """Adversarial examples and what can be shown of the measures, of each evaluation of a run."""
    for evaluation in run.evaluations.values():
        arrays = _arrays(evaluation)
        examples = {key.removeprefix("examples."): found for key, found in arrays.items() if key[:9] == "examples."}
        clean = examples.get("clean", np.zeros((0, 3, 1, 1), np.float32))
        rows = np.argsort(arrays["indices"], kind="stable")[: len(clean)]
        broken = {attack: arrays[f"broken_at.{attack}"] for attack in evaluation.attacks}
        strongest = sorted(broken, key=lambda attack: -int(np.isfinite(broken[attack]).sum()))[:_ATTACKS]
        protocol = "final evaluation" if evaluation.protocol == FINAL else f"protocol {evaluation.protocol}"
        title = f"{name}, seed {run.seed}, {protocol}"
        title += "" if _of_last(evaluation) else f", {evaluation.weights}"
        panel = attack_panel(examples, {attack: broken[attack][rows] for attack in strongest}, title=title)
        if panel is not None and strongest:
            yield f"examples-{evaluation.protocol}-{name}", panel
        shown = Shown(clean, arrays["indices"][rows])
        for measure, figure in measure_figures(evaluation.settings, _measures(arrays), shown, remove).items():
            yield f"{measure}-{evaluation.protocol}-{name}", figure


def clever_figures(networks: Networks, notes: list[str]) -> Drawn:
    """CLEVER beside the distance at which the same image was broken, for runs that have both in one norm."""
    groups: dict[str, dict[str, Pairs]] = {}
    norms: dict[str, str] = {}
    for name, several in networks.items():
        for settings, pairs in _scored(several[0]):
            key = digest(settings)
            norms[key] = _NORMS.get(settings["norm"], settings["norm"])
            groups.setdefault(key, {}).setdefault(name, pairs)
    for key, found in groups.items():
        shown = _first(found, _PANELS, "CLEVER", notes)
        axes = {"estimate": f"CLEVER score ({norms[key]})", "distance": f"minimal distance found ({norms[key]})"}
        yield f"clever-{norms[key].replace('ℓ', 'l').replace('∞', 'inf')}", estimate_against_distance(shown, **axes)


def _scored(run: Run) -> Iterator[tuple[dict[str, Any], Pairs]]:
    """Settings of CLEVER, and the images that have a score and were attacked in its norm."""
    for scored in run.evaluations.values():
        if not scored.content.get("clever") or not _of_last(scored):
            continue
        settings = scored.content["clever"]
        numbers, scores = scored.measured("clever")
        same = [other for other in run.evaluations.values() if _subject(other) == _subject(scored)]
        found = [pair for other in same if (pair := _distances(other, settings["norm"]))]
        if found:
            measured, distances, saturated = found[0]
            _, mine, theirs = np.intersect1d(numbers, measured, return_indices=True)
            kept = distances[theirs] > 0
            if kept.any():
                yield settings, Pairs(scores[mine][kept], distances[theirs][kept], saturated[theirs][kept])


def _subject(evaluation: Evaluation) -> tuple[str, str, str]:
    """What was evaluated: images and weights."""
    return digest(evaluation_data(evaluation.data, evaluation.split)), evaluation.split, evaluation.weights


def _distances(evaluation: Evaluation, norm: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
    """Numbers of images, smallest distances found in a norm (0 where misclassified) and where nothing was found."""
    if evaluation.released:
        return None
    arrays = _arrays(evaluation)
    for name, settings in evaluation.settings.get("measures", {}).items():
        if settings["class"] == "MinimalDistance" and settings["norm"] == norm:
            found = _measures(arrays)[name]
            return found["indices"], found["distance"], found["saturated"].astype(np.bool_)
    if evaluation.norm != norm or not evaluation.attacks:
        return None
    smallest = np.minimum.reduce([arrays[f"distance.{attack}"] for attack in evaluation.attacks])
    return arrays["indices"], np.minimum(smallest, evaluation.epsilons[-1]), np.isinf(smallest)


def circle_figures(networks: Networks, notes: list[str]) -> Drawn:
    """Accuracy under rotations by `Symmetry`, all networks in one circle; each alone is drawn with its pictures."""
    groups: dict[tuple[str, str, str], dict[str, Line]] = {}
    for name, several in networks.items():
        for evaluation in filter(_of_last, several[0].evaluations.values()):
            for measure, settings in evaluation.settings.get("measures", {}).items():
                if settings["class"] == "Symmetry" and len(settings["angles"]) > 2:
                    lines = shares_of(_measures(_arrays(evaluation))[measure], "rotation", np.array(settings["angles"]))
                    key = (evaluation.protocol, measure, evaluation.section)
                    groups.setdefault(key, {})[name] = lines["accuracy"]
    for (protocol, measure, _), found in groups.items():
        if len(found) > 1:
            title = "accuracy on discs rotated about their centre, first seed"
            yield f"{measure}-{protocol}-circle", accuracy_circle(_first(found, _NETWORKS, measure, notes), title=title)


# --- robustness during training ---------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    """One evaluation during training: shares by title of their panel, over so many images."""

    number: int
    images: int
    shares: dict[str, float]


def epoch_figures(networks: Networks, notes: list[str]) -> Drawn:
    """Accuracy without attack and under the worst of the attacks after the epochs that were evaluated."""
    groups: dict[tuple[str, ...], dict[str, list[list[Epoch]]]] = {}
    for name, several in networks.items():
        for run in several[:_SEEDS]:
            about, epochs = _epochs(run, notes)
            if len(epochs) > 1:
                groups.setdefault(about, {}).setdefault(name, []).append(epochs)
    for (data, part, _), found in groups.items():
        shown = _first(found, _NETWORKS, "robustness over epochs", notes)
        panels = {
            title: {name: _mean_line(several, title) for name, several in shown.items()}
            for title in next(iter(shown.values()))[0][0].shares
        }
        title = f"{data}, {part} images during training; bands: 95 % over seeds, or images of a single one"
        yield "epochs", curve_grid({"": panels}, x_label="epoch", title=title)


def _epochs(run: Run, notes: list[str]) -> tuple[tuple[str, str, str], list[Epoch]]:
    """Data, split and protocol of the evaluations during a run, and what they found; no more than `_POINTS`."""
    files = run.during_files()
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, min(len(files), _POINTS)).astype(int))]
    about, epochs = ("", "", ""), []
    for number, path in chosen:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            about = (data_title(run.config["data"]), path.stem.partition("-")[0], digest(content["settings"]))
            epochs.append(Epoch(number + 1, int(content["images"]), _panel_shares(content)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{path}: damaged ({type(error).__name__}: {error})")
    return about, epochs


def _panel_shares(content: Mapping[str, Any]) -> dict[str, float]:
    """Clean accuracy, and the worst case at the first, the middle and the last epsilon of the grid."""
    summary, grid = content["summary"], content["epsilons"]
    shares = {"clean": float(summary["clean_accuracy"])}
    if content["attacks"]:
        for index in dict.fromkeys((0, len(grid) // 2, len(grid) - 1)):
            name = f"worst case, {_NORMS[content['norm']]} ε = {epsilon_name(grid[index])}"
            shares[name] = float(summary[f"worst_case.{content['norm']}_{grid[index]:.4g}"])
    return shares


def _mean_line(several: Sequence[Sequence[Epoch]], title: str) -> Line:
    """Mean over seeds at the epochs that all of them have, with Student's interval; of a single one over images."""
    by_number = [{epoch.number: epoch for epoch in epochs} for epochs in several]
    numbers = sorted(set.intersection(*map(set, by_number)))
    values = np.array([[epochs[number].shares[title] for number in numbers] for epochs in by_number])
    positions, mean = np.array(numbers, dtype=np.float64), values.mean(axis=0)
    if len(several) > 1:
        low, high = seeds_interval(mean, values.std(axis=0, ddof=1), len(several))
    else:
        images = np.array([by_number[0][number].images for number in numbers], dtype=np.float64)
        low, high = share_interval(mean, np.sqrt(mean * (1 - mean) / images), images)
    return Line(positions, mean, low, high)


# --- files ------------------------------------------------------------------------------------------------------------


def _of_last(evaluation: Evaluation) -> bool:
    """Whether it is of the last weights, as evaluations of early versions are taken to be."""
    return evaluation.weights in ("", LAST)


def _arrays(evaluation: Evaluation) -> dict[str, NDArray[Any]]:
    """All arrays of an evaluation."""
    with np.load(evaluation.path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _measures(arrays: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
    """Measure -> array name -> array."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for key, values in arrays.items():
        kind, _, rest = key.partition(".")
        if kind == "measures":
            measure, _, name = rest.partition(".")
            found.setdefault(measure, {})[name] = values
    return found


def _first(found: Mapping[str, T], most: int, what: str, notes: list[str]) -> dict[str, T]:
    """So many of the networks, and a note if there are more."""
    if len(found) > most:
        notes.append(f"{what}: the first {most} of {len(found)} networks are drawn")
    return dict(list(found.items())[:most])
