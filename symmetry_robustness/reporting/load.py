"""Run directories, read from their files alone; reports that were saved from Python count as runs of one evaluation."""

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
_WANTED = "give directories of runs, of sweeps, or of saved reports"

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
    epochs: _Count | None = None
    flops: _Count | None = None
    training_flops: _Positive | None = None
    forward_passes: _Count | None = None
    backward_passes: _Count | None = None
    training_seconds: _Positive | None = None
    peak_memory: _Count | None = None
    hardware: str | None = None
    images_per_second: _Positive | None = None


class Provenance(BaseModel):
    """provenance.json of a run."""

    commit: str | None = None
    changed_since_commit: bool = False
    compute: dict[str, Any] | None = None


class Problem(NamedTuple):
    """A directory or file that no number, or not everything, was taken from.

    `kind` is unfinished, failed, interrupted, damaged, foreign (another program's), repeated (counted already) or
    incomplete (a measure lacks what it declares, or has no number).
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
    """

    directory: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    provenance: dict[str, Any]
    evaluations: dict[str, Evaluation]

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
    def epochs(self) -> int | None:
        """How many epochs it was trained for; None where a number of steps or a time was asked for instead."""
        epochs = self.summary.get("epochs", self.config.get("trainer", {}).get("max_epochs"))
        return None if epochs is None else int(epochs)

    @property
    def commit(self) -> str:
        """Of the code, followed by + where files had been changed since; empty where it is not known."""
        commit = self.provenance.get("commit") or ""
        return f"{commit}+" if commit and self.provenance.get("changed_since_commit") else commit

    @cached_property
    def training(self) -> dict[str, Any]:
        """All settings that decide the weights, but for the seed; a precision that the job chose is what it chose."""
        settings = training_settings(self.config)
        compute, chosen = settings.get("compute") or {}, self.provenance.get("compute") or {}
        if compute.get("precision") == "auto" and chosen.get("precision"):
            settings["compute"] = {**compute, "precision": chosen["precision"]}
        return settings

    def metrics(self) -> list[dict[str, float]]:
        """Rows of metrics.csv, each with the numbers that were logged; empty where there is none that can be read."""
        try:
            return read_metrics(self.directory / "metrics.csv")
        except _DAMAGE:
            return []

    @property
    def test_images(self) -> int | None:
        """Number of images in each test set; runs of early versions do not state it."""
        stated = self.summary.get("test_images")
        return images_per_test_set(self.config["data"]) if stated is None else int(stated)

    @property
    def test_sets(self) -> dict[str, float]:
        """Accuracy on each whole test set without attack: `fog_3`, `rotation_90`; empty for all together."""
        stated = self.summary.get("test_accuracy", {})
        return {re.sub("^test/|/?accuracy$", "", key): accuracy for key, accuracy in stated.items()}

    def views(self, kind: str) -> dict[float, float]:
        """Test accuracy over the angle ("rotation") or the factor ("scale"); empty where the test had no such views."""
        prefix = f"{kind}_"
        found = {name: accuracy for name, accuracy in self.test_sets.items() if name.startswith(prefix)}
        return dict(sorted((float(name.removeprefix(prefix)), accuracy) for name, accuracy in found.items()))


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[Problem]]:
    """Every finished run in or below the given directories; where there is none, every report without a run.

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
            raise UserError(f"{path} does not exist; {_WANTED}")
        places = list(_directories(path)) or _reports(path)
        if not places:
            raise UserError(f"{path} holds no run (no config.yaml in it or below it) and no saved report; {_WANTED}")
        for place in places:
            if (real := place.resolve()) in seen:
                continue
            seen.add(real)
            read = _read if (place / "config.yaml").exists() else _read_reports
            found = read(place, problems)
            runs += [found] if found else []
    for evaluation in (evaluation for run in runs for evaluation in run.evaluations.values()):
        problems += [Problem(shown_path(evaluation.path), "incomplete", gap) for gap in evaluation.gaps]
    return _reunited(runs, problems), problems


def _reunited(runs: Sequence[Run], problems: list[Problem]) -> list[Run]:
    """Runs, with evaluations of a checkpoint that was moved among those of the run or the reports that it came from.

    Digests of checkpoints tell which those are; of several evaluations on the same images the first counts.
    """
    moved = [run for run in runs if not (run.directory / "config.yaml").exists()]
    wanted = {evaluation.checkpoint for run in moved for evaluation in run.evaluations.values()} - {""}
    owners: dict[str, tuple[Run, str]] = {}
    for run in (run for run in runs if wanted and run not in moved):
        for file in sorted((run.directory / "checkpoints").glob("*.ckpt"), key=lambda file: file.name != "last.ckpt"):
            owners.setdefault(_digest(file), (run, file.name))
        for evaluation in run.evaluations.values():
            owners.setdefault(evaluation.checkpoint, (run, evaluation.weights))
    for run in moved:
        for key, evaluation in list(run.evaluations.items()):
            owner, weights = owners.setdefault(evaluation.checkpoint or str(evaluation.path), (run, evaluation.weights))
            if owner is run:
                continue
            del run.evaluations[key]
            found = (e for e in owner.evaluations.values() if e.weights == weights)
            if any(e.comparison_group == evaluation.comparison_group for e in found):
                reason = f"the same checkpoint on the same images as in {owner.place}"
                problems.append(Problem(shown_path(evaluation.path), "repeated", reason))
            else:
                owner.evaluations[str(evaluation.path)] = evaluation.of_weights(weights)
    return [run for run in runs if run not in moved or run.evaluations]


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _reports(path: Path) -> list[Path]:
    """The given report; or in a directory without runs files saved from Python, or folders that runs left behind."""
    if not path.is_dir():
        return [path.with_suffix(".json")] if path.suffix in (".json", ".npz") else []
    files = [file for file in sorted(path.glob("*.json")) if file.with_suffix(".npz").is_file()]
    if files and path.resolve().name == "robustness":
        return [path]
    folders = [*path.glob("robustness"), *sorted(path.glob("*/robustness"))]
    return files + [folder for folder in folders if any(folder.glob("*.json"))]


def _read_reports(place: Path, problems: list[Problem]) -> Run | None:
    """A report, or reports of one network in a folder; called as its training, or else as the file or the folder."""
    files = [file for file in sorted(place.glob("*.json")) if not _DURING.fullmatch(file.stem)]
    name = place.resolve().parent.name if place.is_dir() else place.stem
    evaluations: dict[str, Evaluation] = {}
    for file in files if place.is_dir() else [place]:
        try:
            stem = file.stem if place.is_dir() else FINAL
            evaluations[stem] = read_evaluation(file, {}, None, stem)
        except _DAMAGE as error:
            problems.append(_damaged(file, file, error))
    if not evaluations:
        return None
    first = next(iter(evaluations.values()))
    known: dict[str, Any] = {"name": name, "seed": 0, **first.trained}
    summary = {"name": known["name"], "seed": known["seed"], "parameters": None, "clean_accuracy": None}
    return Run(place, known | {"data": dict(first.data), "model": {}}, summary, {}, evaluations)


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
    file = directory / "config.yaml"
    try:
        config = _configuration(file)
        file = directory / "summary.json"
        summary = _mapping(file) if file.exists() else {"status": "unfinished"}
        if not {"name", "seed", "data", "model"} <= set(config):
            summary = {"status": "foreign", "error": "config.yaml is no configuration of a run"}
        if summary["status"] != "done":
            problems.append(Problem(shown_path(directory), str(summary["status"]), str(summary.get("error", ""))))
            return None
        _validate(summary, RunSummary)
        file = directory / "provenance.json"
        provenance = _mapping(file) if file.exists() else {}
        _validate(provenance, Provenance)
        file = directory / "config.yaml"
        run = Run(directory, config, summary, provenance, {})
        _ = run.training, run.epochs, [run.views(kind) for kind in VIEWS], data_title(config["data"])
        if summary["robustness_images"]:
            file = directory / "robustness" / f"{FINAL}.json"
            run.evaluations[FINAL] = read_evaluation(file, config["data"], run.test_images)
    except _DAMAGE as error:
        problems.append(_damaged(directory, file, error))
        return None
    for file in sorted((directory / "robustness").glob("*.json")):
        if file.stem != FINAL and not _DURING.fullmatch(file.stem):
            try:  # a later evaluation that is damaged is left out alone
                run.evaluations[file.stem] = read_evaluation(file, config["data"], run.test_images)
            except _DAMAGE as error:
                problems.append(_damaged(file, file, error))
    try:
        read_metrics(file := directory / "metrics.csv")
    except FileNotFoundError:
        pass
    except _DAMAGE as error:
        problems.append(_damaged(file, file, error))
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


def _damaged(place: Path, file: Path, error: BaseException) -> Problem:
    """The problem of a place one of whose files cannot be used, with the file's name and what is wrong with it."""
    reason = " ".join(str(error).removeprefix(f"report {place}/").split())
    if not isinstance(error, UserError):  # which names its file
        inside = "" if file == place else f"{file.name}: "
        reason = f"{inside}{reason if type(error) is ValueError else f'{type(error).__name__}: {reason}'}"
    return Problem(shown_path(place), "damaged", reason)


def _configuration(path: Path) -> dict[str, Any]:
    """Content of a config.yaml.

    Raises:
        ValueError, YAMLError: it is no mapping, or has aliases, which no run writes and which can unfold to gigabytes.
    """
    text = path.read_text(encoding="utf-8")
    if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=YAML_LOADER)):
        raise ValueError("it holds aliases")
    content = yaml.load(text, Loader=YAML_LOADER)  # a SafeLoader either way
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    json.dumps(content, sort_keys=True, default=str)  # digests rely on names that are texts
    return content


def _mapping(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds no mapping, or an empty one")
    return content


def _validate(content: dict[str, Any], model: type[BaseModel]) -> None:
    """Refuse content of a JSON file.

    Raises:
        ValueError: names the first place that the model refuses.
    """
    try:
        model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
