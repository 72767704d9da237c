"""What the page of a single run shows beside its numbers, read from the run directory."""

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from symmetry_robustness.reporting.evaluation import Evaluation, Examples, measure_name
from symmetry_robustness.reporting.figures import magnified_difference, outcome_name
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.page import finite
from symmetry_robustness.reporting.tables import measure_title
from symmetry_robustness.results.names import epsilon_name, flatten

# Pictures are most of a page: so many images under so many attacks, the ones that broke most.
_IMAGES, _ATTACKS = 5, 2
# Rows of metrics.csv that are kept; a screen has no room for more points.
_POINTS = 200
# Kinds of training curves that come first.
_FIRST = ("loss", "accuracy", "accuracy under worst case")
_NOTHING: tuple[Any, ...] = (None, "", [], {})
_UNDER_ATTACK = re.compile(r"robust/(?!measures/)(.+)/(linf|l[12])_(.+)")


def run_details(run: Run, *, pictures: bool) -> dict[str, Any]:
    """Configuration, provenance, checks, measures, examples and training curves of a run, as plain values.

    Args:
        run: the run.
        pictures: whether adversarial examples are shown; a page of many runs shows them for some only.
    """
    return {
        "config": run.config_text,
        "provenance": {name: _words(value) for name, value in flatten(run.provenance).items() if value not in _NOTHING},
        "reports": [_report(evaluation, pictures) for evaluation in run.evaluations.values()],
        "metrics": training_curves(run.metrics()),
    }


def _words(value: Any) -> str:
    """A value of provenance.json; a command's arguments stand side by side."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _report(evaluation: Evaluation, pictures: bool) -> dict[str, Any]:
    means = [
        [measure_title(measure_name(measure, array)), *finite((mean.value, mean.standard_error)), mean.images]
        for measure, arrays in evaluation.means.items()
        for array, mean in arrays.items()
    ]
    place = f"robustness/{evaluation.path.stem}.npz"
    note = f"Left out to keep this page small; they are in {place} and in a report of this run alone."
    return {
        "checks": [check._asdict() for check in evaluation.checks],
        "measures": means,
        "examples": list(example_rows(evaluation.examples())) if pictures else note,
    }


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


def training_curves(metrics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """metrics.csv as curves over epochs, those of one kind together; the final test is no point of a curve.

    Args:
        metrics: rows of the file.

    Returns:
        kind to "x" (finished epochs), "names" and, for each name, a column of values or None.
    """
    rows = [row for row in metrics if "epoch" in row]
    kinds: dict[str, dict[str, str]] = {}
    for metric in dict.fromkeys(name for row in rows for name in row):
        if metric and metric not in ("step", "epoch", "robust/clean") and not metric.startswith("test/"):
            kind, name = _kind(metric)
            kinds.setdefault(kind, {})[metric] = name
    curves = {}
    for kind in sorted(kinds, key=lambda kind: _FIRST.index(kind) if kind in _FIRST else len(_FIRST)):
        names = ({"robust/clean": "clean"} if kind.startswith("accuracy under") else {}) | kinds[kind]
        kept = [row for row in rows if any(metric in row for metric in names)]
        kept = [kept[at] for at in np.unique(np.linspace(0, len(kept) - 1, min(_POINTS, len(kept))).astype(int))]
        if kept:
            columns = [finite([row.get(metric, math.nan) for row in kept], digits=6) for metric in names]
            epochs = [int(row["epoch"]) + 1 for row in kept]
            curves[kind] = {"x": epochs, "names": list(names.values()), "columns": columns}
    return curves


def _kind(metric: str) -> tuple[str, str]:
    """What a metric is drawn with, and what it is called there."""
    if match := _UNDER_ATTACK.fullmatch(metric):
        attack, norm, epsilon = match.groups()
        return f"accuracy under {attack.replace('_', ' ')}", f"{norm} {epsilon_name(float(epsilon))}"
    for kind in ("loss", "accuracy"):
        if metric.endswith(f"/{kind}"):
            return kind, metric.removesuffix(f"/{kind}")
    return metric.removeprefix("robust/"), metric
