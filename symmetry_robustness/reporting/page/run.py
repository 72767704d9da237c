"""The part of a page that is about one run: what stands behind its numbers, read from its directory."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from symmetry_robustness.reporting.comparability import data_title, shown_data
from symmetry_robustness.reporting.evaluation import Evaluation
from symmetry_robustness.reporting.figures.examples import Rows, attack_rows, panel_rows, side_by_side
from symmetry_robustness.reporting.figures.from_report import Chart, measure_charts
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.page.questions import Question
from symmetry_robustness.reporting.statistics import share_interval
from symmetry_robustness.reporting.tables import mean_text, titled_means
from symmetry_robustness.results.names import flatten, measure_title
from symmetry_robustness.results.report import RobustnessReport

# Pictures are most of a page: so many images under so many attacks, the ones that broke most.
_IMAGES, _ATTACKS = 5, 2
_POINTS = 200  # of a line; a screen has no room for more
T = TypeVar("T")


def run_details(run: Run, name: str, title: str, questions: Sequence[Question], *, pictures: bool) -> dict[str, Any]:
    """Content of the template `run`; a page of many runs has `pictures` (examples, plots of measures) of some."""
    summary, evaluations = run.summary, {one.comparison_group: one for one in run.evaluations.values()}
    found = [evaluation.status for evaluation in evaluations.values()]
    clean, parameters, seconds = (summary.get(key) for key in ("clean_accuracy", "parameters", "training_seconds"))
    ordered = sorted(questions, key=lambda question: [*evaluations, question.group.key].index(question.group.key))
    parts = [_part(run, question, evaluations.get(question.group.key), pictures=pictures) for question in ordered]
    config = run.directory / "config.yaml"
    return {
        "name": name,
        "title": f"{title}, seed {run.seed}",
        "worst": next((state for state in ("failed", "warned", "passed") if state in found), "unchecked"),
        "facts": {
            "Data": shown_data(data_title(run.config["data"])),
            "Clean accuracy": None if clean is None else f"{100 * clean:.1f} %",
            "Parameters": parameters and f"{parameters:,}",
            "Epochs": run.epochs,
            "Training time": seconds and (f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"),
            "Group": summary.get("group"),
            "Commit": run.commit[:10],
        },
        "parts": [part for part in parts if part["evaluation"] or part["charts"]],
        "training": training_curves(run.metrics()),
        "provenance": {
            key: " ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in flatten(run.provenance).items()
            if value or value is False
        },
        "config": config.read_text(encoding="utf-8") if config.is_file() else "",  # a saved report has none
    }


def _part(run: Run, question: Question, evaluation: Evaluation | None, *, pictures: bool) -> dict[str, Any]:
    """Numbers, checks, examples and measures of one evaluation, or of test sets that no evaluation is about."""
    part: dict[str, Any] = {"question": question, "evaluation": evaluation, "charts": _charts(question, run.place)}
    if evaluation is None:
        return part | {"examples": (), "plots": (), "measures": ()}
    means = titled_means(evaluation.means, evaluation.measures)
    measures = [(title, mean_text(mean), mean.images) for title, mean in means if mean.images]
    if not pictures:
        return part | {"examples": None, "plots": (), "measures": measures}
    report = evaluation.whole()
    rows = attack_rows(report, _ATTACKS)
    for measure in report.measures:
        rows = {**panel_rows(report, measure), **rows}
    return part | {"examples": [*_strips(rows)], "plots": [*_plots(report)], "measures": measures}


def _charts(question: Question, run: str) -> list[dict[str, Any]]:
    """Accuracies of a run in percent, those over one kind of strength in one chart, with the table below it."""
    charts: dict[str, dict[str, Any]] = {}
    for attack in question.attacks:
        rows = [at.get(run) for at in attack.runs.values()]
        if sum(row is not None for row in rows) < 2:
            continue
        about = {"title": "Accuracy", "xlabel": attack.label, "ylabel": "accuracy (%)", "percent": True, "series": []}
        chart = charts.setdefault(attack.kind, about | {"x": list(attack.runs), "places": attack.places})
        shares, errors, images = (
            pd.array([getattr(row, name, None) for row in rows], "Float64").to_numpy(np.float64, na_value=np.nan)
            for name in ("value", "standard_error", "images")
        )
        low, high = share_interval(shares, errors, images)
        known = {"y": shares, "low": low, "high": high}
        lines = {name: plain(np.round(100 * values, 1)) for name, values in known.items()}
        chart["series"].append({"name": attack.title, **lines})
    return list(charts.values())


def plain(values: Any) -> list[float | None]:
    """Numbers for JSON, in as many digits as a screen shows; None where there is none."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _strips(rows: Rows) -> Iterator[dict[str, str]]:
    """Title, picture (a PNG as data URI) and caption of each row of images."""
    for title, (images, captions) in rows.items():
        file = io.BytesIO()
        pixels = np.round(255 * side_by_side(images[:_IMAGES])).astype(np.uint8)
        Image.fromarray(pixels).save(file, format="png", optimize=True)
        picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        named = title.replace("_", " ").replace("\n", ", ")
        yield {"title": named, "picture": picture, "caption": "; ".join(captions[:_IMAGES])}


def _plots(report: RobustnessReport) -> Iterator[dict[str, Any]]:
    """Charts of what measures declare; more lines than a panel can tell apart are left out."""
    for measure in report.measures:
        for chart in measure_charts(report, measure):
            if chart.kind != "arrays":
                yield {"title": measure_title(measure, report.settings.get("measures", {})), **_plot(chart)}


def _plot(chart: Chart) -> dict[str, Any]:
    series = []
    x = thinned(sorted({float(at) for line in chart.lines.values() for at in line.positions}))
    for name, line in chart.lines.items():
        ends = {"low": line.low, "high": line.high} if chart.kind != "distribution" else {}
        known = {
            key: dict(zip(line.positions[::-1].tolist(), values[::-1].tolist(), strict=True))
            for key, values in {"y": line.values, **ends}.items()
        }
        series.append({"name": name, **{key: plain(at.get(one, np.nan) for one in x) for key, at in known.items()}})
    return {"x": x, "xlabel": chart.xlabel, "ylabel": chart.ylabel, "series": series}


def thinned(points: Sequence[T]) -> list[T]:
    """As many points as are drawn, evenly chosen, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(points) - 1, min(_POINTS, len(points))).astype(int))
    return [points[at] for at in chosen]


def training_curves(metrics: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Charts of metrics.csv over epochs, metrics of one kind together; the final test is no point of a curve."""
    rows = [row for row in metrics if "epoch" in row]
    kinds: dict[str, list[str]] = {}
    for metric in dict.fromkeys(name for row in rows for name in row):
        if metric and metric not in ("step", "epoch") and not metric.startswith("test/"):
            first, _, last = metric.rpartition("/")  # of robust/pgd/linf_0.03 or train/loss
            attacked = first.count("/") and "measures" not in first
            kind = f"accuracy under {first.removeprefix('robust/')}" if attacked else last
            kinds.setdefault(kind, []).append(metric)
    charts = []
    for kind, names in sorted(kinds.items(), key=lambda pair: pair[0] not in ("loss", "accuracy")):
        some = thinned([row for row in rows if any(metric in row for metric in names)])
        series = [{"name": name, "y": plain(row.get(name, math.nan) for row in some)} for name in names]
        epochs = [int(row["epoch"]) + 1 for row in some]
        charts.append({"title": kind, "x": epochs, "xlabel": "epoch", "ylabel": kind, "series": series})
    return charts
