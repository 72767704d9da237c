"""Which network is best at one point of one setting, by how much, and whether a test tells it from the others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd

from symmetry_robustness.reporting.frame import records
from symmetry_robustness.reporting.page import Answer, Axis, Comparison, finite
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
    tests = {_key(row, row.settings, row.other_settings): row for row in records(comparisons)}
    points: dict[tuple[str, Point], list[Any]] = {}
    attacks: dict[str, dict[str, None]] = {}
    for row in records(results):
        point = place(row)
        points.setdefault((row.section, point), []).append(row)
        if point.axis == "epsilon" and point.position:
            attacks.setdefault(row.section, {})[point.attack] = None
    for (section, point), rows in points.items():
        beginnings = attacks.get(section, ()) if point.attack == "none" else ()
        for attack in beginnings or (point.attack,):
            yield _answer(numbers[section], attack, point.position, rows, tests)


def _answer(
    setting: int, attack: str, position: float, rows: Sequence[Any], tests: Mapping[tuple[Any, ...], Any]
) -> Answer:
    sound = [row for row in rows if row.checks != "failed"] or rows
    best, *others = sorted(sound, key=lambda row: -row.value)
    standard = _standard(best.network, rows)
    p_values = [_adjusted(tests.get(_key(best, best.settings, other.settings))) for other in others]
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
        clear=max(p_values) <= 1 - LEVEL if p_values and not any(map(math.isnan, p_values)) else None,
        comparisons=[
            _comparison(role, best, other, tests.get(_key(best, best.settings, other.settings)))
            for role, other in roles
        ],
    )


def _key(row: Any, own: str, other: str) -> tuple[Any, ...]:
    """What names a comparison; not-a-number would not equal itself."""
    epsilon = None if math.isnan(row.epsilon) else row.epsilon
    return row.section, row.view, row.measure, row.attack, epsilon, own, other


def _adjusted(test: Any | None) -> float:
    """The p-value, adjusted for all networks of the column; not-a-number where there was no test."""
    return math.nan if test is None else float(test.adjusted)


def _standard(network: str, rows: Sequence[Any]) -> Any | None:
    """The plain network of the same size as another one (`standard_4layer` for four layers), if there is one."""
    size = next((ending for ending in ("_4layer", "_matched") if network.endswith(ending)), "")
    return next((row for name in (f"standard{size}", "standard") for row in rows if row.network == name), None)


def _comparison(role: Literal["next", "standard"], best: Any, other: Any, test: Any | None) -> Comparison:
    if test is None or math.isnan(test.value):
        reason = "" if test is None else str(test.test)
        return Comparison(other.label, role, best.value - other.value, None, None, None, None, reason)
    low, high, p_value = finite((test.low, test.high, test.adjusted))
    distinct = None if p_value is None else p_value <= 1 - LEVEL
    return Comparison(other.label, role, float(test.value), low, high, p_value, distinct, str(test.test))
