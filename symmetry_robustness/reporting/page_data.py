"""From runs and their results to what the page says."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from symmetry_robustness.reporting.aggregate import ComparisonGroup, Summary
from symmetry_robustness.reporting.claims import Outcome
from symmetry_robustness.reporting.comparability import data_title
from symmetry_robustness.reporting.evaluation import FINAL
from symmetry_robustness.reporting.frame import records
from symmetry_robustness.reporting.load import Run, shown_path
from symmetry_robustness.reporting.page import (
    Axis,
    Claim,
    Curve,
    Evaluation,
    Found,
    Measured,
    Page,
    RunEntry,
    Setting,
    finite,
)
from symmetry_robustness.reporting.page_answers import find_answers, place
from symmetry_robustness.reporting.page_measures import find_measures
from symmetry_robustness.reporting.page_run import run_details
from symmetry_robustness.reporting.statistics import Difference

_ACCURACIES = ("clean_accuracy", "robust_accuracy", "worst_case_accuracy", "test_accuracy")
# Runs whose adversarial examples are shown: those of a thousand runs would make a page of a hundred megabytes.
_PICTURED = 40


def make_page(
    runs: Sequence[Run],
    frame: pd.DataFrame,
    summary: Summary,
    claims: Sequence[Outcome] = (),
    *,
    made: str,
    checks: Mapping[str, str],
) -> Page:
    """What the page says.

    Args:
        runs: finished ones, at least one.
        frame: their numbers, with what was left out (`frame_of`).
        summary: what they come to (`summarize`).
        claims: of the paper beside what was measured (`judge_claims`).
        made: when, in words.
        checks: name of a soundness check to what it asks.
    """
    frame = frame[frame["measure"].isin(_ACCURACIES)]
    results = summary.results[summary.results["measure"].isin(_ACCURACIES)]
    settings = _settings(summary, runs)
    numbers = {section: number for number, section in enumerate(settings)}
    entries = _entries(runs, frame, numbers)
    curves = list(_curves(results, numbers, entries, {run.place: at for at, run in enumerate(runs)}))
    return Page(
        title=_title(summary),
        made=made,
        networks=list(dict.fromkeys(results["label"])),
        settings=list(settings.values()),
        curves=curves,
        answers=list(find_answers(results, summary.comparisons, numbers)),
        runs=entries,
        checks=dict(checks),
        measures=list(find_measures(summary.results, numbers)),
        claims=[_claim(outcome) for outcome in claims],
        problems=frame.attrs["problems"],
        starts=_starts(list(settings.values()), curves),
    )


def all_details(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """What the pages of single runs show, in the order of the runs, read one after the other.

    Adversarial examples are shown for some only: first for one run of each network and data set, then for a second one.
    """
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for at, run in enumerate(runs):
        kind = (run.name, str(run.config["data"].get("_target_")))
        turns.append((seen[kind], at))
        seen[kind] += 1
    pictured = {at for _, at in sorted(turns)[:_PICTURED]}
    for at, run in enumerate(runs):
        yield run_details(run, pictures=at in pictured)


def _settings(summary: Summary, runs: Sequence[Run]) -> dict[str, Setting]:
    """Section to setting; those that would look alike are told apart by their images, then by the section's digest."""
    norms = {e.comparison_group: e.norm for run in runs for e in run.evaluations.values() if e.attacks}
    settings = {
        key: Setting(
            data=section.data,
            split=section.split,
            protocol=_protocol(section),
            released=bool(section.released),
            norm=norms.get(key),
            description=section.description if section.protocol else "all test images, no attack",
            training_differs_in=section.training_differs_in,
        )
        for key, section in summary.groups.items()
    }
    for tell in (lambda key: f"{summary.groups[key].images or 'all'} images", lambda key: key[:6]):
        alike = Counter(settings.values())
        settings |= {key: replace(one, variant=tell(key)) for key, one in settings.items() if alike[one] > 1}
    return settings


def _claim(outcome: Outcome) -> Claim:
    claim = outcome.claim
    epsilon, published = finite((claim.epsilon, claim.published_epsilon))
    return Claim(
        network=f"{claim.network} over {claim.than}" if claim.than else claim.network,
        what=claim.attack or claim.measure,
        data=claim.data,
        epsilon=epsilon,
        published_epsilon=published,
        kind=claim.kind,
        claimed=claim.value,
        released=_measured(outcome.released),
        sound=_measured(outcome.sound),
        verdict=outcome.verdict,
        reason=outcome.reason,
        source=claim.source,
    )


def _measured(found: Difference) -> Measured | None:
    value, low, high = finite((found.value, found.low, found.high))
    return None if value is None else Measured(value, low, high, found.seeds)


def _protocol(section: ComparisonGroup) -> str:
    """Its name; one that has none but that of the runs' own file is called by its attacks."""
    if not section.protocol:
        return "test accuracy"
    if section.known:
        return section.known
    return section.description.partition(";")[0] if section.protocol == FINAL else section.protocol


def _title(summary: Summary) -> str:
    """Names the data, which a page is about more than anything else."""
    sets = list(dict.fromkeys(section.data for section in summary.groups.values()))
    title = f"Robustness on {', '.join(sets)}"
    return title if sets and len(title) <= 60 else "Robustness report"


def _starts(settings: Sequence[Setting], curves: Sequence[Curve]) -> dict[str, int]:
    """Of each data set the setting that is shown first: sound, with attacks, of most networks and runs.

    The data set that is shown first, by the same rule, comes first; CIFAR-10 rather than others.
    """

    def weight(number: int) -> tuple[bool, bool, bool, bool, int, int]:
        setting, own = settings[number], [curve for curve in curves if curve.setting == number]
        worst = [curve for curve in own if curve.attack == "worst_case"]
        many = any(len(curve.positions) > 1 for curve in own)
        sound, usual = not setting.released, setting.data == "cifar10"
        return bool(worst), many, sound, usual, len(worst or own), sum(curve.seeds for curve in worst or own)

    starts: dict[str, int] = {}
    for number in sorted(range(len(settings)), key=weight, reverse=True):
        starts.setdefault(settings[number].data, number)
    return starts


def _curves(
    results: pd.DataFrame, numbers: Mapping[str, int], entries: Sequence[RunEntry], at: Mapping[str, int]
) -> Iterator[Curve]:
    """One for each network, setting and attack."""
    for (section, _), group in results.groupby(["comparison_group", "settings"], sort=False):
        first, number = records(group.head(1))[0], numbers[str(section)]
        own = [at[run] for run in first.runs]
        reports = [report for run in own for report in entries[run].reports if report.setting == number]
        failed = sum(bool(report.failed) for report in reports)
        warned = sum(bool(report.warned and not report.failed) for report in reports)
        for (attack, axis), line in _lines(records(group)).items():
            values, lows, highs = (finite(getattr(row, name) for _, row in line) for name in ("value", "low", "high"))
            yield Curve(
                setting=number,
                attack=attack,
                axis=axis,
                network=str(first.label),
                positions=[position for position, _ in line],
                values=values,
                lows=lows,
                highs=highs,
                seeds=int(str(first.seeds)),
                images=_count(first.images),
                checked=bool(reports) and all(report.checked for report in reports),
                failed=failed,
                warned=warned,
                runs=own,
            )


def _lines(rows: Sequence[Any]) -> dict[tuple[str, Axis], list[tuple[float, Any]]]:
    """Rows of one network in one setting by attack, in order of its strength, each attack beginning without any."""
    lines: dict[tuple[str, Axis], list[tuple[float, Any]]] = {}
    for row in rows:
        attack, axis, position = place(row)
        lines.setdefault((attack, axis), []).append((position, row))
    clean = lines.get(("none", "epsilon"), [])
    if any(attack != "none" and axis == "epsilon" for attack, axis in lines):
        lines = {key: (clean if key[1] == "epsilon" else []) + line for key, line in lines.items() if key[0] != "none"}
    names = sorted(lines, key=lambda key: key[0] != "worst_case")  # which comes first
    return {key: sorted(lines[key], key=lambda point: point[0]) for key in names}


def _count(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)


def _entries(runs: Sequence[Run], frame: pd.DataFrame, numbers: Mapping[str, int]) -> list[RunEntry]:
    """Each run with its evaluations, then the test sets that show images in several ways."""
    rows: dict[str, dict[tuple[str, str], list[Any]]] = {}
    for row in records(frame):
        rows.setdefault(str(row.run), {}).setdefault((str(row.comparison_group), str(row.weights)), []).append(row)
    root = Path(os.path.commonpath([run.directory.resolve().parent for run in runs]))
    entries = []
    for run in runs:
        found = rows.get(run.place, {})
        reports = []
        for evaluation in run.evaluations.values():
            numbered = found.pop((evaluation.comparison_group, evaluation.weights), [])
            checks = [check._asdict() for check in evaluation.checks]
            images = len(evaluation.indices)
            reports.append(_evaluation(numbers.get(evaluation.comparison_group, 0), images, numbered, checks))
        for (section, _), others in found.items():
            if any(row.view for row in others):
                reports.append(_evaluation(numbers[section], _count(others[0].images), others, []))
        summary = run.summary
        entries.append(
            RunEntry(
                name=shown_path(run.directory.resolve().relative_to(root)),
                network=run.name,
                group=summary.get("group"),
                data=data_title(run.config["data"]),
                seed=run.seed,
                epochs=run.epochs,
                commit=run.commit or None,
                parameters=summary["parameters"],
                seconds=summary.get("training_seconds"),
                clean=finite([summary["clean_accuracy"]])[0],
                reports=reports,
            )
        )
    return entries


def _evaluation(
    setting: int, images: int | None, rows: Sequence[Any], checks: Sequence[Mapping[str, str]]
) -> Evaluation:
    attacks = {}
    for (attack, axis), line in _lines(rows).items():
        values, errors = (finite(getattr(row, name) for _, row in line) for name in ("value", "standard_error"))
        attacks[attack] = Found(axis, [position for position, _ in line], values, errors)
    failed, warned = ([check["name"] for check in checks if check["status"] == kind] for kind in ("failed", "warned"))
    return Evaluation(setting, images, attacks, bool(checks), failed, warned)
