"""Accuracy under attack, from the numbers of the tables: curves over epsilon, and bars at a few epsilons."""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from symmetry_robustness.reporting.aggregate import ATTACKED, ComparisonGroup, Summary
from symmetry_robustness.reporting.comparability import describe_attack, shown_data
from symmetry_robustness.reporting.evaluation import FINAL
from symmetry_robustness.reporting.figures.bars import Bar, bars
from symmetry_robustness.reporting.figures.curves import curve_grid
from symmetry_robustness.reporting.figures.style import NETWORKS, Drawn, Line, intervals_over, line_of, shown_network
from symmetry_robustness.reporting.frame import records, split
from symmetry_robustness.reporting.table_formats import flag
from symmetry_robustness.results.names import epsilon_label, epsilon_name

_FAMILIES: Final = 4  # protocols that are drawn
_COLUMNS: Final = 4  # panels side by side on a page
_GROUPS: Final = 4  # epsilons of a bar chart
_WORST: Final = "worst case over attacks"


class Family(NamedTuple):
    """Comparison groups that differ in nothing but the data: the content of one figure."""

    protocol: str
    description: str
    released: bool
    split: str
    groups: list[ComparisonGroup]

    @property
    def title(self) -> str:
        """Protocol, how it judges, and number of images."""
        kind = "released, no sound evaluation" if self.released else "sound"
        counts = dict.fromkeys(f"{group.images:,}" if group.images else "all" for group in self.groups)
        name = "final evaluation" if self.protocol == FINAL else f"protocol {self.protocol}"
        return f"{name} ({kind}), {' or '.join(counts)} {self.split} images"


def attack_figures(summary: Summary, notes: list[str]) -> Drawn:
    """For each protocol curves over epsilon and bars at a few of them; `notes` gets what is left out."""
    by_group = split(summary.results[summary.results["view"] == ""], "comparison_group")
    families = _families(summary, notes)
    for family in families[:_FAMILIES]:
        rows = pd.concat(
            [_most_robust(by_group[group.key], family, summary.elsewhere, notes) for group in family.groups]
        )
        if rows["epsilon"].dropna().nunique() > 1:
            yield from _curves(family, rows)
        yield from _bars(family, rows, notes)
    if len(families) > _FAMILIES:
        notes.append(f"{len(families) - _FAMILIES} of {len(families)} protocols are in the tables only")


def _families(summary: Summary, notes: list[str]) -> list[Family]:
    """Sound protocols first; of several evaluations that differ in their images alone the one with the most."""
    rows = summary.results
    attacked = set(rows.loc[rows["measure"] == "robust_accuracy", "comparison_group"])
    families: dict[tuple[Any, ...], Family] = {}
    for group in sorted(summary.groups.values(), key=lambda group: -(group.images or 0)):
        if group.key not in attacked:
            continue
        about = (group.protocol, group.description, group.released, group.split)
        family = families.setdefault(about, Family(*about, []))
        if group.data in (other.data for other in family.groups):
            notes.append(f"{group.protocol} on {group.images} images of {group.data}: drawn with more images")
        else:
            family.groups.append(group)
    return sorted(families.values(), key=lambda family: (family.released, family.split != "test"))


def _most_robust(rows: pd.DataFrame, family: Family, elsewhere: Collection[str], notes: list[str]) -> pd.DataFrame:
    """Accuracies of as many networks as a panel has room for: of each depth the most robust ones.

    Networks trained elsewhere, whose depth is not known, stand among the others where those have one depth.
    """
    rows = rows[rows["measure"].isin(ATTACKED)].copy()
    rows[["low", "high"]] = rows[["low", "high"]].apply(lambda ends: ends.fillna(rows["value"]))
    own, shallow = ~rows["settings"].isin(elsewhere), rows["network"].str.contains("_4layer")
    rows["depth"] = np.select([own & shallow, own], ["4 layers", "full depth"], "depth not known")
    if len(known := rows.loc[own, "depth"].unique()) == 1:
        rows["depth"] = known[0]
    rows["attack"] = rows["attack"].mask(rows["measure"] == "worst_case_accuracy", _WORST)
    chosen: list[str] = []
    for depth, found in split(rows[rows["attack"] == _WORST], "depth").items():
        area = found.groupby("settings", sort=False)["value"].mean()
        chosen += area.sort_values(ascending=False, kind="stable").index[:NETWORKS].to_list()
        if len(area) > NETWORKS:
            notes.append(f"{family.protocol}, {depth}: the {NETWORKS} most robust of {len(area)} networks are drawn")
    return rows[rows["settings"].isin(chosen)]


def _attacks(rows: pd.DataFrame) -> list[str]:
    """Attacks that get panels: all and the worst case over them, the latter alone where there are many."""
    names = [name for name in rows["attack"].unique() if name not in ("", _WORST)]
    if len(names) == 1:
        return names
    return [*names, _WORST] if len(names) < _COLUMNS else [_WORST]


def _label(row: Any) -> str:
    return shown_network(row.label.replace("_4layer", "", 1)) + ("" if row.released else flag(row.checks))


def _curves(family: Family, rows: pd.DataFrame) -> Drawn:
    """All panels in one figure where they fit, otherwise one for each attack with a column for each data set."""
    attacks, depths = _attacks(rows), sorted(rows["depth"].unique())
    data = {group.key: shown_data(group.data) for group in family.groups}
    norm = str(rows["norm"].iloc[0])
    apart = len(attacks) * len(data) > _COLUMNS
    for shown in [[attack] for attack in attacks] if apart else [attacks]:
        grid: dict[str, dict[str, dict[str, Line]]] = {}
        for depth, key, attack in ((depth, key, attack) for depth in depths for key in data for attack in shown):
            words = [data[key]] * (len(data) > 1) + [describe_attack(attack)] * (len(shown) > 1 or len(data) < 2)
            lines = _lines(rows[(rows["depth"] == depth) & (rows["comparison_group"] == key)], attack)
            grid.setdefault(depth if len(depths) > 1 else "", {})[", ".join(words)] = lines
        about = family.title if len(data) > 1 else f"{data[family.groups[0].key]}, {family.title}"
        about += f"; {describe_attack(shown[0])}" if apart else ""
        title = f"{about}; bands: 95 % over {intervals_over(rows)}"
        name = f"curves-{family.protocol}{f'-{shown[0]}' if apart else ''}"
        yield name, curve_grid(grid, x_label=epsilon_label(norm), title=title)


def _lines(rows: pd.DataFrame, attack: str) -> dict[str, Line]:
    """Network -> accuracy over epsilon, beginning with the clean one at 0."""
    lines = {}
    for found in split(rows, "settings").values():
        clean, under = found[found["measure"] == "clean_accuracy"], found[found["attack"] == attack]
        if len(under):
            both = pd.concat([clean.head(1).assign(epsilon=0.0), under.sort_values("epsilon")])
            lines[_label(records(found)[0])] = line_of(both, "epsilon")
    return lines


def _bars(family: Family, rows: pd.DataFrame, notes: list[str]) -> Drawn:
    """For each data set and depth networks side by side, at the first epsilons of the grid."""
    for group in family.groups:
        by_depth = split(rows[rows["comparison_group"] == group.key], "depth")
        for depth, found in by_depth.items():
            if found["settings"].nunique() < 2:
                if len(by_depth) > 1:
                    notes.append(f"bars, {family.protocol}, {depth}: no bars of a single network")
                continue
            panels = {describe_attack(attack): _bar_groups(found, attack) for attack in _attacks(found)[:3]}
            title = f"{shown_data(group.data)}, {family.title}"
            title += f", {depth}" if len(by_depth) > 1 else ""
            title += f"; intervals: 95 % over {intervals_over(found)}"
            title += "; ★ better than all others (paired test)" if found["best"].any() else ""
            name = f"bars-{family.protocol}{f'-{group.data}' if len(family.groups) > 1 else ''}"
            name += f"-{depth}" if len(by_depth) > 1 else ""
            yield name, bars(panels, x_label="ε (pixels in [0, 1])", title=title)


def _bar_groups(rows: pd.DataFrame, attack: str) -> dict[str, dict[str, Bar]]:
    under = rows[rows["attack"] == attack]
    groups = {"clean": rows[rows["measure"] == "clean_accuracy"]}
    for epsilon in sorted(under["epsilon"].unique())[:_GROUPS]:
        groups[epsilon_name(epsilon)] = under[under["epsilon"] == epsilon]
    return {
        name: {_label(row): Bar(row.value, row.low, row.high, bool(row.best)) for row in records(found)}
        for name, found in groups.items()
    }
