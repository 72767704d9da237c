"""What the page of a single run shows beside its numbers, read from the run directory."""

import base64
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from symmetry_robustness.reporting.figures import epsilon_name, magnified_difference, outcome_name
from symmetry_robustness.reporting.overview import measure_title
from symmetry_robustness.reporting.page import finite

# Pictures are most of a page: so many images under so many attacks, the ones that broke most.
_IMAGES, _ATTACKS = 5, 2
# Rows of metrics.csv that are kept; a screen has no room for more points.
_POINTS = 200
# Kinds of training curves that come first.
_FIRST = ("loss", "accuracy", "accuracy under worst case")
_UNDER_ATTACK = re.compile(r"robust/(?!measures/)(.+)/(linf|l[12])_(.+)")


def run_details(directory: Path, reports: Sequence[str], *, pictures: bool) -> dict[str, Any]:
    """Configuration, provenance, checks, measures, examples and training curves of a run, as plain values.

    Args:
        directory: the run directory.
        reports: stems of the reports in `robustness/`, in the order of the run's evaluations on the page.
        pictures: whether adversarial examples are shown; a page of many runs shows them for some only.
    """
    return {
        "config": _text(directory / "config.yaml"),
        "provenance": _flat(json.loads(_text(directory / "provenance.json") or "{}")),
        "reports": [_report(directory / "robustness" / stem, pictures) for stem in reports],
        "metrics": training_curves(directory / "metrics.csv"),
    }


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under names with dots, lists as words."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value not in (None, [], ""):
            flat[prefix + name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _report(path: Path, pictures: bool) -> dict[str, Any]:
    content = json.loads(path.with_name(f"{path.name}.json").read_text())
    means = [
        [measure_title(measure, array), mean["value"], mean["standard_error"], mean["images"]]
        for measure, arrays in content.get("measures", {}).items()
        for array, mean in arrays.items()
    ]
    if (clever := content["summary"].get("clever")) is not None:
        means.insert(0, ["CLEVER", clever, None, content["settings"].get("clever_images")])
    note = (
        f"Left out to keep this page small; they are in robustness/{path.name}.npz and in a report of this run alone."
    )
    return {
        "checks": content["checks"],
        "measures": means,
        "examples": list(examples(path.with_name(f"{path.name}.npz"))) if pictures else note,
    }


def examples(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of pictures: clean, then for the strongest attacks the attacked images and what was changed.

    Args:
        path: arrays of a report.

    Yields:
        title, pictures (PNG as data URIs) and a caption for each.
    """
    with np.load(path, allow_pickle=False) as arrays:
        broken_at = {name.removeprefix("broken_at."): arrays[name] for name in arrays.files if name[:9] == "broken_at"}
        attacks = [name for name in broken_at if f"examples.{name}" in arrays.files]
        if "examples.clean" not in arrays.files or not len(clean := arrays["examples.clean"][:_IMAGES]):
            return
        first = np.argsort(arrays["indices"], kind="stable")[: len(clean)]
        yield {"title": "clean", "pictures": pngs(clean), "captions": [""] * len(clean)}
        attacks.sort(key=lambda name: float(np.minimum(broken_at[name], 1e9).mean()))
        for name in attacks[:_ATTACKS]:
            attacked = arrays[f"examples.{name}"][:_IMAGES]
            change, factor = magnified_difference(clean, attacked)
            captions = [outcome_name(epsilon) for epsilon in broken_at[name][first]]
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


def training_curves(path: Path) -> dict[str, dict[str, Any]]:
    """metrics.csv as curves over epochs, those of one kind together; the final test is no point of a curve.

    Args:
        path: of the file; a run without it has no curves.

    Returns:
        kind to "x" (finished epochs), "names" and, for each name, a column of values or None.
    """
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("epoch")]
    kinds: dict[str, dict[str, str]] = {}
    for metric in rows[0] if rows else ():
        if metric and metric not in ("step", "epoch", "robust/clean") and not metric.startswith("test/"):
            kind, name = _kind(metric)
            kinds.setdefault(kind, {})[metric] = name
    curves = {}
    for kind in sorted(kinds, key=lambda kind: _FIRST.index(kind) if kind in _FIRST else len(_FIRST)):
        names = ({"robust/clean": "clean"} if kind.startswith("accuracy under") else {}) | kinds[kind]
        kept = [row for row in rows if any(row.get(metric) for metric in names)]
        kept = [kept[at] for at in np.unique(np.linspace(0, len(kept) - 1, min(_POINTS, len(kept))).astype(int))]
        if kept:
            columns = [finite([float(row.get(metric) or "nan") for row in kept]) for metric in names]
            epochs = [int(float(row["epoch"])) + 1 for row in kept]
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
