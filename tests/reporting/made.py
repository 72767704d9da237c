"""Run directories made of given results per image, written by what writes real ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from symmetry_robustness.results.checks import Check
from symmetry_robustness.results.report import RobustnessReport

EPSILONS = (2 / 255, 4 / 255, 8 / 255)
CIFAR = {"_target_": "symmetry_robustness.data.CIFAR10DataModule", "root": "data", "copy": "official"}
SETTINGS = {
    "attacks": {"fgsm": {"class": "FGSM"}, "pgd": {"class": "PGD", "steps": 10}},
    "norm": "linf",
    "epsilons": list(EPSILONS),
    "seed": 0,
    "judge": "any",
    "bounds": [0.0, 1.0],
}
CLEVER = {
    "class": "Clever",
    "title": "CLEVER",
    "headline": "value",
    "norm": "l2",
    "radius": 5.0,
    "images": None,
    "means": ["value"],
    "lower_bound": "value",
}
ALL_BROKEN_AT = np.array([0.0, 2 / 255, 2 / 255, 4 / 255, 8 / 255, 8 / 255, np.inf, np.inf, np.inf, np.inf])


def draw_broken_at(count: int, seed: int, strength: float = 1.0) -> dict[str, np.ndarray]:
    """Where two attacks break each of some images; the second is the stronger one."""
    generator = np.random.default_rng(seed)
    fgsm = generator.choice(
        [0.0, *EPSILONS, np.inf], count, p=np.array([1, 2, 2, 2, 3 * strength]) / (7 + 3 * strength)
    )
    pgd = np.where(generator.random(count) < 0.5, fgsm, np.minimum(fgsm, EPSILONS[0]))
    return {"fgsm": fgsm, "pgd": pgd}


def make_report(
    broken_at: Mapping[str, np.ndarray], *, clever: np.ndarray | None = None, **changes: Any
) -> RobustnessReport:
    """A report of images numbered from 0, of two classes, with CLEVER scores of the first ones, and given checks."""
    count = len(next(iter(broken_at.values())))
    clean = next(iter(broken_at.values())) > 0
    values: dict[str, Any] = {
        "norm": "linf",
        "epsilons": EPSILONS,
        "indices": np.arange(count),
        "labels": np.ones(count, dtype=np.int64),
        "predictions": clean.astype(np.int64),
        "minimal_epsilon": dict(broken_at),
        "distance": dict(broken_at),
        "checks": (Check("inside_ball", "passed", ""),),
        "settings": SETTINGS,
    }
    values |= changes
    if clever is not None:
        measures = {"clever": CLEVER, **values["settings"].get("measures", {})}
        values["settings"] = values["settings"] | {"measures": measures}
        arrays = {"indices": np.arange(len(clever)), "value": clever}
        values["measures"] = {"clever": arrays, **values.get("measures", {})}
    return RobustnessReport(**values)


def make_run(
    directory: Path,
    report: RobustnessReport | None = None,
    *,
    name: str = "standard",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] = CIFAR,
) -> Path:
    """A finished run: its frozen configuration, summary, provenance and final evaluation."""
    (directory / "robustness").mkdir(parents=True)
    settings: dict[str, Any] = {
        "name": name,
        "group": "made",
        "seed": seed,
        "data": {**data, "seed": seed, "batch_size": 128},
        "model": {"stem": {"channels": 16}},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.001},
        "trainer": {"max_epochs": 200},
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(settings | dict(config or {})))
    (directory / "provenance.json").write_text(json.dumps({"commit": "abc", "changed_since_commit": False}))
    content = {
        "status": "done",
        "name": name,
        "group": "made",
        "seed": seed,
        "parameters": 1234,
        "clean_accuracy": 0.85,
        "test_accuracy": {"test/accuracy": 0.85},
        "robustness_images": len(report) if report else 0,
    }
    (directory / "summary.json").write_text(json.dumps(content | dict(summary or {})))
    if report:
        report.save(directory / "robustness", "test")
    return directory
