"""A page made of given numbers, without runs behind it."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from symmetry_robustness.reporting import page as pages
from symmetry_robustness.reporting.page import (
    Answer,
    Claim,
    Comparison,
    Curve,
    Evaluation,
    Found,
    Measured,
    NetworkMeasures,
    Setting,
)
from symmetry_robustness.reporting.page_run import pngs

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
LONG = "measures/symmetry.turn.gradient_norm_change"
EPSILONS = [0.0, 2 / 255, 4 / 255, 8 / 255]
ATTACKS = {"worst_case": 1.0, "pgd": 0.9, "fgsm": 0.6}
NETWORKS = [HOSTILE, "standard", "parallel_rotation", "parallel_rotation_scale", "cascaded"]
SETTINGS = [
    Setting("cifar10", "test", "paper", False, "linf", "FGSM, PGD-40; ℓ∞"),
    Setting("cifar10", "test", "released_standard", True, "linf", "FGSM, PGD-40; ℓ∞; pixels clamped to [0.5, 1]"),
    Setting("shapes", "test", "views", False, None, "no attacks"),
]


def accuracy(network: int, strength: float, epsilon: float, seed: int = 0) -> float:
    """Falls with epsilon; a later network is the more robust."""
    return round((0.9 - 0.01 * network) * math.exp(-strength * epsilon * (110 - 15 * network + seed)), 4)


def make_run(number: int) -> pages.RunEntry:
    """Of a network and a seed; `cascaded` fails a check in the sound protocol, `parallel_rotation` warns."""
    network, seed = number % len(NETWORKS), number // len(NETWORKS)
    name = NETWORKS[network]
    reports = []
    for setting in range(2):
        attacks = {
            attack: Found("epsilon", EPSILONS, [accuracy(network, strength, e, seed) for e in EPSILONS], [0.01] * 4)
            for attack, strength in ATTACKS.items()
        }
        failed = ["protocol_settings"] if setting == 1 else ["nonzero_gradients"] if name == "cascaded" else []
        warned = ["enough_steps"] if name == "parallel_rotation" else []
        reports.append(Evaluation(setting, 512, attacks, True, failed, warned))
    return pages.RunEntry(
        f"sweep/{name}_seed-{seed}", name, "made up", "cifar10", seed, 200, "c97a833", 1_771_562, 3600.0, 0.85, reports
    )


def make_curve(runs: list[pages.RunEntry], setting: int, attack: str, name: str) -> Curve:
    own = [number for number, run in enumerate(runs) if run.network == name]
    values = np.array([runs[number].reports[setting].attacks[attack].values for number in own])
    means = values.mean(0)
    reports = [runs[number].reports[setting] for number in own]
    failed = sum(bool(report.failed) for report in reports)
    warned = sum(bool(report.warned and not report.failed) for report in reports)
    numbers = [ends.tolist() for ends in (means, np.clip(means - 0.02, 0, 1), np.clip(means + 0.02, 0, 1))]
    return Curve(setting, attack, "epsilon", name, EPSILONS, *numbers, len(own), 512, True, failed, warned, own)


def make_answer(curves: list[Curve], position: float) -> Answer:
    at = EPSILONS.index(position)
    ranked = sorted(curves, key=lambda curve: -curve.values[at])
    sound = [curve for curve in ranked if not curve.failed] or ranked
    best, *others = sound
    standard = next(curve for curve in curves if curve.network == "standard")
    roles = [("next", others[0])] + ([] if best is standard else [("standard", standard)])
    comparisons = []
    for role, other in roles:
        difference = best.values[at] - other.values[at]
        p_value = 0.004 if difference > 0.02 else 0.4
        ends, distinct = (difference - 0.02, difference + 0.02), p_value < 0.05
        comparisons.append(Comparison(other.network, role, difference, *ends, p_value, 3, distinct, "t over 3 seeds"))
    set_aside = [curve.network for curve in ranked if curve not in sound]
    verdict = "best" if all(comparison.distinct for comparison in comparisons) else "chance"
    return Answer(best.setting, best.attack, position, best.network, "standard", set_aside, verdict, comparisons)


def make_page(count: int) -> pages.Page:
    runs = [make_run(number) for number in range(count)]
    names = list(dict.fromkeys(run.network for run in runs))
    curves, answers = [], []
    for setting in range(2):
        for attack in ATTACKS:
            here = [make_curve(runs, setting, attack, name) for name in names]
            curves += here
            answers += [make_answer(here, epsilon) for epsilon in EPSILONS]
    angles = [0.0, 45.0, 90.0]
    turned = [
        Curve(2, "rotation", "rotation", name, angles, values, [None] * 3, [None] * 3, 1, None, False, 0, 0, [])
        for name, values in zip(names, ([1.0, 0.3, 0.5], [1.0, 0.4, 0.6]), strict=False)
    ]
    untested = Comparison("standard", "next", 0.1, None, None, None, 0, None, "")
    answers += [Answer(2, "rotation", angle, names[1], "standard", [], "untested", [untested]) for angle in angles]
    measures = [
        NetworkMeasures(name, "cifar10", 0, "failed" if name == "cascaded" else "passed", make_measures(number))
        for number, name in enumerate(names)
    ]
    paper = ("cifar10", 0.005, 0.01, "value")
    only = "holds only under the released protocol"
    claims = [
        Claim("parallel_rotation", "pgd", *paper, 0.65, None, None, "not measured", "no run", "10 layers"),
        Claim("standard", "pgd", *paper, 0.112, Measured(0.12, 0.1, 0.14, 3), None, only, "", "10 layers"),
    ]
    problems = [
        {"path": "sweep/half", "kind": "unfinished", "reason": "no summary.json"},
        {"path": f"sweep/{HOSTILE}", "kind": "damaged", "reason": HOSTILE},
    ]
    checks = {
        "nonzero_gradients": "Input gradients are not exactly zero.",
        "enough_steps": "The longest attack takes ten steps.",
    }
    about = ("Robustness report", "2026-11-25", names, SETTINGS)
    starts = {"cifar10": 0, "shapes": 2}
    return pages.Page(*about, curves + turned, answers, runs, checks, measures, claims, problems, starts)


def make_measures(number: int) -> dict[str, Measured]:
    """CLEVER grows from network to network, the time of training falls; the last one has no CLEVER."""
    costs = {
        "parameters": Measured(1_771_562.0, None, None, 3),
        "training_seconds": Measured(600.0 / (number + 1), None, None, 3),
    }
    score = 0.0625 + 0.1 * number
    return costs if number == 4 else costs | {"clever": Measured(score, score - 0.01, score + 0.01, 3)}


def make_details(number: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    checks = [
        {"name": "enough_steps", "status": "passed", "evidence": "40 steps"},
        {"name": "nonzero_gradients", "status": "failed", "evidence": f"412 of 500 have a zero gradient {HOSTILE}"},
    ]
    clean = generator.random((5, 3, 32, 32), dtype=np.float32)
    strips = (
        [{"title": "pgd", "pictures": pngs(clean), "captions": ["ε = 2/255", *["wrong without attack"] * 4]}]
        if number < 3
        else "left out"
    )
    report = {"checks": checks, "measures": [["CLEVER", 0.1, None, 8]], "examples": strips}
    epochs = list(range(1, 101))
    losses = [round(2 / epoch + 0.01 * float(generator.random()), 4) for epoch in epochs]
    return {
        "config": f"seed: {number}\nname: '{HOSTILE}'\n" + "data:\n  batch_size: 128\n" * 40,
        "provenance": {"commit": "c97a833", "command": "symrob train experiment=paper"},
        "reports": [report, report],
        "metrics": {
            "loss": {"x": epochs, "names": ["train/loss", "validation/loss"], "columns": [losses, losses[::-1]]},
            LONG: {"x": epochs, "names": [f"robust/{LONG}", "linf 1/255", "linf 2/255"], "columns": [losses] * 3},
        },
    }


def write_page(path: Path, count: int) -> Path:
    path.write_text(pages.render_page(make_page(count), map(make_details, range(count))), encoding="utf-8")
    return path
