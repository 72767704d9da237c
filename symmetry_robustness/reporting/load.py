"""Run directories, read from their files alone; reports that were saved from Python count as runs of one evaluation."""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import DAMAGED_ARCHIVE
from symmetry_robustness.reporting.comparability import data_title, images_per_test_set, training_settings
from symmetry_robustness.reporting.evaluation import FINAL, Evaluation, read_evaluation

# Ways in which test images may have been shown, and the axis that each is drawn along.
VIEWS = {"rotation": "angle (degrees, counter-clockwise)", "scale": "scale"}

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast, and not everywhere
_DURING = re.compile(r"(train|validation|test)-epoch=\d+")
_DAMAGE = (*DAMAGED_ARCHIVE, UserError, TypeError, AttributeError, OverflowError, yaml.YAMLError, csv.Error)

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0, le=2**62)]
_Positive = Annotated[FiniteFloat, Field(ge=0)]


class RunSummary(BaseModel):
    """summary.json of a run that is done."""

    name: str
    seed: _Count
    parameters: _Count
    clean_accuracy: _Fraction
    robustness_images: _Count
    group: str | None = None
    data: str | None = None
    test_accuracy: dict[str, _Fraction] = {}
    test_images: _Count | None = None
    clever: FiniteFloat | None = None
    epochs: _Count | None = None
    flops: _Count | None = None
    training_seconds: _Positive | None = None
    images_per_second: _Positive | None = None


class Provenance(BaseModel):
    """provenance.json of a run."""

    commit: str | None = None
    changed_since_commit: bool = False


class Problem(NamedTuple):
    """A directory or file that no number was taken from.

    `kind` is unfinished, failed, interrupted, damaged, foreign (another program's) or repeated (counted already).
    """

    path: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}{f' ({self.reason})' if self.reason else ''}"


def shown_path(path: Path) -> str:
    """A path in one line, whatever bytes it holds."""
    return "".join(c if c.isprintable() else "?" for c in str(path).encode("utf-8", "replace").decode())


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        directory: where it lies.
        config: content of config.yaml.
        summary: content of summary.json.
        provenance: content of provenance.json; empty where there is none.
        evaluations: stem to evaluation: `test`, the run's own, and those of `symrob evaluate`.
        metrics_file: metrics.csv; None where there is none that can be read.
    """

    directory: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: dict[str, Evaluation]
    metrics_file: Path | None = None

    @property
    def place(self) -> str:
        """The directory for a reader, whatever bytes its name holds."""
        return shown_path(self.directory)

    @property
    def name(self) -> str:
        """The network, as tables call it."""
        return str(self.summary["name"])

    @property
    def title(self) -> str:
        """The network for a reader: the title of its configuration, or its name where there is none."""
        return str(self.config.get("title") or self.name)

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.summary["seed"])

    @property
    def final(self) -> Evaluation | None:
        """The evaluation at the end of the run; None where robustness was not evaluated."""
        return self.evaluations.get(FINAL)

    @property
    def epochs(self) -> int | None:
        """How many epochs it was trained for; None where a number of steps or a time was asked for instead."""
        epochs = self.summary.get("epochs", self.config.get("trainer", {}).get("max_epochs"))
        return None if epochs is None else int(epochs)

    @property
    def commit(self) -> str:
        """Of the code, followed by + where files had been changed since; empty where it is not known."""
        commit = self.provenance.get("commit") or ""
        return f"{commit}+" if commit and self.provenance.get("changed_since_commit") else commit

    @property
    def config_text(self) -> str:
        """Text of config.yaml; empty for a saved report, which has none."""
        return (self.directory / "config.yaml").read_text(encoding="utf-8") if self.directory.is_dir() else ""

    @cached_property
    def training(self) -> dict[str, Any]:
        """All settings that decide the weights, but for the seed."""
        return training_settings(self.config)

    def metrics(self) -> list[dict[str, float]]:
        """Rows of metrics.csv, each with the numbers that were logged; empty where there is none."""
        return [] if self.metrics_file is None else read_metrics(self.metrics_file)

    @property
    def test_images(self) -> int | None:
        """Number of images in each test set; runs of early versions do not state it."""
        stated = self.summary.get("test_images")
        return images_per_test_set(self.config["data"]) if stated is None else int(stated)

    def views(self, kind: str) -> dict[float, float]:
        """Test accuracy over the angle ("rotation") or the factor ("scale"); empty where the test had no such views."""
        pattern = re.compile(rf"test/{kind}_(.+)/accuracy")
        found = {pattern.fullmatch(key): accuracy for key, accuracy in self.summary.get("test_accuracy", {}).items()}
        return dict(sorted((float(match[1]), accuracy) for match, accuracy in found.items() if match))


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[Problem]]:
    """Every finished run in or below the given directories; where there is none, every report saved from Python.

    Returns:
        The runs, in the order of their directories, and what was left out.

    Raises:
        UserError: a path that does not exist or holds neither.
    """
    runs: list[Run] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path} does not exist; give directories of runs, of sweeps, or of saved reports")
        places = list(_directories(path)) or _reports(path)
        if not places:
            raise UserError(
                f"{path} holds no run (no config.yaml in it or below it) and no saved report; "
                "give directories of runs, of sweeps, or of saved reports"
            )
        for place in places:
            if (real := place.resolve()) in seen:
                continue
            seen.add(real)
            found = _read(place, problems) if place.is_dir() else _read_report(place, problems)
            runs += [found] if found else []
    return runs, problems


def _reports(path: Path) -> list[Path]:
    """JSON files of reports that were saved from Python: the given one, or those in a directory without runs."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path.with_suffix(".json")]
    return [file for file in files if file.with_suffix(".npz").is_file()]


def _read_report(path: Path, problems: list[Problem]) -> Run | None:
    """A saved report as a run whose network is called as its file, and of which nothing else is known."""
    try:
        evaluation = read_evaluation(path, {}, None, FINAL)
    except _DAMAGE as error:
        problems.append(_damaged(path, error))
        return None
    config = {"name": path.stem, "seed": 0, "data": dict(evaluation.data), "model": {}}
    summary = {"name": path.stem, "seed": 0, "parameters": None, "clean_accuracy": None}
    return Run(path, config, summary, {}, {FINAL: evaluation})


def _directories(root: Path) -> Iterator[Path]:
    """Directories with a config.yaml, in order, also behind links; what lies inside of a run is not looked at."""
    seen = set()
    for folder, inside, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # a link to where we are already
            inside.clear()
            continue
        seen.add(real)
        inside.sort()
        if "config.yaml" in (*files, *inside):
            yield Path(folder)
            if "provenance.json" in files or "summary.json" in files:
                inside.clear()


def _read(directory: Path, problems: list[Problem]) -> Run | None:
    """The run in a directory; None, and a problem, where there is none that counts."""
    summary_file, provenance_file = directory / "summary.json", directory / "provenance.json"
    try:
        config = _configuration(directory / "config.yaml")
        summary = _mapping(summary_file) if summary_file.exists() else {"status": "unfinished"}
        if not {"name", "seed", "data", "model"} <= set(config):
            summary = {"status": "foreign", "error": "config.yaml is no configuration of a run"}
        if summary["status"] != "done":
            problems.append(Problem(shown_path(directory), str(summary["status"]), str(summary.get("error", ""))))
            return None
        _checked(summary_file, summary, RunSummary)
        provenance = _mapping(provenance_file) if provenance_file.exists() else {}
        _checked(provenance_file, provenance, Provenance)
        run = Run(directory, config, summary, provenance, {}, directory / "metrics.csv")
        _ = run.training, run.epochs, [run.views(kind) for kind in VIEWS], data_title(config["data"])
        if summary["robustness_images"]:
            final = directory / "robustness" / f"{FINAL}.json"
            run.evaluations[FINAL] = read_evaluation(final, config["data"], run.test_images)
    except _DAMAGE as error:
        problems.append(_damaged(directory, error))
        return None
    for path in sorted((directory / "robustness").glob("*.json")):
        if path.stem != FINAL and not _DURING.fullmatch(path.stem):
            try:  # a later evaluation that is damaged is left out alone
                run.evaluations[path.stem] = read_evaluation(path, config["data"], run.test_images)
            except _DAMAGE as error:
                problems.append(_damaged(path, error))
    try:
        run.metrics()
    except FileNotFoundError:
        return replace(run, metrics_file=None)
    except _DAMAGE as error:
        problems.append(_damaged(directory / "metrics.csv", error))
        return replace(run, metrics_file=None)
    return run


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv, each with what was logged.

    Raises:
        ValueError, OSError, csv.Error: it holds something else than numbers, or an epoch that is none.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        names = next(lines, [])
        # Twice as fast as a DictReader; with thousands of runs that is seconds.
        rows = [{name: float(text) for name, text in zip(names, line, strict=True) if text} for line in lines if line]
    if not all(math.isfinite(row.get("epoch", 0.0)) for row in rows):
        raise ValueError("an epoch is not a number")
    return rows


def _damaged(path: Path, error: BaseException) -> Problem:
    reason = " ".join(str(error).removeprefix(f"report {path}/").split())
    return Problem(
        shown_path(path), "damaged", reason if isinstance(error, UserError) else f"{type(error).__name__}: {reason}"
    )


def _configuration(path: Path) -> dict[str, Any]:
    """Content of a config.yaml.

    Raises:
        ValueError, YAMLError: it is no mapping, or has aliases, which no run writes and which can unfold to gigabytes.
    """
    text = path.read_text(encoding="utf-8")
    if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=YAML_LOADER)):
        raise ValueError(f"{path.name} holds aliases")
    content = yaml.load(text, Loader=YAML_LOADER)  # a SafeLoader either way
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no mapping")
    json.dumps(content, sort_keys=True, default=str)  # digests rely on names that are texts
    return content


def _mapping(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path.name} holds no mapping, or an empty one")
    return content


def _checked(path: Path, content: dict[str, Any], model: type[BaseModel]) -> None:
    """Validate the content of a JSON file.

    Raises:
        ValueError: names the first place that the model refuses.
    """
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path.name}{place and f', {place}'}: {first['msg']}") from None
