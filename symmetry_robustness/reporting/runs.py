"""Run directories, read from their files alone."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.figures import Curve

# Kinds of views that a test set may have been shown in, and the axis that they are drawn along.
VIEWS = {"rotation": "angle (degrees, counter-clockwise)", "scale": "scale"}


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        directory: where it lies.
        summary: content of summary.json.
        report: content of robustness/test.json, the final evaluation; None where robustness was not evaluated.
    """

    directory: Path
    summary: dict[str, Any]
    report: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The network, as tables call it."""
        return str(self.summary["name"])

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks of the final evaluation."""
        return list(self.report["attacks"]) if self.report else []

    def curve(self, attack: str) -> Curve:
        """Accuracy over epsilon under one attack on the evaluated images, beginning with the clean accuracy at 0."""
        assert self.report is not None
        scalars, norm = self.report["summary"], self.report["norm"]
        epsilons = [0.0, *self.report["epsilons"]]
        keys = ["clean_accuracy", *(f"robust_accuracy.{attack}.{norm}_{e:.4g}" for e in epsilons[1:])]
        shares = np.array([scalars[key] for key in keys])
        return Curve(np.array(epsilons), shares, np.sqrt(shares * (1 - shares) / self.report["images"]))

    def views(self, kind: str) -> dict[float, float]:
        """Test accuracy over the angle ("rotation") or the factor ("scale"); empty where the test had no such views."""
        pattern = re.compile(rf"test/{kind}_(.+)/accuracy")
        found = {pattern.fullmatch(key): accuracy for key, accuracy in self.summary.get("test_accuracy", {}).items()}
        return dict(sorted((float(match[1]), accuracy) for match, accuracy in found.items() if match))

    def examples(self) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float64]]]:
        """What `attack_panel` takes: images (k, 3, H, W) by attack and "clean", and where each attack broke them."""
        with np.load(self.directory / "robustness" / "test.npz", allow_pickle=False) as arrays:
            images = {key.removeprefix("examples."): arrays[key] for key in arrays.files if key.startswith("examples.")}
            first = np.argsort(arrays["indices"], kind="stable")[: len(images.get("clean", ()))]
            return images, {attack: arrays[f"broken_at.{attack}"][first] for attack in self.attacks}


def find_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Every finished run in or below the given directories.

    Returns:
        The runs, ordered by directory, and one line for each run that is unfinished, failed or damaged.

    Raises:
        UserError: a path that does not exist or holds no run at all.
    """
    runs: list[Run] = []
    problems: list[str] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a directory; give run or sweep directories")
        directories = sorted({config.parent for config in path.rglob("config.yaml")})
        if not directories:
            raise UserError(f"{path} holds no run (no config.yaml in it or below it); give run or sweep directories")
        for directory in directories:
            try:
                found = _read(directory)
            except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
                problems.append(f"{directory}: damaged ({type(error).__name__}: {error})")
                continue
            if isinstance(found, Run):
                runs.append(found)
            else:
                problems.append(f"{directory}: {found}")
    return list({run.directory.resolve(): run for run in runs}.values()), problems


def _read(directory: Path) -> Run | str:
    """The run, or why it is none; everything a report will ask of it is tried here.

    Raises:
        ValueError, KeyError, TypeError, OSError, BadZipFile: a damaged file.
    """
    path = directory / "summary.json"
    if not path.exists():
        return "unfinished"
    summary = _mapping(path)
    if summary["status"] != "done":
        return f"{summary['status']}: {summary.get('error', '')}"
    report = directory / "robustness" / "test.json"
    run = Run(directory, summary, _mapping(report) if summary["robustness_images"] else None)
    for name in ("name", "seed", "parameters", "clean_accuracy"):
        if summary[name] is None:
            raise ValueError(f"{path.name} has no {name}")
    for attack in run.attacks:
        run.curve(attack)
    for kind in VIEWS:
        run.views(kind)
    if run.report:
        run.examples()
    return run


def _mapping(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path.name} holds no mapping, or an empty one")
    return content
