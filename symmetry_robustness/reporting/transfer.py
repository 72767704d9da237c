"""The transfer matrix: robust accuracy of each target under images that were crafted on each source."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from symmetry_robustness.reporting.evaluation import Evaluation
from symmetry_robustness.reporting.figures.labels import Drawn, shown_network
from symmetry_robustness.reporting.figures.style import SMALLEST, TWO_COLUMNS, fitted, printed
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet
from symmetry_robustness.results.names import NORM_TITLES, epsilon_name

_ALL: Final = "all rules"  # an image stands if it withstands each of them
_ACROSS: Final = 4  # panels side by side
_NOTE: Final = (
    "Robust accuracy in % of each target (column) under images crafted on each source (row); bold: source and target "
    "are the same network, a white-box attack."
)


@dataclass(frozen=True)
class Matrix:
    """Robust accuracy by source and target under one rule at one epsilon.

    Attributes:
        about: data, number of images, norm and epsilon.
        rule: name of the attack that was crafted on the sources.
        sources: names of the rows.
        targets: names of the columns.
        accuracy: (sources, targets) in [0, 1]; NaN where nothing was measured.
        white_box: (sources, targets) whether both are the same network.
        clean: (targets,) accuracy without attack.
    """

    about: str
    rule: str
    sources: Sequence[str]
    targets: Sequence[str]
    accuracy: NDArray[np.float64]
    white_box: NDArray[np.bool_]
    clean: NDArray[np.float64]


def transfer_matrices(runs: Sequence[Run]) -> list[Matrix]:
    """For each comparison group and epsilon the matrix of all rules together, and one for each of several."""
    groups: dict[str, list[tuple[Run, Evaluation]]] = {}
    for run in runs:
        for evaluation in run.evaluations.values():
            if any(_pairs(evaluation)):
                groups.setdefault(evaluation.comparison_group, []).append((run, evaluation))
    return [
        matrix
        for members in groups.values()
        for position in range(len(members[0][1].report.epsilons))
        for matrix in _matrices(_named(members), position)
    ]


def _pairs(evaluation: Evaluation) -> Iterator[tuple[str, str, Mapping[str, Any], bool]]:
    """Attack, rule, source (name and digest) and whether it is white-box, of each attack from another network."""
    for attack, settings in evaluation.report.settings.get("attacks", {}).items():
        source = settings.get("source")
        if isinstance(source, Mapping) and attack in evaluation.report.minimal_epsilon:
            rule = attack.removesuffix(f"_from_{source['name']}").replace("_", " ")
            yield attack, rule, source, bool(settings.get("white_box"))


def _named(members: Sequence[tuple[Run, Evaluation]]) -> dict[str, Evaluation]:
    """Evaluations by the name of the target, with seed, weights and place as far as they are needed."""
    parts = [(run.title, f"seed {run.seed}", evaluation.weights, run.place) for run, evaluation in members]
    for length in range(1, 5):
        names = [", ".join(filter(None, part[:length])) for part in parts]
        if max(Counter(names).values()) == 1:
            break
    return {name: evaluation for name, (_, evaluation) in zip(names, members, strict=True)}


def _matrices(targets: Mapping[str, Evaluation], position: int) -> Iterator[Matrix]:
    first = next(iter(targets.values()))
    report = first.report
    pairs = [*_pairs(first)]
    own = {str(evaluation.report.provenance.get("checkpoint")): name for name, evaluation in targets.items()}
    shown = {str(s["name"]): own.get(str(s.get("digest")), str(s["name"]).replace("_", " ")) for _, _, s, _ in pairs}
    rows = sorted(shown, key=lambda name: [*targets, shown[name]].index(shown[name]))  # the diagonal first
    rules = list(dict.fromkeys(rule for _, rule, _, _ in pairs))
    size = len(rows), len(targets)
    stands = np.zeros((len(rules), *size))
    together, white = np.zeros(size), np.zeros(size, dtype=np.bool_)
    for column, evaluation in enumerate(targets.values()):
        survivors = np.repeat(evaluation.report.clean_correct[None], len(rows), axis=0)
        for attack, rule, source, white_box in _pairs(evaluation):
            row, correct = rows.index(str(source["name"])), evaluation.report.curve(attack)[:, position]
            stands[rules.index(rule), row, column] = correct.mean()
            survivors[row] &= correct
            white[row, column] = white_box
        together[:, column] = survivors.mean(1)
    radius = f"{NORM_TITLES.get(report.norm, report.norm)} ε = {epsilon_name(report.epsilons[position])}"
    about = f"{first.data_title}, {len(report):,} {first.split} images, {radius}"
    names = [shown[name] for name in rows], list(targets)
    clean = np.array([evaluation.report.clean_correct.mean() for evaluation in targets.values()])
    if len(rules) > 1:
        yield Matrix(about, _ALL, *names, together, white, clean)
    for rule, accuracy in zip(rules, stands, strict=True):
        yield Matrix(about, rule, *names, accuracy, white, clean)


def transfer_tables(matrices: Sequence[Matrix]) -> TableSet:
    """A table for each matrix, and all of them as numbers."""
    tables, numbers = [], []
    for matrix in matrices:
        rows = [[Cell("no attack"), *(Cell(f"{100 * share:.1f}") for share in matrix.clean)]]
        for source, shares, white in zip(matrix.sources, matrix.accuracy, matrix.white_box, strict=True):
            rows.append([Cell(source), *(Cell(f"{100 * s:.1f}", bool(w)) for s, w in zip(shares, white, strict=True))])
            numbers += [
                (matrix.about, matrix.rule, source, *entry)
                for entry in zip(matrix.targets, shares, white, matrix.clean, strict=True)
            ]
        title = f"Transfer, {matrix.rule}, {matrix.about}"
        tables.append(Table(title, ["crafted on \\ judged on", *matrix.targets], rows, [_NOTE]))
    columns = ["evaluation", "rule", "source", "target", "robust_accuracy", "white_box", "clean_accuracy"]
    return TableSet("transfer", tables, pd.DataFrame(numbers, columns=columns))


def transfer_figures(matrices: Sequence[Matrix]) -> Drawn:
    """A heat map for each evaluation and epsilon, with a panel for each rule."""
    together: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        together.setdefault(matrix.about, []).append(matrix)
    for several in together.values():
        yield "transfer", transfer_map(several)


@printed
def transfer_map(matrices: Sequence[Matrix]) -> Figure:
    """Robust accuracy as colours and numbers: sources below each other, targets side by side, white-box framed.

    Args:
        matrices: of one evaluation and epsilon, a panel each.
    """
    first, across = matrices[0], min(_ACROSS, len(matrices))
    down = -(-len(matrices) // across)
    height = down * (0.22 * len(first.sources) + 0.4) + 1.3
    figure = Figure(figsize=(TWO_COLUMNS, height), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(matrices) :]:
        panel.set_visible(False)
    for panel, matrix in zip(panels.flat, matrices, strict=False):
        image = panel.imshow(matrix.accuracy, vmin=0, vmax=1, cmap="cividis", aspect="auto")
        for (y, x), share in np.ndenumerate(matrix.accuracy):
            color = "black" if share > 0.45 else "white"
            panel.text(x, y, f"{100 * share:.0f}", color=color, ha="center", va="center", fontsize=SMALLEST)
            if matrix.white_box[y, x]:
                panel.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=color, linewidth=0.9))
        panel.set_title(matrix.rule)
        panel.set_xticks(range(len(matrix.targets)), [*map(_short, matrix.targets)], rotation=90)
        panel.set_yticks(range(len(matrix.sources)), [*map(_short, matrix.sources)])
        panel.tick_params(length=0)
    bar = figure.colorbar(image, ax=panels, pad=0.01, fraction=0.04, format=PercentFormatter(1.0, symbol=""))
    bar.set_label("robust accuracy (%)")
    figure.suptitle(fitted(f"crafted on (rows), judged on (columns); framed: white box. {first.about}", TWO_COLUMNS))
    return figure


def _short(name: str) -> str:
    return fitted(shown_network(name), 1.1)
