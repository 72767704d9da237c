"""The questions that a page answers: which network is most robust on some data, under an attack, at an ε."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from symmetry_robustness.reporting.aggregate import ATTACKED, ComparisonGroup, Summary, may_lead, set_aside
from symmetry_robustness.reporting.comparability import describe_attack, differing, told_apart
from symmetry_robustness.reporting.evaluation import FINAL
from symmetry_robustness.reporting.frame import records, split
from symmetry_robustness.reporting.statistics import LEVEL
from symmetry_robustness.results.names import NORM_TITLES, WORST_CASE, epsilon_label, epsilon_name

# Kind of strength: label of its axis, and one strength in words.
_AXES = {
    "epsilon": ("{}", "ε = {}"),
    "rotation": ("rotation (degrees, counter-clockwise)", "{}°"),
    "scale": ("scale of the image", "scale {}"),
    "severity": ("severity of the corruption", "severity {}"),
}
_TITLES = {"": "no attack", "rotation": "rotation of the images", "scale": "scaling of the images"}
# A question whose best answer is below this accuracy is asked first only where there is no other.
_NEARLY_ZERO = 0.05
# Strength -> network or run -> its row.
Points = dict[float, dict[str, Any]]


class Attack(NamedTuple):
    """An attack, or a change of the test images, with the rows of networks and those of single runs by its strength.

    `kind` is that of its strength, `label` the label of its axis, `places` are its strengths in words.
    """

    title: str
    kind: str
    label: str
    places: list[str]
    points: Points
    runs: Points


class Question(NamedTuple):
    """Numbers that may be compared; `first` is the strength of the first attack at which networks differ most."""

    group: ComparisonGroup
    name: str
    norm: str
    attacks: list[Attack]
    first: int


def find_questions(summary: Summary, frame: pd.DataFrame) -> list[Question]:
    """One question for each comparison group; those that read alike are told apart by images, then by a digest."""
    both = (rows[rows["measure"].isin([*ATTACKED, "test_accuracy"])] for rows in (summary.results, frame))
    results, singles = (split(rows, "comparison_group") for rows in both)
    groups = [group for key, group in summary.groups.items() if key in results]
    norms = {key: max(rows["norm"]) for key, rows in results.items()}
    names = told_apart(
        [_name(group, norms[group.key]) for group in groups],
        [f"{group.images or 0:,} images" for group in groups],
        [group.key[:6] for group in groups],
        within=[group.data for group in groups],
    )
    questions = []
    for group, name in zip(groups, names, strict=True):
        key = group.key
        attacks = _attacks(_grid(results[key], "settings"), _grid(singles[key], "run"), norms[key])
        questions.append(Question(group, name, norms[key], attacks, _telling(attacks[0], summary.guessing)))
    return questions


def _name(group: ComparisonGroup, norm: str) -> str:
    """The protocol, and what else tells a group from others on the same data."""
    own = group.description.partition(";")[0] if group.protocol == FINAL else group.protocol
    name = (group.known or own) if group.protocol else "test accuracy"
    details = ["re-enacted"] * group.released + [NORM_TITLES.get(norm, norm)] * bool(norm)
    details += [group.split] * (group.split != "test")
    return f"{name} ({', '.join(details)})" if details else name


def _grid(rows: pd.DataFrame, owner: str) -> dict[tuple[str, str], Points]:
    """Accuracies by attack and kind of strength; the worst case first, each attack beginning with ε = 0."""
    found: dict[tuple[str, str], Points] = {}
    for row in records(rows):
        attack, kind, strength = _place(row)
        found.setdefault((attack, kind), {}).setdefault(strength, {}).setdefault(getattr(row, owner), row)
    clean = found.get(("", "epsilon"), {})
    if sum(kind == "epsilon" for _, kind in found) > 1:
        del found["", "epsilon"]
        found = {key: (clean if key[1] == "epsilon" else {}) | points for key, points in found.items()}
    order = sorted(found, key=lambda key: key[0] != WORST_CASE)
    return {key: dict(sorted(found[key].items())) for key in order}


def _place(row: Any) -> tuple[str, str, float]:
    """Attack, kind of strength and strength of an accuracy."""
    if row.measure in ("worst_case_accuracy", "robust_accuracy"):
        return row.attack or WORST_CASE, "epsilon", row.epsilon
    kind, _, strength = row.view.rpartition("_")
    try:
        return kind, kind if kind in ("rotation", "scale") else "severity", float(strength)
    except ValueError:
        return row.view, "epsilon", 0.0


def _attacks(grid: dict[tuple[str, str], Points], singles: dict[tuple[str, str], Points], norm: str) -> list[Attack]:
    count = sum(kind == "epsilon" for _, kind in grid) - 1
    titles = _TITLES | {WORST_CASE: f"the worst of {count} attack{'s' * (count != 1)}"}
    attacks = []
    for (key, kind), points in grid.items():
        label, place = _AXES[kind]
        names = [epsilon_name(at) if kind == "epsilon" else f"{at:g}" for at in points]
        places = ["clean (ε = 0)" if name == "0" and kind == "epsilon" else place.format(name) for name in names]
        title = titles.get(key, describe_attack(key))
        attacks.append(Attack(title, kind, label.format(epsilon_label(norm)), places, points, singles[key, kind]))
    return attacks


def answers(question: Question, summary: Summary) -> list[list[dict[str, Any]]]:
    """The answer at each strength of each attack of a question."""
    tests: dict[tuple[Any, ...], dict[str, Any]] = {}
    for test in records(summary.comparisons[summary.comparisons["comparison_group"] == question.group.key]):
        tests.setdefault((test.measure, *_place(test)), {})[test.other_settings] = test
    return [
        [
            answer(list(rows.values()), tests.get((first.measure, *_place(first)), {}), summary)
            for rows in attack.points.values()
            for first in [next(iter(rows.values()))]
        ]
        for attack in question.attacks
    ]


def answer(rows: Sequence[Any], tests: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """The leader among networks at one strength of one attack, beside the next one and the standard one.

    Args:
        rows: of the networks there.
        tests: network to its comparison with the leader.
        summary: says which networks are at chance without attack, and how they were trained.

    Returns:
        `best`, a row; `verdict`: "best" (it beats every other), "chance" (it may lead by chance), "single" (it beats
        every other, but one training each was compared), "untested", "equal" or "nobody"; `over`: others with their
        tests; `aside`: rows that may not lead, whatever their number, by the reason.
    """
    guessing = summary.guessing
    best, *others = may_lead(rows, guessing)
    standard = _standard(best, rows, summary.trained)
    over = [("Ahead of the next", other) for other in others[:1]]
    if others and others[0] is standard:
        over = [("Ahead of the next, the standard network", standard)]
    elif standard is not best:
        over.append(("Ahead of the standard network", standard))
    nobody = not best.value or best.settings in guessing
    return {
        "best": best,
        "next": others[0] if others else None,
        "verdict": "nobody" if nobody else _verdict(best, others, [*tests.values()]),
        "over": [(title, other, best.value - other.value, tests.get(other.settings)) for title, other in over],
        "aside": set_aside(rows, guessing),
        "level": 1 - LEVEL,
    }


def _standard(best: Any, rows: Sequence[Any], trained: Mapping[str, Mapping[str, Any]]) -> Any:
    """The standard network of a leader's size, of several the one trained most alike; else the leader itself."""
    size = next((part for part in ("_4layer", "_matched") if part in best.network), "")
    names = (f"standard{size}", "standard")
    if best.network in names:
        return best
    candidates = next((found for name in names if (found := [row for row in rows if row.network == name])), [best])

    def differences(row: Any) -> int:
        return len(differing([{**trained[one.settings], "model": None} for one in (best, row)]))

    return min(candidates, key=differences) if len(candidates) > 1 else candidates[0]


def _verdict(best: Any, others: Sequence[Any], tests: Sequence[Any]) -> str:
    if others and best.value == others[0].value:
        return "equal"
    if not tests or any(math.isnan(test.adjusted) for test in tests):
        return "untested"
    if any(test.adjusted > 1 - LEVEL for test in tests):
        return "chance"
    return "best" if tests[0].best else "single"


def in_order(questions: Sequence[Question]) -> list[int]:
    """Numbers of the questions in the order in which a page prefers to ask them.

    Those with attacks come first; of these sound protocols before re-enacted ones, then those that judged most of the
    networks, then the strongest: what leaves the same networks less accuracy at the same ε, or has more attacks.
    """
    networks = [max(map(len, question.attacks[0].points.values())) for question in questions]

    def weight(number: int) -> tuple[Any, ...]:
        question = questions[number]
        known = (not question.group.released, question.group.data.partition(" ")[0] == "cifar10")
        covers = 2 * networks[number] > max(networks), networks[number] > 1
        stronger = sum(_is_stronger(question, other) for other in questions)
        return bool(question.norm), *known, *covers, stronger, len(question.attacks), networks[number]

    return sorted(range(len(questions)), key=weight, reverse=True)


def _is_stronger(one: Question, other: Question) -> bool:
    """Whether a protocol leaves the networks that both judged, at the ε that both have, less accuracy than another."""
    if (one.group.data, one.group.split, one.norm) != (other.group.data, other.group.split, other.norm):
        return False
    mine, theirs = one.attacks[0].points, other.attacks[0].points
    common = [(at, network) for at in mine if at and at in theirs for network in mine[at] if network in theirs[at]]
    return sum(float(theirs[at][network].value - mine[at][network].value) for at, network in common) > 0


def _telling(attack: Attack, guessing: Collection[str]) -> int:
    """Number of the strength at which the networks that may lead differ most, compared with their intervals.

    Where all of them are nearly broken at every strength it is the one that leaves most.
    """

    def spread(at: float) -> tuple[bool, float]:
        rows = may_lead(list(attack.points[at].values()), guessing)
        values, low, high = np.array([(row.value, row.low, row.high) for row in rows], dtype=float).T
        if values.max() < _NEARLY_ZERO:
            return False, float(values.max())
        halves = np.nan_to_num((high - low) / 2, nan=0.01).clip(1e-3)
        return True, float(np.mean(((values - values.mean()) / halves) ** 2))

    strengths = list(attack.points)
    return strengths.index(max([at for at in strengths if at] or strengths, key=spread))
