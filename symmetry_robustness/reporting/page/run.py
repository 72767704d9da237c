"""The part of a page that is about one run: what stands behind its numbers, read from its directory."""

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from symmetry_robustness.reporting.comparability import data_title, flatten
from symmetry_robustness.reporting.evaluations import Evaluation, Examples
from symmetry_robustness.reporting.figures import epsilon_name, magnified_difference, outcome_name
from symmetry_robustness.reporting.page.questions import Grid, Question, readable
from symmetry_robustness.reporting.run_table import measure_title, measured
from symmetry_robustness.reporting.runs import Run

# Pictures are most of a page: so many images under so many attacks, the ones that broke most.
_IMAGES, _ATTACKS = 5, 2
# Rows of metrics.csv that are drawn; a screen has no room for more points.
_POINTS = 200
# Kinds of training curves that come first.
_FIRST = ("loss", "accuracy", "accuracy under worst case")
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_UNDER_ATTACK = re.compile(r"robust/(?!measures/)(.+)/(linf|l[12])_(.+)")


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
        asked: section to its question and the numbers of single runs.
        pictures: whether adversarial examples are shown; a page of many runs shows them for some only.
    """
    summary, evaluations = run.summary, run.evaluations.values()
    judged = {evaluation.section for evaluation in evaluations}
    others = [pair for section, pair in asked.items() if section not in judged]
    views = [(question, _charts(question, grid, run.place)) for question, grid in others]
    found = [evaluation.checks for evaluation in evaluations]
    return {
        "name": name,
        "title": f"{readable(run.title)}, seed {run.seed}",
        "worst": next((state for state in ("failed", "warned", "passed") if state in found), "unchecked"),
        "facts": {
            "Data": data_title(run.config["data"]),
            "Clean accuracy": f"{100 * summary['clean_accuracy']:.1f} %",
            "Parameters": f"{summary['parameters']:,}",
            "Epochs": run.epochs,
            "Training time": _duration(summary.get("training_seconds")),
            "Group": summary.get("group"),
            "Commit": run.commit[:10],
        },
        "evaluations": [
            *(_evaluation(one, *asked[one.section], run.place, pictures=pictures) for one in evaluations),
            *({"name": question.name, "charts": charts} for question, charts in views if charts),
        ],
        "training": training_curves(run.metrics()),
        "provenance": {name: _text(value) for name, value in flatten(run.provenance).items() if value not in _NOTHING},
        "config": (run.directory / "config.yaml").read_text(encoding="utf-8"),
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
    content = evaluation.content
    means = [
        (measure_title(measure, array), measured(mean["value"], mean["standard_error"]), mean["images"])
        for measure, arrays in content.get("measures", {}).items()
        for array, mean in arrays.items()
        if mean["value"] is not None
    ]
    if (clever := content["summary"].get("clever")) is not None:
        means.insert(0, ("CLEVER", f"{clever:.3g}", content["settings"].get("clever_images")))
    return {
        "name": question.name,
        "released": evaluation.released,
        "about": f"{question.section.description}; {len(evaluation.indices):,} images",
        "charts": _charts(question, grid, run),
        "worst": evaluation.checks or "unchecked",
        "checks": content["checks"],
        "measures": means,
        "examples": list(example_rows(evaluation.examples())) if pictures else None,
        "file": f"robustness/{evaluation.stem}.npz",
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


def example_rows(examples: Examples) -> Iterator[dict[str, Any]]:
    """Rows of pictures: clean, then for the strongest attacks the attacked images and what was changed.

    Yields:
        title, pictures (PNG as data URIs) and a caption for each.
    """
    clean = examples.clean[:_IMAGES]
    if not len(clean):
        return
    yield {"title": "clean", "pictures": pngs(clean), "captions": [""] * len(clean)}
    for name, found in list(examples.attacked.items())[:_ATTACKS]:
        attacked = found[:_IMAGES]
        change, factor = magnified_difference(clean, attacked)
        captions = [outcome_name(epsilon) for epsilon in examples.broken_at[name][:_IMAGES]]
        yield {"title": name, "pictures": pngs(attacked), "captions": captions}
        yield {"title": f"{name}, change ×{factor}", "pictures": pngs(change), "captions": [""] * len(clean)}


def pngs(images: NDArray[np.float32]) -> list[str]:
    """Images (N, 3, H, W) in [0, 1] as data URIs."""
    made = []
    for image in np.round(255 * np.clip(images, 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1):
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="png", optimize=True)
        made.append(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}")
    return made


def training_curves(metrics: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """metrics.csv as charts over epochs, metrics of one kind together; the final test is no point of a curve.

    Args:
        metrics: rows of the file.
    """
    rows = [row for row in metrics if "epoch" in row]
    kinds: dict[str, dict[str, str]] = {}
    for metric in dict.fromkeys(name for row in rows for name in row):
        if metric and metric not in ("step", "epoch", "robust/clean") and not metric.startswith("test/"):
            kind, name = _kind(metric)
            kinds.setdefault(kind, {})[metric] = name
    curves = []
    for kind in sorted(kinds, key=lambda kind: _FIRST.index(kind) if kind in _FIRST else len(_FIRST)):
        names = ({"robust/clean": "clean"} if kind.startswith("accuracy under") else {}) | kinds[kind]
        kept = [row for row in rows if any(metric in row for metric in names)]
        kept = [kept[at] for at in np.unique(np.linspace(0, len(kept) - 1, min(_POINTS, len(kept))).astype(int))]
        columns = {name: [_finite(row.get(metric)) for row in kept] for metric, name in names.items()}
        series = [{"name": name, "y": values} for name, values in columns.items()]
        epochs = [int(row["epoch"]) + 1 for row in kept]
        curves.append({"title": kind, "x": epochs, "xlabel": "epoch", "ylabel": kind, "series": series})
    return curves


def _finite(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _kind(metric: str) -> tuple[str, str]:
    """What a metric is drawn with, and what it is called there."""
    if match := _UNDER_ATTACK.fullmatch(metric):
        attack, norm, epsilon = match.groups()
        return f"accuracy under {attack.replace('_', ' ')}", f"{norm} {epsilon_name(float(epsilon))}"
    for kind in ("loss", "accuracy"):
        if metric.endswith(f"/{kind}"):
            return kind, metric.removesuffix(f"/{kind}")
    return metric.removeprefix("robust/"), metric
