"""Which network is best at one point of one setting, by how much, and whether a test tells it from the others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

from symmetry_robustness.reporting.frame import records
from symmetry_robustness.reporting.page import Answer, Axis, Comparison, Verdict, finite
from symmetry_robustness.reporting.statistics import LEVEL


class Point(NamedTuple):
    """Where a number stands on the page: its attack, and its position on the axis of the attack's strength."""

    attack: str
    axis: Axis
    position: float


def place(row: Any) -> Point:
    """Where an accuracy stands; without attack it is the beginning, "none", of every attack's curve."""
    if row.measure == "worst_case_accuracy":
        return Point("worst_case", "epsilon", row.epsilon)
    if row.measure == "robust_accuracy":
        return Point(row.attack, "epsilon", row.epsilon)
    kind, _, strength = row.view.rpartition("_")
    try:
        position = float(strength)
    except ValueError:
        return Point(row.view or "none", "epsilon", 0.0)
    axes: dict[str, Axis] = {"rotation": "rotation", "scale": "scale"}
    return Point(kind, axes.get(kind, "severity"), position)


def find_answers(results: pd.DataFrame, comparisons: pd.DataFrame, numbers: Mapping[str, int]) -> Iterator[Answer]:
    """The best network at each position of each setting and attack, beside the next and the standard one.

    Args:
        results: accuracies (`summarize`).
        comparisons: of the leaders with the others (`summarize`).
        numbers: section to number of the setting.
    """
    tests: dict[tuple[str, Point], dict[str, Any]] = {}
    for test in records(comparisons[comparisons["measure"].isin(results["measure"].unique())]):
        tests.setdefault((test.comparison_group, place(test)), {})[test.other_settings] = test
    points: dict[tuple[str, Point], list[Any]] = {}
    attacks: dict[str, dict[str, None]] = {}
    for row in records(results):
        point = place(row)
        points.setdefault((row.comparison_group, point), []).append(row)
        if point.axis == "epsilon" and point.position:
            attacks.setdefault(row.comparison_group, {})[point.attack] = None
    for (section, point), rows in points.items():
        beginnings = attacks.get(section, ()) if point.attack == "none" else ()
        for attack in beginnings or (point.attack,):
            yield _answer(numbers[section], attack, point.position, rows, tests.get((section, point), {}))


def _answer(setting: int, attack: str, position: float, rows: Sequence[Any], tests: Mapping[str, Any]) -> Answer:
    """From the rows of one column and the comparisons of its leader, by the settings of the other."""
    sound = [row for row in rows if row.checks != "failed"] or rows
    ranked = sorted(sound, key=lambda row: -row.value)
    leader = next((test.settings for test in tests.values()), ranked[0].settings)  # nothing compares whole test sets
    best = next(row for row in ranked if row.settings == leader)
    others = [row for row in ranked if row is not best]
    standard = _standard(best.network, rows)
    roles: list[tuple[Literal["next", "standard"], Any]] = [("next", others[0])] if others else []
    if standard is not None and standard is not best:
        roles.append(("standard", standard))
    return Answer(
        setting=setting,
        attack=attack,
        position=position,
        best=best.label,
        standard=standard.label if standard is not None else None,
        set_aside=[row.label for row in rows if row not in sound],
        verdict=_verdict(list(tests.values())),
        comparisons=[_comparison(role, best, other, tests.get(other.settings)) for role, other in roles],
    )


def _verdict(tests: Sequence[Any]) -> Verdict:
    """Of the leader, from its comparisons with all others."""
    if not tests or any(math.isnan(test.adjusted) for test in tests):
        return "untested"
    if any(test.adjusted > 1 - LEVEL for test in tests):
        return "chance"
    return "best" if tests[0].best and all(test.seeds > 1 for test in tests) else "single"


def _standard(network: str, rows: Sequence[Any]) -> Any | None:
    """The plain network of the same size as another one (`standard_4layer` for four layers), if there is one."""
    size = next((ending for ending in ("_4layer", "_matched") if network.endswith(ending)), "")
    return next((row for name in (f"standard{size}", "standard") for row in rows if row.network == name), None)


def _comparison(role: Literal["next", "standard"], best: Any, other: Any, test: Any | None) -> Comparison:
    if test is None or math.isnan(test.value):
        reason = "" if test is None else str(test.test)
        return Comparison(other.label, role, best.value - other.value, None, None, None, 0, None, reason)
    low, high, p_value = finite((test.low, test.high, test.adjusted))
    distinct = None if p_value is None else p_value <= 1 - LEVEL
    return Comparison(other.label, role, float(test.value), low, high, p_value, test.seeds, distinct, str(test.test))
