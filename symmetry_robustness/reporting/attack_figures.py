"""Accuracy under attack: for each protocol curves over epsilon, and bars at a few of them."""

from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from symmetry_robustness.reporting.aggregate import Section, Summary
from symmetry_robustness.reporting.evaluations import FINAL
from symmetry_robustness.reporting.figure_parts import (
    NETWORKS,
    Drawn,
    intervals_over,
    line_of,
    shown_data,
    shown_network,
)
from symmetry_robustness.reporting.figures import Bar, Line, bars, curve_grid, epsilon_name
from symmetry_robustness.reporting.frame import records, split
from symmetry_robustness.reporting.protocols import describe_attack
from symmetry_robustness.reporting.table_formats import flag
from symmetry_robustness.results.names import NORM_TITLES as NORMS

_FAMILIES: Final = 4  # protocols that are drawn
_COLUMNS: Final = 4  # panels side by side on a page
_GROUPS: Final = 4  # epsilons of a bar chart
_WORST: Final = "worst case over attacks"


class Family(NamedTuple):
    """Sections that differ in nothing but the data: what one figure shows."""

    protocol: str
    description: str
    released: bool
    split: str
    sections: list[Section]

    @property
    def title(self) -> str:
        """Protocol, how it judges, and number of images."""
        kind = "released, no sound evaluation" if self.released else "sound"
        counts = dict.fromkeys(f"{section.images:,}" if section.images else "all" for section in self.sections)
        name = "final evaluation" if self.protocol == FINAL else f"protocol {self.protocol}"
        return f"{name} ({kind}), {' or '.join(counts)} {self.split} images"


def attack_figures(summary: Summary, notes: list[str]) -> Drawn:
    """For each protocol curves over epsilon and bars at a few of them."""
    by_section = split(summary.results[summary.results["view"] == ""], "section")
    families = _families(summary, notes)
    for family in families[:_FAMILIES]:
        rows = {section.key: _chosen(by_section[section.key], family, notes) for section in family.sections}
        epsilons = pd.concat(rows.values())["epsilon"].dropna().nunique()
        if epsilons > 1:
            yield from _curves(family, rows)
        yield from _bars(family, rows)
    if len(families) > _FAMILIES:
        notes.append(f"{len(families) - _FAMILIES} of {len(families)} protocols are in the tables only")


def _families(summary: Summary, notes: list[str]) -> list[Family]:
    """Sections with attacks, by protocol; of each data set the one with most images."""
    attacked = set(summary.results.loc[summary.results["measure"] == "robust_accuracy", "section"])
    families: dict[tuple[Any, ...], Family] = {}
    for section in sorted(summary.sections.values(), key=lambda section: -(section.images or 0)):
        if section.key not in attacked:
            continue
        about = (section.protocol, section.description, section.released, section.split)
        family = families.setdefault(about, Family(*about, []))
        if section.data in (other.data for other in family.sections):
            notes.append(f"{section.protocol} on {section.images} images of {section.data}: drawn with more images")
        else:
            family.sections.append(section)
    return sorted(families.values(), key=lambda family: (family.released, family.split != "test"))


def _chosen(rows: pd.DataFrame, family: Family, notes: list[str]) -> pd.DataFrame:
    """Accuracies of the networks that a panel has room for: of each depth those that withstand most."""
    rows = rows[rows["measure"].isin(["clean_accuracy", "robust_accuracy", "worst_case_accuracy"])].copy()
    rows["depth"] = np.where(rows["network"].str.endswith("_4layer"), "4 layers", "full depth")
    rows["attack"] = rows["attack"].mask(rows["measure"] == "worst_case_accuracy", _WORST)
    kept: list[str] = []
    for depth, found in split(rows, "depth").items():
        area = found[found["measure"] == "worst_case_accuracy"].groupby("settings", sort=False)["value"].mean()
        best = area.sort_values(ascending=False, kind="stable").index[:NETWORKS]
        kept += [key for key in area.index if key in set(best)]
        if len(area) > NETWORKS:
            notes.append(f"{family.protocol}, {depth}: the {NETWORKS} most robust of {len(area)} networks are drawn")
    return rows[rows["settings"].isin(kept)]


def _attacks(rows: pd.DataFrame) -> list[str]:
    """Attacks that get panels: all and the worst case over them, the latter alone where there are many."""
    names = [name for name in rows["attack"].unique() if name not in ("", _WORST)]
    if len(names) == 1:
        return names
    return [*names, _WORST] if len(names) < _COLUMNS else [_WORST]


def _label(row: Any) -> str:
    return shown_network(row.label.replace("_4layer", "", 1)) + ("" if row.released else flag(row.checks))


def _curves(family: Family, rows: dict[str, pd.DataFrame]) -> Drawn:
    """All panels in one figure where they fit, otherwise one for each attack with a column for each data set."""
    together = pd.concat(rows.values())
    attacks = _attacks(together)
    data = {section.key: shown_data(section.data) for section in family.sections}
    depths = sorted(together["depth"].unique())
    norm = NORMS.get(str(together["norm"].iloc[0]), str(together["norm"].iloc[0]))
    x_label = f"ε ({norm}, pixels in [0, 1])"
    apart = len(attacks) * len(data) > _COLUMNS
    for shown in [[attack] for attack in attacks] if apart else [attacks]:
        grid: dict[str, dict[str, dict[str, Line]]] = {}
        for depth in depths:
            panels = grid.setdefault(depth if len(depths) > 1 else "", {})
            for key, title in data.items():
                found = rows[key][rows[key]["depth"] == depth]
                for attack in shown:
                    panels[_panel_title(title, attack, len(data), len(shown))] = _lines(found, attack)
        about = f"{family.title if len(data) > 1 else f'{data[family.sections[0].key]}, {family.title}'}"
        about += f"; {describe_attack(shown[0], {})}" if apart else ""
        name = f"curves-{family.protocol}{f'-{shown[0]}' if apart else ''}"
        yield name, curve_grid(grid, x_label=x_label, title=f"{about}; bands: 95 % over {intervals_over(together)}")


def _panel_title(data: str, attack: str, several_data: int, several_attacks: int) -> str:
    name = describe_attack(attack, {})
    if several_data > 1:
        return f"{data}, {name}" if several_attacks > 1 else data
    return name


def _lines(rows: pd.DataFrame, attack: str) -> dict[str, Line]:
    """Network -> accuracy over epsilon, beginning with the clean one at 0."""
    lines = {}
    for _, found in split(rows, "settings").items():
        clean, under = found[found["measure"] == "clean_accuracy"], found[found["attack"] == attack]
        if len(under):
            both = pd.concat([clean.head(1).assign(epsilon=0.0), under.sort_values("epsilon")])
            lines[_label(next(iter(records(found))))] = line_of(both, "epsilon")
    return lines


def _bars(family: Family, rows: dict[str, pd.DataFrame]) -> Drawn:
    """For each data set and depth networks side by side, at the first epsilons of the grid."""
    for section in family.sections:
        for depth, found in split(rows[section.key], "depth").items():
            if found["settings"].nunique() < 2:
                continue
            panels = {describe_attack(attack, {}): _groups(found, attack) for attack in _attacks(found)[:3]}
            title = f"{shown_data(section.data)}, {family.title}"
            alone = found["depth"].nunique() == rows[section.key]["depth"].nunique()
            title += "" if alone else f", {depth}"
            title += f"; intervals: 95 % over {intervals_over(found)}"
            title += "; ★ better than all others (paired test)" if found["best"].any() else ""
            data = "" if len(family.sections) == 1 else f"-{section.data}"
            name = f"bars-{family.protocol}{data}{'' if alone else f'-{depth}'}"
            yield name, bars(panels, x_label="ε (pixels in [0, 1])", title=title)


def _groups(rows: pd.DataFrame, attack: str) -> dict[str, dict[str, Bar]]:
    under = rows[rows["attack"] == attack]
    groups = {"clean": rows[rows["measure"] == "clean_accuracy"]}
    for epsilon in sorted(under["epsilon"].unique())[:_GROUPS]:
        groups[epsilon_name(epsilon)] = under[under["epsilon"] == epsilon]
    return {name: {_label(row): _bar(row) for row in records(found)} for name, found in groups.items()}


def _bar(row: Any) -> Bar:
    low, high = (row.value if np.isnan(end) else end for end in (row.low, row.high))
    return Bar(row.value, low, high, bool(row.best))
