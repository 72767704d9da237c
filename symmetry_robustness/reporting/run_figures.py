"""Figures that need the single images of runs: examples, measures, CLEVER beside distances."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from symmetry_robustness.reporting.comparability import digest, evaluation_data
from symmetry_robustness.reporting.epoch_figures import epoch_figures
from symmetry_robustness.reporting.evaluations import FINAL, Evaluation
from symmetry_robustness.reporting.figure_parts import NETWORKS, Drawn, first_of
from symmetry_robustness.reporting.figures import (
    Line,
    Pairs,
    accuracy_circle,
    attack_panel,
    estimate_against_distance,
)
from symmetry_robustness.reporting.frame import settings_key
from symmetry_robustness.reporting.measure_figures import Remove, Shown, measure_figures, shares_of
from symmetry_robustness.reporting.runs import Run
from symmetry_robustness.results.names import NORM_TITLES as NORMS

LAST: Final = "last.ckpt"  # the weights that a figure shows unless it says so
_PANELS: Final = 6  # networks whose CLEVER scores are drawn
_SHOWN: Final = 4  # networks whose pictures are drawn
_ATTACKS: Final = 2  # attacks whose examples are shown, the ones that broke most

# Name of a network -> its runs, by seed.
Networks = Mapping[str, Sequence[Run]]


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
    for name, run in first_of(pictured, _SHOWN, "examples and measures", notes).items():
        yield from picture_figures(name, run, remove)


def picture_figures(name: str, run: Run, remove: Remove) -> Drawn:
    """Adversarial examples and what can be shown of the measures, of each evaluation of a run."""
    for evaluation in run.evaluations.values():
        examples = evaluation.examples()
        strongest = list(examples.attacked)[:_ATTACKS]
        protocol = "final evaluation" if evaluation.protocol == FINAL else f"protocol {evaluation.protocol}"
        title = f"{name}, seed {run.seed}, {protocol}"
        title += "" if _of_last(evaluation) else f", {evaluation.weights}"
        images = {"clean": examples.clean, **examples.attacked}
        panel = attack_panel(images, {attack: examples.broken_at[attack] for attack in strongest}, title=title)
        if panel is not None and strongest:
            yield f"examples-{evaluation.protocol}-{name}", panel
        shown = Shown(examples.clean, examples.numbers)
        for measure, figure in measure_figures(evaluation.settings, evaluation.report.measures, shown, remove).items():
            yield f"{measure}-{evaluation.protocol}-{name}", figure


def clever_figures(networks: Networks, notes: list[str]) -> Drawn:
    """CLEVER beside the distance at which the same image was broken, for runs that have both in one norm."""
    groups: dict[str, dict[str, Pairs]] = {}
    norms: dict[str, str] = {}
    for name, several in networks.items():
        for settings, pairs in _scored(several[0]):
            key = digest(settings)
            norms[key] = NORMS.get(settings["norm"], settings["norm"])
            groups.setdefault(key, {}).setdefault(name, pairs)
    for key, found in groups.items():
        shown = first_of(found, _PANELS, "CLEVER", notes)
        axes = {"estimate": f"CLEVER score ({norms[key]})", "distance": f"minimal distance found ({norms[key]})"}
        yield f"clever-{norms[key].replace('ℓ', 'l').replace('∞', 'inf')}", estimate_against_distance(shown, **axes)


def _scored(run: Run) -> Iterator[tuple[dict[str, Any], Pairs]]:
    """Settings of CLEVER, and the images that have a score and were attacked in its norm."""
    for scored in run.evaluations.values():
        if "clever" not in scored.content["measures"] or not _of_last(scored):
            continue
        settings = scored.settings["measures"]["clever"]
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
    report = evaluation.report
    for name, settings in evaluation.settings.get("measures", {}).items():
        if settings["class"] == "MinimalDistance" and settings["norm"] == norm:
            found = report.measures[name]
            return found["indices"], found["distance"], found["saturated"].astype(np.bool_)
    if evaluation.norm != norm or not evaluation.attacks:
        return None
    smallest = np.minimum.reduce([*report.distance.values()])
    return report.indices, np.minimum(smallest, evaluation.epsilons[-1]), np.isinf(smallest)


def circle_figures(networks: Networks, notes: list[str]) -> Drawn:
    """Accuracy under rotations by `Symmetry`, all networks in one circle; each alone is drawn with its pictures."""
    groups: dict[tuple[str, str, str], dict[str, Line]] = {}
    for name, several in networks.items():
        for evaluation in filter(_of_last, several[0].evaluations.values()):
            for measure, settings in evaluation.settings.get("measures", {}).items():
                if settings["class"] in ("Symmetry", "EquivarianceError") and len(settings["angles"]) > 2:
                    lines = shares_of(evaluation.report.measures[measure], "rotation", np.array(settings["angles"]))
                    key = (evaluation.protocol, measure, evaluation.section)
                    groups.setdefault(key, {})[name] = lines["accuracy"]
    for (protocol, measure, _), found in groups.items():
        if len(found) > 1:
            title = "accuracy on discs rotated about their centre, first seed"
            yield (
                f"{measure}-{protocol}-circle",
                accuracy_circle(first_of(found, NETWORKS, measure, notes), title=title),
            )


def _of_last(evaluation: Evaluation) -> bool:
    """Whether it is of the last weights, as evaluations of early versions are taken to be."""
    return evaluation.weights in ("", LAST)
