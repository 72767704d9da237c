"""Cost of `symrob report` with many runs, and how soon its page can be used.

The run directories are made up, of realistic size: real configurations, 200 epochs of metrics, 1,000 images under two
attacks at 15 epsilons, eight adversarial examples. The command runs in a process of its own; the page is opened from
disk in Chromium and counts as usable once the answer has followed a change of the question.
"""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from playwright.sync_api import sync_playwright

from symmetry_robustness import load_config
from symmetry_robustness.results import Check
from symmetry_robustness.robustness import RobustnessReport
from symmetry_robustness.runs.provenance import environment

RUNS = 1000
NO_PEAK = {"share of peak": "0", "below 60 % because of": "no matrix products: it reads files, counts and draws"}
NETWORKS = ("standard", "parallel_rotation", "parallel_scale", "parallel_rotation_scale", "cascaded", "weighted")
DATA = ("cifar10", "cifar100")
EPSILONS = tuple(0.005 * step for step in range(1, 16))
EPOCHS, IMAGES, EXAMPLES = 200, 1000, 8
# Prints the peak of its memory in MiB as the last line.
_MEASURED = """
import resource, sys
from symmetry_robustness.app.report import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
sys.exit(status)
"""


def make_runs(root: Path, count: int) -> None:
    """Write `count` run directories: networks and data sets in turn, the seed one higher in each round."""
    configs: dict[tuple[str, str], dict[str, Any]] = {}
    for number in range(count):
        seed, kind = divmod(number, len(NETWORKS) * len(DATA))
        network, data = NETWORKS[kind % len(NETWORKS)], DATA[kind // len(NETWORKS)]
        if (network, data) not in configs:
            overrides = [f"experiment=paper_{data}", f"model={network}", "data.root=data"]
            configs[network, data] = _plain(load_config("train", overrides))
        config = configs[network, data] | {"seed": seed}
        _make_run(root / f"{network}_{data}_seed-{seed}", config, NETWORKS.index(network), seed)


def _plain(config: Any) -> dict[str, Any]:
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _make_run(directory: Path, config: dict[str, Any], strength: int, seed: int) -> None:
    generator = np.random.default_rng([strength, seed])
    report = make_report(generator, strength)
    report.save(directory / "robustness", "test")
    accuracies = report.summary()
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    about = {"command": ["symrob", "train"], "seed": seed, "commit": "c97a833" * 5, "changed_since_commit": False}
    (directory / "provenance.json").write_text(json.dumps(about | environment(), indent=2))
    summary = {"status": "done", "name": config["name"], "group": config["group"], "seed": seed, "parameters": 2340250}
    summary |= {"test_accuracy": {"test/accuracy": accuracies["clean_accuracy"]}, "robustness_images": IMAGES}
    (directory / "summary.json").write_text(json.dumps(summary | accuracies, indent=2))
    write_metrics(directory / "metrics.csv", generator, [key for key in accuracies if "." in key])


def make_report(generator: np.random.Generator, strength: int) -> RobustnessReport:
    """Images broken at an epsilon that is exponentially distributed, longer for a stronger network."""
    clean = generator.random(IMAGES) < 0.85
    grid = np.array([*EPSILONS, math.inf])
    broken_at = {}
    for attack, scale in (("fgsm", 0.012), ("pgd", 0.006)):
        reached = generator.exponential(scale * (1 + 0.1 * strength), IMAGES)
        broken_at[attack] = np.where(clean, grid[np.searchsorted(EPSILONS, reached)], 0.0)
    labels = generator.integers(0, 10, IMAGES)
    images = generator.random((EXAMPLES, 3, 32, 32), dtype=np.float32)
    examples = {name: np.clip(images + shift, 0, 1) for name, shift in (("clean", 0), ("fgsm", 0.01), ("pgd", -0.01))}
    status = "failed" if strength == 4 else "passed"
    attacks = {"fgsm": {"class": "FGSM"}, "pgd": {"class": "PGD", "steps": 40}}
    settings = {"attacks": attacks, "norm": "linf", "epsilons": list(EPSILONS), "judge": "any", "bounds": [0.0, 1.0]}
    checks = [Check(f"check_{number}", "passed", "as it should be, in 1000 of 1000 images") for number in range(15)]
    return RobustnessReport(
        norm="linf",
        epsilons=EPSILONS,
        indices=np.arange(IMAGES),
        labels=labels,
        predictions=np.where(clean, labels, (labels + 1) % 10),
        minimal_epsilon=broken_at,
        distance=broken_at,
        examples=examples,
        checks=(*checks, Check("zero_gradients", status, "412 of 850 images have a zero gradient")),
        settings=settings,
        counts={"seconds": 100.0},
    )


def write_metrics(path: Path, generator: np.random.Generator, names: list[str]) -> None:
    """A row per epoch; robustness after every twentieth."""
    with path.open("w", newline="") as file:
        columns = ["train/loss", "train/accuracy", "validation/loss", "validation/accuracy"]
        robust = [f"robust/{name.removeprefix('robust_accuracy.').replace('.', '/', 1)}" for name in names]
        writer = csv.writer(file)
        writer.writerow(["step", "epoch", *columns, *robust])
        for epoch in range(EPOCHS):
            rare = generator.random(len(robust)) if epoch % 20 == 19 else [""] * len(robust)
            writer.writerow([391 * (epoch + 1), epoch, *generator.random(len(columns)), *rare])


def measure_report(runs: Path, output: Path) -> dict[str, float]:
    """Seconds, CPU seconds and memory of the command."""
    before, start = os.times(), time.perf_counter()
    command = [sys.executable, "-c", _MEASURED, str(runs), "--output", str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {
        "report s": time.perf_counter() - start,
        "report CPU s": cpu,
        "peak MiB": float(done.stdout.splitlines()[-1]),
        "page MiB": (output / "report.html").stat().st_size / 2**20,
    }


def measure_page(page: Path) -> dict[str, float]:
    """Seconds from opening until the answer has followed a change of the question, and until a run's page is there."""
    with sync_playwright() as playwright:
        unboxed = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=unboxed)
        tab = browser.new_page()
        tab.goto("about:blank")
        start = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="commit")
        strength = tab.locator("#answer").get_by_label("strength")
        strength.select_option(index=1)
        interactive = time.perf_counter() - start
        start = time.perf_counter()
        tab.locator("#runs").get_by_role("searchbox").fill("seed 60")
        filtered = time.perf_counter() - start
        start = time.perf_counter()
        tab.locator("#runs tbody tr:not([hidden]) a").first.click()
        tab.locator("#run h2").wait_for()
        opened = time.perf_counter() - start
        browser.close()
    return {"interactive s": interactive, "filter s": filtered, "run's page s": opened}


def run(device: str = "cpu") -> list[dict[str, float | str]]:
    """A row for a tenth of the runs, and one for all."""
    rows: list[dict[str, float | str]] = []
    for count in (RUNS // 10, RUNS):
        with tempfile.TemporaryDirectory() as folder:
            runs, output = Path(folder, "runs"), Path(folder, "report")
            make_runs(runs, count)
            cost = measure_report(runs, output)
            rows.append({"runs": str(count), **cost, **measure_page(output / "report.html"), **NO_PEAK})
    return rows
