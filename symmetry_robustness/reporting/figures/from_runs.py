"""The figures of a report: those that its runs support."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from symmetry_robustness.corruption_names import BENCHMARK, SEVERITIES
from symmetry_robustness.reporting.aggregate import Summary
from symmetry_robustness.reporting.comparability import data_title, evaluation_data, shown_data, told_apart
from symmetry_robustness.reporting.evaluation import FINAL, Evaluation
from symmetry_robustness.reporting.figures import style
from symmetry_robustness.reporting.figures.curves import accuracy_circle, curve_grid
from symmetry_robustness.reporting.figures.examples import attack_rows, example_panel
from symmetry_robustness.reporting.figures.from_report import comparison_figures, measure_figures
from symmetry_robustness.reporting.figures.heat_maps import heat_maps
from symmetry_robustness.reporting.figures.lower_bounds import Pairs, estimate_against_distance
from symmetry_robustness.reporting.figures.style import NETWORKS, Drawn, Line, first_of, shown_network
from symmetry_robustness.reporting.figures.under_attack import attack_figures
from symmetry_robustness.reporting.frame import CORRUPTED, by_image, grouped, settings_key, split
from symmetry_robustness.reporting.load import VIEWS, Run
from symmetry_robustness.reporting.sandwich import sandwich_figures, sandwiches
from symmetry_robustness.reporting.statistics import interval
from symmetry_robustness.reporting.tradeoff import tradeoff_figures, tradeoffs
from symmetry_robustness.reporting.transfer import transfer_figures, transfer_rows
from symmetry_robustness.results.names import NORM_TITLES, digest, epsilon_name, measure_title

_LAST: Final = "last.ckpt"  # the weights that a figure shows unless it says so
_MAPS: Final = 4  # networks whose corruptions are drawn
_PANELS: Final = 6  # networks whose lower bounds are drawn
_PICTURED: Final = 4  # networks whose pictures are drawn
_ATTACKS: Final = 2  # attacks whose examples are shown, the ones that broke most
_STEM: Final = 100  # letters of a file's name
_WORST_CASE: Final = re.compile(rf"robust/worst_case/({'|'.join(NORM_TITLES)})_(.+)")

# Name of a network -> its runs, by seed.
Networks = Mapping[str, Sequence[Run]]


def write_figures(runs: Sequence[Run], summary: Summary, directory: Path) -> list[str]:
    """Draw as PDF and PNG what the runs support; returns a line for each thing that figures have no room for."""
    directory.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    stems: Counter[str] = Counter()
    drawn = itertools.chain(
        attack_figures(summary, notes),
        view_figures(summary, notes),
        corruption_figures(summary, notes),
        run_figures(runs, network_names(summary), notes),
        transfer_figures(transfer_rows(runs)),
        sandwich_figures(sandwiches(runs), notes),
        tradeoff_figures(tradeoffs(summary, runs), summary.guessing),
    )
    for name, figure in drawn:
        stem = re.sub(r"[^A-Za-z0-9=._-]+", "_", name)[:_STEM]
        stems[stem] += 1
        style.save_figure(figure, directory / (stem if stems[stem] == 1 else f"{stem}-{stems[stem]}"))
    return notes


def network_names(summary: Summary) -> dict[str, str]:
    """Names of the networks in figures, by settings key: as in tables, with the data set where that is not enough."""
    rows = summary.results[summary.results["weights"] == _LAST]
    rows = rows.loc[rows["label"].str.len().sort_values(kind="stable").index].drop_duplicates("settings")
    names = told_apart(rows["label"].tolist(), rows["data"].tolist(), rows["settings"].str[:4].tolist())
    return dict(zip(rows["settings"], map(shown_network, names), strict=True))


def view_figures(summary: Summary, notes: list[str]) -> Drawn:
    """Accuracy over the angle, also around the circle, and over the scale in which test images were shown."""
    for kind, x_label in VIEWS.items():
        rows = summary.results[summary.results["view"].str.startswith(f"{kind}_")].copy()
        rows["at"] = rows["view"].str.removeprefix(f"{kind}_").astype(float)
        for found in split(rows, "comparison_group").values():
            networks = split(found, "settings")
            shown = first_of(networks, _architecture_in(networks), NETWORKS, f"views, {kind}", notes)
            lines = {
                shown_network(str(one["label"].iloc[0])): style.line_of(one.sort_values("at"), "at")
                for one in shown.values()
            }
            title = f"{shown_data(str(found['data'].iloc[0]))}; bands: 95 % over {style.intervals_over(found)}"
            step = 90.0 if kind == "rotation" else None
            yield f"views-{kind}", curve_grid({"": {"": lines}}, x_label=x_label, title=title, x_step=step)
            if kind == "rotation" and found["at"].nunique() > 3:
                yield f"views-{kind}-circle", accuracy_circle(lines)


def corruption_figures(summary: Summary, notes: list[str]) -> Drawn:
    """Error under each corruption of the benchmark at each severity."""
    rows = summary.results[summary.results["view"].isin(CORRUPTED)]
    for found in split(rows, "comparison_group").values():
        networks, maps = split(found, "settings"), {}
        for one in first_of(networks, _architecture_in(networks), _MAPS, "corruptions", notes).values():
            errors = 1 - one.set_index("view")["value"].reindex(CORRUPTED).to_numpy(np.float64)
            name = f"{shown_network(str(one['label'].iloc[0]))}\nmean {100 * np.nanmean(errors):.1f} %"
            maps[name] = errors.reshape(-1, len(SEVERITIES))
        names = [corruption.replace("_", " ") for corruption in BENCHMARK]
        yield "corruptions", heat_maps(maps, names, [*map(str, SEVERITIES)], label="error (%)", x_label="severity")


def _architecture_in(networks: Mapping[str, pd.DataFrame]) -> Callable[[str], str]:
    """Name of the network with some settings, of which there may be several that were trained in different ways."""
    return lambda settings: str(networks[settings]["network"].iloc[0])


def run_figures(runs: Sequence[Run], names: Mapping[str, str], notes: list[str]) -> Drawn:
    """Figures that need the epochs or the single images of runs; `names` are of networks, by settings key."""
    by_seed = sorted(runs, key=lambda run: run.seed)
    # Reports of another checkpoint that was moved out of its run have no name there.
    networks = grouped(by_seed, lambda run: names.get(settings_key(run, _LAST)) or shown_network(run.name))
    first = {name: several[0] for name, several in networks.items() if several[0].evaluations}
    yield from epoch_figures(networks, notes)
    yield from lower_bound_figures(first, notes)
    yield from measure_comparisons(first, notes)
    shown = first_of(first, lambda name: first[name].name, _PICTURED, "examples and measures", notes)
    for name, run in shown.items():
        yield from picture_figures(name, run)


def picture_figures(name: str, run: Run) -> Drawn:
    """Adversarial examples and the plots of measures, of each evaluation of a run."""
    for evaluation in run.evaluations.values():
        report = evaluation.whole()
        protocol = "final evaluation" if evaluation.protocol == FINAL else f"protocol {evaluation.protocol}"
        title = f"{name}, seed {run.seed}, {protocol}"
        title += "" if _of_last(evaluation) else f", {evaluation.weights}"
        if len(rows := attack_rows(report, _ATTACKS)) > 1:
            yield f"examples-{evaluation.protocol}-{name}", example_panel(rows, title=title)
        for measure, figure in measure_figures(report).items():
            yield f"{measure}-{evaluation.protocol}-{name}", figure


def epoch_figures(networks: Networks, notes: list[str]) -> Drawn:
    """Accuracy without attack and under the worst of the attacks after the epochs that were evaluated."""
    groups: dict[tuple[str, ...], dict[str, list[pd.DataFrame]]] = {}
    for name, several in networks.items():
        for run in several:
            about, epochs = _epochs(run)
            if len(epochs) > 1:
                groups.setdefault(about, {}).setdefault(name, []).append(epochs)
    for (data, part, _, *titles), found in groups.items():
        shown = first_of(found, lambda name: networks[name][0].name, NETWORKS, "robustness over epochs", notes)
        panels = {title: {name: _mean_epochs(runs, title) for name, runs in shown.items()} for title in titles}
        title = f"{data}, {part} images during training; bands: 95 % over seeds and images"
        yield "epochs", curve_grid({"": panels}, x_label="epoch", title=title)


def _epochs(run: Run) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Data, split, protocol and panels of the evaluations during a run, and accuracies and `images` by epoch."""
    rows = [row for row in run.metrics() if "robust/clean" in row and "epoch" in row]
    data, callback = run.config["data"], run.config.get("callback") or {}
    part = callback.get("split") or ("validation" if data.get("validation_size") else "train")
    worst = [match for match in map(_WORST_CASE.fullmatch, rows[0] if rows else ()) if match]
    worst.sort(key=lambda match: (match[1], float(match[2])))
    shown = [worst[place] for place in sorted({0, len(worst) // 2, len(worst) - 1})] if worst else []
    titles = {m[0]: f"worst case, {NORM_TITLES[m[1]]} ε = {epsilon_name(float(m[2]))}" for m in shown}
    titles = {"robust/clean": "clean", **titles}
    epochs = pd.DataFrame(rows, columns=["epoch", "robust/images", *titles]).dropna(subset=[*titles])
    epochs = epochs.set_index("epoch").rename(columns={"robust/images": "images", **titles})
    epochs["images"] = epochs["images"].fillna(callback.get("num_images", math.nan))
    return (data_title(data), part, digest(run.config.get("robustness")), *titles.values()), epochs


def _mean_epochs(several: Sequence[pd.DataFrame], title: str) -> Line:
    """Mean over seeds, with its interval, after the epochs that all of them have."""
    last = pd.concat([epochs[~epochs.index.duplicated(keep="last")] for epochs in several])
    epochs = last.groupby(level=0).filter(lambda rows: len(rows) == len(several)).groupby(level=0)
    mean, images = epochs[title].mean(), epochs["images"].first()
    error = np.sqrt(mean * (1 - mean) / images)
    low, high = interval(mean, error, images, epochs[title].std(), len(several), is_share=True)
    return Line(mean.index.to_numpy(np.float64) + 1, mean.to_numpy(np.float64), low, high)


def lower_bound_figures(first: Mapping[str, Run], notes: list[str]) -> Drawn:
    """Measures that bound distances from below beside the distance at which the same image was broken."""
    groups: dict[str, tuple[str, str, str, dict[str, Pairs]]] = {}
    for name, run in first.items():
        for bounding in filter(_of_last, run.evaluations.values()):
            for title, (measure, array, norm) in bounding.lower_bounds.items():
                numbers, bounds = bounding.whole().per_image(measure, array)
                pairs = _pairs(run, bounding, norm, by_image(bounds, numbers))
                if pairs is not None:
                    about = (title, measure_title(title, bounding.measures), norm, dict[str, Pairs]())
                    groups.setdefault(digest(bounding.measures[measure]), about)[3].setdefault(name, pairs)
    for stem, title, norm, found in groups.values():
        shown = first_of(found, lambda name: first[name].name, _PANELS, title, notes)
        axes = {"estimate": f"{title} ({NORM_TITLES.get(norm, norm)})"}
        axes["distance"] = f"minimal distance found ({NORM_TITLES.get(norm, norm)})"
        yield f"{stem}-{norm}", estimate_against_distance(shown, **axes)


def _pairs(run: Run, bounding: Evaluation, norm: str, bounds: "pd.Series[float]") -> Pairs | None:
    """Bounds of images that were attacked in their norm, with the same weights, and are classified correctly."""
    for other in run.evaluations.values():
        if _subject(other) == _subject(bounding) and (found := _distances(other, norm)) is not None:
            both = found[found["distance"] > 0].join(bounds.rename("bound"), how="inner")
            pairs = Pairs(*(both[name].to_numpy() for name in ("bound", "distance", "saturated")))
            return pairs if len(both) else None
    return None


def _subject(evaluation: Evaluation) -> tuple[str, str, str]:
    """Images and weights of an evaluation."""
    return digest(evaluation_data(evaluation.data, evaluation.split)), evaluation.split, evaluation.weights


def _distances(evaluation: Evaluation, norm: str) -> pd.DataFrame | None:
    """Smallest `distance` found in a norm by image (0 where misclassified), `saturated` where nothing was found."""
    if evaluation.released:
        return None
    report = evaluation.whole()
    for measure, settings in evaluation.measures.items():
        if (array := settings.get("upper_bound")) and settings.get("norm") == norm:
            found = report.measures[measure]
            numbers, distance = found["indices"], found[array]
            saturated = found.get("saturated", np.isinf(distance)).astype(np.bool_)
            break
    else:
        if report.norm != norm or not report.distance:
            return None
        smallest = np.minimum.reduce([*report.distance.values()])
        numbers, distance = report.indices, np.minimum(smallest, report.epsilons[-1])
        saturated = np.isinf(smallest)
    return pd.DataFrame({"distance": by_image(distance, numbers), "saturated": by_image(saturated, numbers)})


def measure_comparisons(first: Mapping[str, Run], notes: list[str]) -> Drawn:
    """Figures of measures that hold several networks, the first seed of each."""
    groups: dict[str, dict[str, Evaluation]] = {}
    for name, run in first.items():
        for evaluation in filter(_of_last, run.evaluations.values()):
            if evaluation.means:
                groups.setdefault(evaluation.comparison_group, {}).setdefault(name, evaluation)
    for found in groups.values():
        shown = first_of(found, lambda name: first[name].name, NETWORKS, "measures", notes)
        reports = {name: evaluation.whole() for name, evaluation in shown.items()}
        for name, figure in comparison_figures(reports).items():
            yield f"{name}-{next(iter(shown.values())).protocol}", figure


def _of_last(evaluation: Evaluation) -> bool:
    """Whether it is of the last weights, as evaluations of early versions are taken to be."""
    return evaluation.weights in ("", _LAST)
