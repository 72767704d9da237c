"""The part of a page that is about one run: what stands behind its numbers, read from its directory."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from symmetry_robustness.reporting.comparability import data_title
from symmetry_robustness.reporting.evaluation import Evaluation, Examples, measure_name
from symmetry_robustness.reporting.figures import magnified_difference, outcome_name, side_by_side
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.page.measures import measure_charts
from symmetry_robustness.reporting.page.questions import Question, readable
from symmetry_robustness.reporting.tables import mean_text, measure_title
from symmetry_robustness.results.names import flatten
from symmetry_robustness.results.plots import Panel
from symmetry_robustness.results.report import RobustnessReport

# Pictures are most of a page: so many images under so many attacks, the ones that broke most.
_IMAGES, _ATTACKS = 5, 2
# Rows of metrics.csv that are drawn; a screen has no room for more points.
_POINTS = 200


def run_details(run: Run, name: str, questions: Sequence[Question], *, pictures: bool) -> dict[str, Any]:
    """What the template `run` shows.

    Args:
        run: the run.
        name: of its directory.
        questions: of the page, with the numbers of single runs.
        pictures: whether adversarial examples and plots of measures are shown; a page of many runs shows some.
    """
    summary, evaluations = run.summary, run.evaluations.values()
    found = [evaluation.status for evaluation in evaluations]
    clean, parameters, seconds = (summary.get(key) for key in ("clean_accuracy", "parameters", "training_seconds"))
    asked = {question.group.key: question for question in questions}
    judged = [(asked[one.comparison_group], one) for one in evaluations]
    others = [(question, None) for question in questions if question not in [one for one, _ in judged]]
    parts = [_part(run, question, evaluation, pictures=pictures) for question, evaluation in [*judged, *others]]
    return {
        "name": name,
        "title": f"{readable(run.title)}, seed {run.seed}",
        "worst": next((state for state in ("failed", "warned", "passed") if state in found), "unchecked"),
        "facts": {
            "Data": data_title(run.config["data"]),
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
        "config": run.config_text,
    }


def _part(run: Run, question: Question, evaluation: Evaluation | None, *, pictures: bool) -> dict[str, Any]:
    """Numbers, checks, examples and measures of one evaluation, or of test sets that no evaluation is about."""
    part: dict[str, Any] = {"question": question, "evaluation": evaluation, "charts": _charts(question, run.place)}
    if evaluation is None:
        return part | {"examples": (), "plots": (), "measures": ()}
    means = [
        (measure_title(measure_name(measure, array)), mean_text(mean), mean.images)
        for measure, arrays in evaluation.means.items()
        for array, mean in arrays.items()
        if mean.images
    ]
    report = evaluation.report
    examples = [*example_rows(evaluation.examples()), *_panels(report)] if pictures else None
    plots = list(measure_charts(report)) if pictures else ()
    return part | {"examples": examples, "plots": plots, "measures": means}


def _panels(report: RobustnessReport) -> Iterator[dict[str, str]]:
    """Rows of the images that measures show."""
    for measure, arrays in report.measures.items():
        for plot in report.plots(measure):
            if isinstance(plot, Panel) and len(images := arrays[plot.images][:_IMAGES]):
                caption = "; ".join(f"{plot.label} {value:.3g}" for value in arrays[plot.values][: len(images)])
                yield _row(measure, images, caption)


def _charts(question: Question, run: str) -> list[dict[str, Any]]:
    """Accuracies of a run in percent, those over one kind of strength in one chart, with the table below it."""
    charts: dict[str, dict[str, Any]] = {}
    for attack, ((_, kind), points) in zip(question.attacks, question.runs.items(), strict=True):
        rows = [points[at].get(run) for at in points]
        if sum(row is not None for row in rows) < 2:
            continue
        about = {"title": "Accuracy", "xlabel": attack.label, "ylabel": "accuracy (%)", "percent": True, "series": []}
        chart = charts.setdefault(kind, about | {"x": list(points), "places": attack.places})
        y, error = ([_rounded(row, name) for row in rows] for name in ("value", "standard_error"))
        ends = {
            name: [
                None if v is None or e is None else min(100, max(0, v + sign * e))
                for v, e in zip(y, error, strict=True)
            ]
            for name, sign in (("low", -1.96), ("high", 1.96))
        }
        chart["series"].append({"name": attack.title, "y": y, "error": error, **ends})
    return list(charts.values())


def _rounded(row: Any, name: str) -> float | None:
    value = getattr(row, name, math.nan)
    return None if math.isnan(value) else round(100 * value, 1)


def example_rows(examples: Examples) -> Iterator[dict[str, str]]:
    """Rows of pictures: clean, then for the strongest attacks the attacked images and what was changed.

    Yields:
        title, picture (a PNG as data URI) and caption of each.
    """
    clean = examples.clean[:_IMAGES]
    rows = {"clean": (clean, "")} if len(clean) else {}
    for name, found in list(examples.attacked.items())[:_ATTACKS]:
        change, factor = magnified_difference(clean, found[:_IMAGES])
        rows[name] = found[:_IMAGES], "; ".join(map(outcome_name, examples.broken_at[name][:_IMAGES]))
        rows[f"{name}, change ×{factor}"] = change, ""
    yield from (_row(title, *row) for title, row in rows.items())


def _row(title: str, images: NDArray[Any], caption: str) -> dict[str, str]:
    file = io.BytesIO()
    Image.fromarray(np.round(255 * side_by_side(images)).astype(np.uint8)).save(file, format="png", optimize=True)
    picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"title": title.replace("_", " "), "picture": picture, "caption": caption}


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
        some = [row for row in rows if any(metric in row for metric in names)]
        some = [some[at] for at in np.unique(np.linspace(0, len(some) - 1, min(_POINTS, len(some))).astype(int))]
        columns = {name: [row.get(name, math.nan) for row in some] for name in names}
        series = [
            {"name": n, "y": [float(f"{v:.6g}") if math.isfinite(v) else None for v in y]} for n, y in columns.items()
        ]
        epochs = [int(row["epoch"]) + 1 for row in some]
        charts.append({"title": kind, "x": epochs, "xlabel": "epoch", "ylabel": kind, "series": series})
    return charts
