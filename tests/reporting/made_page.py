"""Pages of made-up runs."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from symmetry_robustness.reporting.aggregate import Summary, summarize
from symmetry_robustness.reporting.claims import claims_table, judge_claims, load_claims
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import Problem, Run, find_runs
from symmetry_robustness.reporting.page.page import write_page
from symmetry_robustness.reporting.tables import table_sets
from symmetry_robustness.results.checks import Check

from .made import draw_broken_at, make_report, make_run

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
# Name to strength; each a network with a title but for the last two.
NETWORKS = {"standard": 0.5, "parallel_rotation": 1.5, "parallel_rotation_scale": 4.0, "cascaded": 12.0, HOSTILE: 0.2}
TITLES = {"parallel_rotation": "parallel, rotation", "parallel_rotation_scale": "parallel, rotation + scale"}
SEEDS, IMAGES = 3, 400
_CHECKS = {
    "cascaded": (Check("zero_gradients", "failed", f"412 of 500 have a zero gradient {HOSTILE}"),),
    "parallel_rotation": (Check("enough_steps", "warned", "five steps"), Check("inside_ball", "passed", "")),
}


def broken_at(name: str, seed: int) -> dict[str, np.ndarray]:
    return draw_broken_at(IMAGES, 10 * list(NETWORKS).index(name) + seed, NETWORKS[name])


def make_network_run(directory: Path, name: str, seed: int) -> Path:
    """A run with its own evaluation and a re-enacted one, examples and training curves."""
    images = np.random.default_rng(seed).random((5, 3, 32, 32), dtype=np.float32)
    report = make_report(
        broken_at(name, seed),
        checks=_CHECKS.get(name, (Check("inside_ball", "passed", ""),)),
        examples={"clean": images, "pgd": images},
    )
    config = {"model": {"num_classes": 10}, "title": TITLES.get(name, ""), "note": HOSTILE}
    run = make_run(directory, report, name=name, seed=seed, config=config)
    released = replace(report, settings=report.settings | {"judge": "returned"}, examples={})
    released.save(run / "robustness", "released")
    rows = [f"{epoch},{2 / (1 + epoch)},{1.5 / (1 + epoch)},{0.01 * epoch}" for epoch in range(30)]
    head = "epoch,train/loss,validation/loss,robust/measures/symmetry.turn.gradient_norm_change"
    (run / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    return run


def make_sweep(directory: Path, seeds: int = SEEDS) -> Path:
    for number, name in enumerate(NETWORKS):
        for seed in range(seeds):
            make_network_run(directory / f"network{number}_seed-{seed}", name, seed)
    (make_run(directory / "half") / "summary.json").unlink()
    return directory


def write(file: Path, *paths: Path) -> Path:
    """The page of run directories."""
    runs, problems = find_runs(paths)
    return write_runs(file, runs, problems)


def write_runs(file: Path, runs: Sequence[Run], problems: Sequence[Problem] = ()) -> Path:
    frame = frame_of(runs, problems)
    summary = summarize(frame, runs)
    tables = [*table_sets(summary), claims_table(judge_claims(load_claims(), summary, list(runs)))]
    write_page(file, runs, frame, summary, tables)
    return file


def summary_of(*paths: Path) -> tuple[Summary, list[Run]]:
    runs, _ = find_runs(paths)
    return summarize(frame_of(runs), runs), runs


def data_of(file: Path) -> dict[str, Any]:
    """The data of a page's script."""
    found = re.search('<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content
