"""The two files of a report, JSON and npz of one stem: one schema for writer and readers, each file written atomically.

Format 2 is written. Format 1, which kept CLEVER beside the other measures, is converted when it is read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import DAMAGED_ARCHIVE, replace_file
from symmetry_robustness.results.checks import Status
from symmetry_robustness.results.detection import sources_of
from symmetry_robustness.results.plots import Distribution, Plot, equivariance_plots, plots_to_plain

Arrays = Mapping[str, npt.NDArray[Any]]

FORMAT: Final = 2
# Checks whose name has changed.
_CHECKS: Final[Mapping[str, str]] = {
    "clever_below_distance": "bounds_below_distance",
    "deterministic_forward": "random_outputs",
    "nonzero_gradients": "zero_gradients",
}
_Count = Annotated[int, Field(ge=0, le=2**62)]


class CheckEntry(BaseModel):
    """A soundness check."""

    name: str
    status: Status
    evidence: str = ""


class MeanEntry(BaseModel):
    """A measure's mean over images; null stands for a number that is not finite."""

    value: FiniteFloat | None
    standard_error: FiniteFloat | None
    images: _Count


class ProtocolEntry(BaseModel):
    """Settings of the protocol, as far as reports rely on them."""

    model_config = ConfigDict(extra="allow")

    norm: str
    attacks: dict[str, dict[str, Any]] = {}
    bounds: tuple[FiniteFloat, FiniteFloat] = (0.0, 1.0)
    measures: dict[str, dict[str, Any]] = {}


class ReportFile(BaseModel):
    """JSON file of a report; the npz file holds its arrays."""

    format: Literal[2] = FORMAT
    norm: Literal["linf", "l2", "l1", "spatial"]
    images: _Count
    epsilons: list[Annotated[FiniteFloat, Field(gt=0)]]
    attacks: list[str]
    summary: dict[str, FiniteFloat | None]
    checks: list[CheckEntry]
    settings: ProtocolEntry
    measures: dict[str, dict[str, MeanEntry]] = {}
    counts: dict[str, FiniteFloat] = {}
    provenance: dict[str, Any] = {}

    @field_validator("epsilons")
    @classmethod
    def _increasing(cls, epsilons: list[float]) -> list[float]:
        if epsilons != sorted(set(epsilons)):
            raise ValueError("epsilons do not increase")
        return epsilons


def write_report(base: Path, content: Mapping[str, Any], arrays: Arrays) -> Path:
    """Write `base.npz`, then `base.json`; returns the path of the latter. Numbers JSON cannot hold become null.

    Raises:
        OSError: names the file; files that were there before are as they were.
    """
    plain = _finite({"format": FORMAT, **content})
    ReportFile.model_validate(plain)
    named: dict[str, Any] = dict(arrays)
    replace_file(Path(f"{base}.npz"), lambda file: np.savez_compressed(file, **named), durable=True)
    replace_file(Path(f"{base}.json"), json.dumps(plain, indent=2, allow_nan=False) + "\n", durable=True)
    return Path(f"{base}.json")


def read_report(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Content (see `ReportFile`) and arrays, from the path of either file or of both without the ending.

    Raises:
        UserError: where a file is missing, damaged, of an unknown format, or contradicts its twin.
    """
    base = _base(path)
    content = read_content(path)
    try:
        # Opened here, because numpy leaves a file it cannot read open.
        with Path(f"{base}.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {_array_name(name): file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(f"report {base}: {error.filename} is missing; evaluate again") from None
    except DAMAGED_ARCHIVE as error:
        raise damaged(path, str(error).partition("\n")[0]) from None
    if content["measures"].get("clever") is None:
        arrays.pop("measures.clever.indices", None)  # format 1 had it in any case
    _check_shapes(path, content, arrays)
    return content, arrays


def read_content(path: Path) -> dict[str, Any]:
    """Content of the JSON file alone (see `ReportFile`); constants that are no numbers become null.

    Raises:
        UserError: where the file is missing, damaged, or of an unknown format.
    """
    base = _base(path)
    try:
        text = Path(f"{base}.json").read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=lambda _: None)
    except FileNotFoundError as error:
        raise UserError(f"report {base}: {error.filename} is missing; evaluate again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error).partition("\n")[0]) from None
    found = content.get("format") if isinstance(content, dict) else None
    if found not in (1, FORMAT):
        raise UserError(f"report {base} has format {found}, expected {FORMAT} or 1; evaluate again")
    try:
        mapping: dict[str, Any] = _renamed(_from_format_1(content) if found == 1 else content)
        ReportFile.model_validate(mapping)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    return mapping


def damaged(path: Path, reason: str) -> UserError:
    """The error for a file that cannot be relied on."""
    return UserError(f"report {_base(path)} is damaged ({reason}); evaluate again")


def _base(path: Path) -> str:
    return str(path.with_suffix("")) if path.suffix in (".json", ".npz") else str(path)


def _check_shapes(path: Path, content: Mapping[str, Any], arrays: Arrays) -> None:
    """Refuse arrays that are missing, or do not belong to the images and epsilons of the JSON file.

    Raises:
        UserError: names the array.
    """
    shape = (count := content["images"],)
    expected: dict[str, tuple[int, ...]] = {name: shape for name in ("indices", "labels", "predictions")}
    for attack in content["attacks"]:
        expected |= {f"minimal_epsilon.{attack}": shape, f"distance.{attack}": shape}
        if f"fooled.{attack}" in arrays:
            expected[f"fooled.{attack}"] = (count, len(content["epsilons"]))
    for name, wanted in expected.items():
        if name not in arrays:
            raise damaged(path, f"the npz lacks {name}")
        if arrays[name].shape != wanted:
            raise damaged(path, f"the npz has {name} of shape {arrays[name].shape}, {wanted} expected")
        if arrays[name].dtype.kind == "f" and np.isnan(arrays[name]).any():
            raise damaged(path, f"the npz has NaN in {name}")
    for measure, means in content["measures"].items():
        derived = content["settings"].get("measures", {}).get(measure, {}).get("statistics", {})
        for array in ("indices", *(name for name in means if name not in derived), *sources_of(derived)):
            values, rows = (arrays.get(f"measures.{measure}.{name}") for name in (array, "indices"))
            if values is None or rows is None or values.shape[:1] != rows.shape[:1]:
                raise damaged(path, f"the npz lacks measures.{measure}.{array} for each of its images")
    pictures = {name: values.shape for name, values in arrays.items() if name.startswith("examples.")}
    if len(set(pictures.values())) > 1 or any(len(found) != 4 for found in pictures.values()):
        raise damaged(path, f"the npz has examples of shapes {', '.join(map(str, sorted(set(pictures.values()))))}")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _array_name(name: str) -> str:
    """Name of an array in format 2."""
    kind, dot, rest = name.partition(".")
    if name == "clever_indices":
        return "measures.clever.indices"
    return {"broken_at": "minimal_epsilon", "clever": "measures.clever"}.get(kind, kind) + dot + rest


def _from_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a format 1 file in format 2: CLEVER is a measure, and measures state how they are shown."""
    settings = {key: value for key, value in content["settings"].items() if key not in ("clever", "clever_images")}
    measures = dict(settings.get("measures", {}))
    means = dict(content.get("measures", {}))
    if content.get("clever"):
        own = content["settings"].get("clever") or {"class": "Clever", **content["clever"]}
        measures = {"clever": {**own, "images": content["settings"].get("clever_images")}, **measures}
        value = content["summary"].get("clever")
        images = min(content["settings"].get("clever_images") or content["images"], content["images"])
        means = {"clever": {"value": {"value": value, "standard_error": None, "images": images}}, **means}
    described = {name: _measure_from_format_1(measure) for name, measure in measures.items()}
    new = {key: value for key, value in content.items() if key != "clever"}
    return new | {"format": FORMAT, "settings": settings | {"measures": described}, "measures": means}


def _renamed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content with the names and statements of this version, for files that earlier builds wrote."""
    measures = dict(content["settings"].get("measures", {}))
    if measures.get("clever", {}).get("class") == "Clever":
        measures["clever"] = {"title": "CLEVER", "headline": "value", **measures["clever"]}
    checks = [{**check, "name": _CHECKS.get(check["name"], check["name"])} for check in content["checks"]]
    return {**content, "settings": {**content["settings"], "measures": measures}, "checks": checks}


def _measure_from_format_1(measure: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a measure under its present name, with how it is shown."""
    name, plots, shown = str(measure.get("class", "")), list[Plot](), dict[str, Any]()
    if name == "Clever":
        plots, shown = [Distribution("value", "CLEVER score")], {"means": ["value"], "lower_bound": "value"}
    elif name == "MinimalDistance":
        plots, shown = [Distribution("distance", "minimal distance")], {"upper_bound": "distance"}
    elif name == "Symmetry":
        plots = equivariance_plots(measure["angles"], measure["scales"], measure.get("layers", False))
        name = "EquivarianceError"
    return {**measure, "class": name, **shown, "plots": plots_to_plain(plots)}
