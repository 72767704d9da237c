"""The price of robustness: robust accuracy over the cost of the training, and who is most robust for so much."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from symmetry_robustness.reporting.aggregate import ComparisonGroup, Summary, may_lead, network_titles
from symmetry_robustness.reporting.comparability import name_differences, readable
from symmetry_robustness.reporting.figures import style
from symmetry_robustness.reporting.frame import COSTS, grouped, records, settings_key, split
from symmetry_robustness.reporting.load import Run
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet, flag
from symmetry_robustness.reporting.tables import cell_of, title_of
from symmetry_robustness.results.names import class_title, epsilon_name

QUESTION: Final = "Most robust for at most x times the cost of standard training"
_BUDGETS: Final = (1, 1.5, 2, 3, 5, 10, 20)
_SHAPES: Final = "osD^vP<>pXh*8d"  # of defences; colours are of networks
_PLAIN: Final = "CrossEntropy"  # a defence that is none
_COSTS: Final = {"training_flops": "FLOPs", "training_seconds": "seconds"}
# Seconds of equal work differ by a few percent; means of equal FLOPs over other numbers of seeds by rounding.
_SLACK: Final = {"training_flops": 1 + 1e-9, "training_seconds": 1.05}


class Point(NamedTuple):
    """One network under one training.

    Attributes:
        network: title of the network, or its name.
        defence: objective, and what else changes its training images or weights.
        costs: rows of the results by their measure, as far as known.
        row: of the results, robust accuracy with its interval.
    """

    network: str
    defence: str
    costs: Mapping[str, Any]
    row: Any

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes of a step, 0 where not known."""
        forward, backward = (self.costs.get(f"{kind}_passes") for kind in ("forward", "backward"))
        return int(forward.value) if forward else 0, int(backward.value) if backward else 0


@dataclass(frozen=True)
class Tradeoff:
    """Networks and trainings that may be compared, at one epsilon.

    Attributes:
        group: facts that they share.
        epsilon: of the attack.
        points: several.
        hardware: on which seconds were measured.
    """

    group: ComparisonGroup
    epsilon: float
    points: Sequence[Point]
    hardware: Sequence[str]

    @property
    def kinds(self) -> list[str]:
        """Measures of cost that all points have; seconds only of one hardware."""
        same = {"training_seconds"} if len(self.hardware) > 1 else set()
        return [kind for kind in _COSTS if kind not in same and all(kind in point.costs for point in self.points)]

    @property
    def standard(self) -> Point:
        """The plain network under cross-entropy alone, whose cost is 1; the nearest to it where there is none."""
        plain = [point for point in self.points if point.defence.partition(" (")[0] == _PLAIN]
        plain = plain or [point for point in self.points if sum(point.passes) == 2] or [*self.points]
        named = [point for point in plain if point.row.network.startswith("standard")] or plain
        return min(named, key=lambda point: point.costs[self.kinds[0]].value)

    def name(self, point: Point) -> str:
        """The network, and its defence where these differ."""
        several = len({other.defence for other in self.points}) > 1
        return f"{readable(point.network)}, {point.defence}" if several else readable(point.network)

    def price(self, point: Point, kind: str) -> float:
        """Cost as a multiple of the standard one."""
        return float(point.costs[kind].value / self.standard.costs[kind].value)

    def front(self, kind: str, guessing: frozenset[str]) -> list[Point]:
        """Points that nothing cheaper is as robust as, by their cost; no check of them failed."""
        able = {id(row) for row in may_lead([point.row for point in self.points], guessing)}
        ordered = sorted(self.points, key=lambda point: (point.costs[kind].value, -point.row.value))
        ordered = [point for point in ordered if id(point.row) in able]
        best = [-1.0, *accumulate((point.row.value for point in ordered), max)]
        return [point for point, before in zip(ordered, best, strict=False) if point.row.value > before]


def tradeoffs(summary: Summary, runs: Sequence[Run]) -> list[Tradeoff]:
    """One for each comparison group and epsilon at which several trainings of different cost were attacked."""
    trained, titles = grouped(runs, lambda run: settings_key(run, "last.ckpt")), network_titles(runs)
    costs = {
        key: {row.measure: row for row in records(rows) if row.value > 0}
        for key, rows in split(summary.results[summary.results["measure"].isin(COSTS)], "settings").items()
    }
    found = []
    for key, rows in split(summary.results, "comparison_group").items():
        attacked = rows[rows["measure"] == "worst_case_accuracy"]
        named = _defences({key: trained[key][0].training for key in rows["settings"].unique() if key in trained})
        if attacked.empty:
            attacked = rows[rows["measure"] == "robust_accuracy"]
        for epsilon in sorted(attacked["epsilon"].unique().tolist()):
            points = [
                Point(titles[row.network], named[row.settings], costs[row.settings], row)
                for row in records(attacked[attacked["epsilon"] == epsilon].drop_duplicates("settings"))
                if row.settings in trained and not _COSTS.keys().isdisjoint(costs.get(row.settings, ()))
            ]
            machines = {
                str(run.summary.get("hardware") or "") for point in points for run in trained[point.row.settings]
            }
            one = Tradeoff(summary.groups[key], epsilon, points, sorted(machines))
            if len(points) > 1 and one.kinds:
                found.append(one)
    return found


def defence(training: Mapping[str, Any]) -> str:
    """Objective, augmentations and averages of a training, in a few words.

    Examples:
        >>> nets = "symmetry_robustness.training.objectives.NFGSM"
        >>> defence({"objective": {"_target_": nets}, "data": {"augmentation": {"crop_flip": {}, "cutout": {}}}})
        'NFGSM + crop flip + cutout'
    """
    objective = training.get("objective") or {}
    name = class_title(objective) or "training"
    if isinstance(within := objective.get("around"), Mapping):
        name += f" around {class_title(within)}"
    augmentation = (training.get("data") or {}).get("augmentation") or {}
    parts = [str(one).replace("_", " ") for one in augmentation if one != "_target_"]
    return " + ".join([name, *parts, *(["averaged weights"] if training.get("averaging") else [])])


def _defences(trainings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Defence of each training; with the settings in which trainings differ that have the same one.

    Those of the network are left out: it stands beside the defence.
    """
    found: dict[str, str] = {}
    for name, keys in grouped(trainings, lambda key: defence(trainings[key])).items():
        differences = name_differences([{**trainings[key], "model": None} for key in keys])
        found |= {key: f"{name} ({text})" if text else name for key, text in zip(keys, differences, strict=True)}
    return found


def tradeoff_tables(found: Sequence[Tradeoff], guessing: frozenset[str]) -> TableSet:
    """For each comparison group the answers within budgets, and all points."""
    rows = [
        {
            "comparison_group": one.group.key,
            "epsilon": one.epsilon,
            "network": point.network,
            "defence": point.defence,
            "forward_passes": point.passes[0],
            "backward_passes": point.passes[1],
            **{kind: point.costs[kind].value if kind in point.costs else np.nan for kind in _COSTS},
            **{f"times_standard_{_COSTS[kind]}": one.price(point, kind) for kind in one.kinds},
            "robust_accuracy": point.row.value,
            "low": point.row.low,
            "high": point.row.high,
            "on_front": point in one.front(one.kinds[0], guessing),
        }
        for one in found
        for point in one.points
    ]
    tables = [table for shown in _shown(found) for table in _tables(shown, guessing)]
    return TableSet("tradeoff", tables, pd.DataFrame(rows))


def _shown(found: Sequence[Tradeoff]) -> list[list[Tradeoff]]:
    """The smallest, the middle and the largest epsilon of each comparison group."""
    groups = grouped(found, lambda one: one.group.key).values()
    return [[several[at] for at in sorted({0, len(several) // 2, len(several) - 1})] for several in groups]


def _tables(shown: Sequence[Tradeoff], guessing: frozenset[str]) -> Iterator[Table]:
    """The most robust training within each budget, then every training with its costs, one epsilon beside the other."""
    first = shown[0]
    kind = first.kinds[0]
    fronts = [one.front(kind, guessing) for one in shown]
    about = [
        f"Cost: {_COSTS[kind]} of the training, evaluations left out, as a multiple of {first.name(first.standard)}."
    ]
    if kind == "training_flops":
        about.append("FLOPs: convolutions and matrix products of all steps, attacks included.")
    if len(first.hardware) > 1:
        about.append("Seconds were measured on different hardware and are not compared.")
    elif first.hardware[0]:
        about.append(f"Seconds on {first.hardware[0]}.")
    dearest = max(first.price(point, kind) for point in first.points)
    lines = []
    for budget in (*(x for x in _BUDGETS if x < dearest), np.inf):
        line = ["any cost" if np.isinf(budget) else f"at most {budget:g}×"]
        for one, front in zip(shown, fronts, strict=True):
            within = [point for point in front if one.price(point, kind) <= budget * _SLACK[kind]]
            best = [f"{one.name(p)}: {cell_of(p.row).text} % for {one.price(p, kind):.2g}×" for p in within[-1:]]
            line += best or ["none"]
        lines.append([*map(Cell, line)])
    columns = ["cost", *(f"ε = {epsilon_name(one.epsilon)}" for one in shown)]
    notes = [
        "Each cell: the network and training of the highest mean, its accuracy with the 95 % interval, and its cost. "
        "Where intervals overlap the order may be chance; the tables of leaders test it.",
        *about,
    ]
    yield Table(f"{QUESTION}, {title_of(first.group)}", columns, lines, notes)

    lines = []
    for point in sorted(first.points, key=lambda point: point.costs[kind].value):
        names = f"{readable(point.network)}{flag(point.row.checks)}", point.defence
        passes = f"{point.passes[0]}F + {point.passes[1]}B" if any(point.passes) else ""
        row = [Cell(text) for text in (*names, passes, *(f"{first.price(point, each):.3g}" for each in first.kinds))]
        for one, front in zip(shown, fronts, strict=True):
            same = [other for other in one.points if other.row.settings == point.row.settings]
            row += [Cell(cell_of(other.row).text, other in front) for other in same] or [Cell("")]
        lines.append(row)
    columns = ["network", "trained on", "passes per step", *(f"× standard, {_COSTS[each]}" for each in first.kinds)]
    columns += [f"% at ε = {epsilon_name(one.epsilon)}" for one in shown]
    notes = ["Bold: nothing cheaper is as robust (Pareto front).", *about]
    yield Table(f"Price of robustness, {title_of(first.group)}", columns, lines, notes, fixed=3)


def tradeoff_figures(found: Sequence[Tradeoff], guessing: frozenset[str]) -> style.Drawn:
    """A figure for each comparison group, at the smallest, the middle and the largest epsilon."""
    for shown in _shown(found):
        yield "tradeoff", tradeoff_figure(shown, guessing)


@style.printed
def tradeoff_figure(shown: Sequence[Tradeoff], guessing: frozenset[str]) -> Figure:
    """Robust accuracy over cost: a mark for each network and training, and the Pareto front; a panel for each ε."""
    panels = [(one, kind) for kind in shown[0].kinds for one in shown]
    figure, axes = style.tiled(len(panels), 2.1, 1.6)
    points = [point for one in shown for point in one.points]
    colors = {
        name: style.COLORS[at % style.NETWORKS] for name, at in style.look_of(point.network for point in points).items()
    }
    shapes = {name: _SHAPES[at % len(_SHAPES)] for name, at in style.look_of(point.defence for point in points).items()}
    for panel, (one, kind) in zip(axes.flat, panels, strict=False):
        front = one.front(kind, guessing)
        line = [(one.price(point, kind), point.row.value) for point in front]
        right = 1.15 * max(one.price(point, kind) for point in one.points)
        xs, ys = zip(*[*line, (right, line[-1][1])], strict=True)
        panel.step(xs, ys, where="post", color="0.6", linewidth=1.0, zorder=0, label="Pareto front")
        unit = one.standard.costs[kind].value
        for point in one.points:
            cost, row = point.costs[kind], point.row
            panel.errorbar(
                cost.value / unit,
                row.value,
                xerr=_reach(cost) / unit,
                yerr=_reach(row),
                fmt=shapes[point.defence],
                color=colors[point.network],
                markersize=4,
                elinewidth=0.6,
                markerfacecolor="none" if row.checks in ("warned", "failed") else colors[point.network],
            )
        panel.set(xscale="log", title=f"ε = {epsilon_name(one.epsilon)}", ylim=(-0.03, None))
        panel.set_xlabel(f"cost × standard ({_COSTS[kind]})")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.grid(True)
    for panel in axes[:, 0]:
        panel.set_ylabel("robust accuracy")
    first = axes[0, 0]
    for name, color in colors.items():
        first.plot([], [], "s", color=color, linestyle="", label=style.shown_network(name))
    for name, shape in shapes.items() if len(shapes) > 1 else ():
        first.plot([], [], shape, color="0.4", linestyle="", label=name)
    figure.suptitle(style.fitted(title_of(shown[0].group).replace("$", r"\$"), 5.0))
    style.legend_below(figure, axes.flat)
    return figure


def _reach(row: Any) -> NDArray[np.float64]:
    """Lengths (2, 1) from a mean to the ends of its interval, which ends at 0; 0 where there is none."""
    ends = np.array([[row.value - np.maximum(0.0, row.low)], [row.high - row.value]])
    return np.asarray(np.nan_to_num(ends).clip(0))
