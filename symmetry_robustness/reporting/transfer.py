"""The transfer matrix: robust accuracy of each target under images that were crafted on each source."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from symmetry_robustness.reporting.aggregate import run_titles
from symmetry_robustness.reporting.comparability import told_apart
from symmetry_robustness.reporting.evaluation import Evaluation
from symmetry_robustness.reporting.figures.heat_maps import heat_maps
from symmetry_robustness.reporting.figures.style import Drawn, fitted, shown_network
from symmetry_robustness.reporting.frame import grouped, records, split
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet
from symmetry_robustness.results.names import NORM_TITLES, epsilon_name

_COLUMNS: Final = ["evaluation", "rule", "source", "target", "robust_accuracy", "white_box", "clean_accuracy"]
_ALL: Final = "all rules"  # an image stands if it withstands each of them
_NOTE: Final = (
    "Robust accuracy in % of each target (column) under images crafted on each source (row); bold: source and target "
    "are the same network, a white-box attack."
)


def transfer_rows(runs: Sequence[Run]) -> pd.DataFrame:
    """Robust accuracy by comparison group with its epsilon, rule, source and target; all pairs of the last two."""
    found = [(run, evaluation) for run in runs for evaluation in run.evaluations.values() if any(_pairs(evaluation))]
    rows = [
        row
        for members in grouped(found, lambda one: one[1].comparison_group).values()
        for position in range(len(members[0][1].report.epsilons))
        for row in _rows(_named(members), position)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def _pairs(evaluation: Evaluation) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    """Attack, rule, source (name and digest) and whether it is white-box, of each attack from another network."""
    for attack, settings in evaluation.report.settings.get("attacks", {}).items():
        source = settings.get("source")
        if isinstance(source, Mapping) and attack in evaluation.report.minimal_epsilon:
            rule = attack.removesuffix(f"_from_{source['name']}").replace("_", " ")
            yield attack, rule, source, bool(settings.get("white_box"))


def _named(members: Sequence[tuple[Run, Evaluation]]) -> dict[str, Evaluation]:
    """Evaluations by the name of the target, with seed, weights and place as far as they are needed."""
    titles = run_titles([run for run, _ in members])
    parts = [(titles[run.place], f"seed {run.seed}", evaluation.weights, run.place) for run, evaluation in members]
    return dict(zip(told_apart(*zip(*parts, strict=True)), (evaluation for _, evaluation in members), strict=True))


def _rows(targets: Mapping[str, Evaluation], position: int) -> Iterator[tuple[Any, ...]]:
    """Rows at one epsilon: all rules together where there are several, then each; sources that are targets first."""
    first = next(iter(targets.values()))
    report, pairs = first.report, [*_pairs(first)]
    radius = f"{NORM_TITLES.get(report.norm, report.norm)} ε = {epsilon_name(report.epsilons[position])}"
    about = f"{first.data_title}, {len(report):,} {first.split} images, {radius}"
    own = {str(evaluation.report.provenance.get("checkpoint")): name for name, evaluation in targets.items()}
    named = {str(s["name"]): own.get(str(s.get("digest")), str(s["name"]).replace("_", " ")) for _, _, s, _ in pairs}
    shown = dict(zip(named, told_apart([*named.values()], [*named]), strict=True))
    sources = sorted(shown, key=lambda name: [*targets, named[name]].index(named[name]))
    rules = list(dict.fromkeys(rule for _, rule, _, _ in pairs))
    for rule in [_ALL, *rules] if len(rules) > 1 else rules:
        for source in sources:
            for target, evaluation in targets.items():
                clean, curve = evaluation.report.clean_correct, evaluation.report.curve
                found = [
                    (curve(attack)[:, position], is_white_box)
                    for attack, its, crafted_on, is_white_box in _pairs(evaluation)
                    if crafted_on["name"] == source and rule in (its, _ALL)
                ]
                share = np.logical_and.reduce([correct for correct, _ in found]).mean() if found else np.nan
                yield about, rule, shown[source], target, share, any(white for _, white in found), clean.mean()


def transfer_tables(rows: pd.DataFrame) -> TableSet:
    """A table for each evaluation, epsilon and rule, and all of them as numbers."""
    tables = []
    for (about, rule), matrix in rows.groupby(["evaluation", "rule"], sort=False):
        targets = matrix.drop_duplicates("target")
        lines = [[Cell("no attack"), *(Cell(f"{100 * share:.1f}") for share in targets["clean_accuracy"])]]
        for source, found in split(matrix, "source").items():
            shares = (Cell(f"{100 * row.robust_accuracy:.1f}", row.white_box) for row in records(found))
            lines.append([Cell(source), *shares])
        columns = ["crafted on \\ judged on", *targets["target"]]
        tables.append(Table(f"Transfer, {rule}, {about}", columns, lines, [_NOTE]))
    return TableSet("transfer", tables, rows)


def transfer_figures(rows: pd.DataFrame) -> Drawn:
    """A heat map for each evaluation and epsilon, with a panel for each rule."""
    for about, several in split(rows, "evaluation").items():
        names = [several["source"].unique(), several["target"].unique()]
        maps = {
            rule: matrix[["robust_accuracy", "white_box"]].to_numpy(np.float64).reshape(*map(len, names), 2)
            for rule, matrix in split(several, "rule").items()
        }
        sources, targets = ([fitted(shown_network(name), 1.1) for name in one] for one in names)
        title = f"crafted on (rows), judged on (columns); framed: white box. {about}"
        white_box = next(iter(maps.values()))[..., 1] > 0
        shares = {rule: matrix[..., 0] for rule, matrix in maps.items()}
        yield (
            "transfer",
            heat_maps(shares, sources, targets, label="robust accuracy (%)", title=title, framed=white_box),
        )
