"""The part of a page that is about one run: what stands behind its numbers, read from its directory."""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from symmetry_robustness.reporting.comparability import data_title
from symmetry_robustness.reporting.evaluation import Evaluation, Examples, measure_name
from symmetry_robustness.reporting.figures import magnified_difference, outcome_name, side_by_side
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.page.measures import measure_charts
from symmetry_robustness.reporting.page.questions import Grid, Question, readable
from symmetry_robustness.reporting.tables import mean_text, measure_title
from symmetry_robustness.results.names import flatten

# Pictures are most of a page: so many images under so many attacks, the ones that broke most.
_IMAGES, _ATTACKS = 5, 2
# Rows of metrics.csv that are drawn; a screen has no room for more points.
_POINTS = 200
# Of test sets that show the images in several ways: nothing checks them.
_UNCHECKED = {
    "released": False,
    "about": "all test images",
    "worst": "unchecked",
    "checks": (),
    "measures": (),
    "examples": (),
}


def run_details(
    run: Run,
    name: str,
    asked: Mapping[str, tuple[Question, Grid]],
    *,
    pictures: bool,
) -> dict[str, Any]:
    """What the template `run` shows.

    Args:
        run: the run.
        name: of its directory.
        asked: comparison group to its question and the numbers of single runs.
        pictures: whether adversarial examples and plots of measures are shown; a page of many runs shows them for some.
    """
    summary, evaluations = run.summary, run.evaluations.values()
    clean, parameters = summary["clean_accuracy"], summary["parameters"]
    judged = {evaluation.comparison_group for evaluation in evaluations}
    others = [pair for group, pair in asked.items() if group not in judged]
    views = [(question, _charts(question, grid, run.place)) for question, grid in others]
    found = [evaluation.status for evaluation in evaluations]
    return {
        "name": name,
        "title": f"{readable(run.title)}, seed {run.seed}",
        "worst": next((state for state in ("failed", "warned", "passed") if state in found), "unchecked"),
        "facts": {
            "Data": data_title(run.config["data"]),
            "Clean accuracy": None if clean is None else f"{100 * clean:.1f} %",
            "Parameters": None if parameters is None else f"{parameters:,}",
            "Epochs": run.epochs,
            "Training time": _duration(summary.get("training_seconds")),
            "Group": summary.get("group"),
            "Commit": run.commit[:10],
        },
        "evaluations": [
            *(_evaluation(one, *asked[one.comparison_group], run.place, pictures=pictures) for one in evaluations),
            *(_UNCHECKED | {"name": question.name, "charts": charts} for question, charts in views if charts),
        ],
        "training": training_curves(run.metrics()),
        "provenance": {
            name: _text(value) for name, value in flatten(run.provenance).items() if value or value is False
        },
        "config": run.config_text,
    }


def _text(value: Any) -> str:
    """A value of provenance.json; a command's arguments stand side by side."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes = f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds < 120 else minutes


def _evaluation(evaluation: Evaluation, question: Question, grid: Grid, run: str, *, pictures: bool) -> dict[str, Any]:
    """Numbers, checks, examples and measures of one evaluation."""
    means = [
        (measure_title(measure_name(measure, array)), mean_text(mean), mean.images)
        for measure, arrays in evaluation.means.items()
        for array, mean in arrays.items()
        if mean.images
    ]
    return {
        "name": question.name,
        "released": evaluation.released,
        "about": f"{question.group.description}; {len(evaluation.indices):,} images",
        "charts": _charts(question, grid, run),
        "worst": evaluation.status or "unchecked",
        "checks": evaluation.checks,
        "measures": means,
        "plots": list(measure_charts(evaluation.report)) if pictures else [],
        "examples": list(example_rows(evaluation.examples())) if pictures else None,
        "file": f"robustness/{evaluation.path.stem}.npz",
    }


def _charts(question: Question, grid: Grid, run: str) -> list[dict[str, Any]]:
    """Accuracies of a run in percent, those over one kind of strength in one chart, with the table below it."""
    charts: dict[str, dict[str, Any]] = {}
    for attack, ((_, kind), points) in zip(question.attacks, grid.items(), strict=True):
        rows = {at: found[run] for at, found in points.items() if run in found}
        if len(rows) < 2:
            continue
        about = {"title": "Accuracy", "xlabel": attack.label, "ylabel": "accuracy (%)", "percent": True, "series": []}
        chart = charts.setdefault(kind, about | {"x": list(points), "places": attack.places})
        values, errors = ([getattr(rows.get(at), name, None) for at in points] for name in ("value", "standard_error"))
        y, error = ([None if v is None else _finite(round(100 * v, 1)) for v in column] for column in (values, errors))
        chart["series"].append({"name": attack.title, "y": y, "error": error})
    return list(charts.values())


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
    for title, (images, caption) in rows.items():
        file = io.BytesIO()
        Image.fromarray(np.round(255 * side_by_side(images)).astype(np.uint8)).save(file, format="png", optimize=True)
        picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        yield {"title": title.replace("_", " "), "picture": picture, "caption": caption}


def training_curves(metrics: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """metrics.csv as charts over epochs, metrics of one kind together; the final test is no point of a curve.

    Args:
        metrics: rows of the file.
    """
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
        series = [{"name": name, "y": [_finite(row.get(name)) for row in some]} for name in names]
        epochs = [int(row["epoch"]) + 1 for row in some]
        charts.append({"title": kind, "x": epochs, "xlabel": "epoch", "ylabel": kind, "series": series})
    return charts


def _finite(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None
