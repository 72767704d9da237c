"""The figures of a report: those that its runs support, from the numbers of its tables."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from symmetry_robustness.reporting.evaluations import FINAL
from symmetry_robustness.reporting.figures import (
    COLORS,
    Bar,
    Line,
    accuracy_circle,
    bars,
    corruption_map,
    curve_grid,
    epsilon_name,
    save_figure,
)
from symmetry_robustness.reporting.frame import BENCHMARK, SEVERITIES, records, split
from symmetry_robustness.reporting.measure_figures import Remove
from symmetry_robustness.reporting.protocols import describe_attack
from symmetry_robustness.reporting.results import Section, Summary
from symmetry_robustness.reporting.run_figures import LAST, Drawn, run_figures
from symmetry_robustness.reporting.runs import VIEWS, Run

NETWORKS = len(COLORS)  # lines that can be told apart in one panel
_FAMILIES = 4  # protocols that are drawn
_COLUMNS = 4  # panels side by side on a page
_GROUPS = 4  # epsilons of a bar chart
_MAPS = 4  # networks whose corruptions are drawn
_WORST = "worst case over attacks"


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


def write_figures(runs: Sequence[Run], summary: Summary, directory: Path, remove: Remove) -> list[str]:
    """Draw what the runs support, as PDF and PNG.

    Args:
        runs: that were read.
        summary: of them.
        directory: where the files go.
        remove: sets values of images to zero as `RemovalTolerance` does.

    Returns:
        One line for each thing that is left out, because a figure holds no more.
    """
    directory.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    stems: Counter[str] = Counter()
    drawn = (
        attack_figures(summary, notes),
        view_figures(summary, notes),
        corruption_figures(summary, notes),
        run_figures(runs, network_names(summary), remove, notes),
    )
    for figures in drawn:
        for name, figure in figures:
            stem = re.sub(r"[^A-Za-z0-9=._-]+", "_", name)
            stems[stem] += 1
            save_figure(figure, directory / (stem if stems[stem] == 1 else f"{stem}-{stems[stem]}"))
    return notes


def network_names(summary: Summary) -> dict[str, str]:
    """What figures call each network, by settings key: as tables do, with the data set where that is not enough."""
    rows = summary.results[summary.results["weights"] == LAST]
    rows = rows.loc[rows["label"].str.len().sort_values(kind="stable").index].drop_duplicates("settings")
    plain = Counter(rows["label"])
    full = {row.settings: row.label if plain[row.label] == 1 else f"{row.label}, {row.data}" for row in records(rows)}
    counts = Counter(full.values())
    names = {key: name if counts[name] == 1 else f"{name} {key[:4]}" for key, name in full.items()}
    return {key: shown_network(name) for key, name in names.items()}


def shown_network(label: str) -> str:
    """A network's label for a reader."""
    name, *rest = label.split(" ", 1)
    return " ".join([name.replace("_4layer", ", 4 layers").replace("_", " "), *rest])


def shown_data(data: str) -> str:
    """A data set's title as it is written."""
    return re.sub(r"\bcifar(10{1,2})(c?)\b", lambda m: f"CIFAR-{m[1]}{'-C' if m[2] else ''}", data)


# --- accuracy under attack --------------------------------------------------------------------------------------------


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
    flag = f" ⚠ checks {row.checks}" if row.checks in ("warned", "failed") and not row.released else ""
    return shown_network(row.label.replace("_4layer", "", 1)) + flag


def _curves(family: Family, rows: dict[str, pd.DataFrame]) -> Drawn:
    """All panels in one figure where they fit, otherwise one for each attack with a column for each data set."""
    together = pd.concat(rows.values())
    attacks = _attacks(together)
    data = {section.key: shown_data(section.data) for section in family.sections}
    depths = sorted(together["depth"].unique())
    norm = {"linf": "ℓ∞", "l2": "ℓ2"}.get(str(together["norm"].iloc[0]), str(together["norm"].iloc[0]))
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
        yield name, curve_grid(grid, x_label=x_label, title=f"{about}; bands: 95 % over {_over(together)}")


def _panel_title(data: str, attack: str, several_data: int, several_attacks: int) -> str:
    name = describe_attack(attack, {})
    if several_data > 1:
        return f"{data}, {name}" if several_attacks > 1 else data
    return name


def _over(rows: pd.DataFrame) -> str:
    """What the intervals are over."""
    found = sorted(set(rows["interval"]) - {""})
    return " or ".join(found) if 0 < len(found) < 3 else "seeds, or images of a single one"


def _lines(rows: pd.DataFrame, attack: str) -> dict[str, Line]:
    """Network -> accuracy over epsilon, beginning with the clean one at 0."""
    lines = {}
    for _, found in split(rows, "settings").items():
        clean, under = found[found["measure"] == "clean_accuracy"], found[found["attack"] == attack]
        if len(under):
            both = pd.concat([clean.head(1).assign(epsilon=0.0), under.sort_values("epsilon")])
            lines[_label(next(iter(records(found))))] = line_of(both, "epsilon")
    return lines


def line_of(rows: pd.DataFrame, over: str) -> Line:
    """Means over a column; where there is no interval the band has no width."""
    positions, values = rows[over].to_numpy(np.float64), rows["value"].to_numpy(np.float64)
    low, high = (rows[end].fillna(rows["value"]).to_numpy(np.float64) for end in ("low", "high"))
    return Line(positions, values, low, high)


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
            title += f"; intervals: 95 % over {_over(found)}"
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


# --- views and corruptions --------------------------------------------------------------------------------------------


def view_figures(summary: Summary, notes: list[str]) -> Drawn:
    """Accuracy over the angle, also around the circle, and over the scale in which test images were shown."""
    for kind, x_label in VIEWS.items():
        rows = summary.results[summary.results["view"].str.startswith(f"{kind}_")].copy()
        rows["at"] = rows["view"].str.removeprefix(f"{kind}_").astype(float)
        for found in split(rows, "section").values():
            networks = split(found.sort_values("at", kind="stable"), "settings")
            if len(networks) > NETWORKS:
                notes.append(f"views, {kind}: the first {NETWORKS} of {len(networks)} networks are drawn")
            lines = {
                shown_network(str(one["label"].iloc[0])): line_of(one, "at")
                for one in [networks[key] for key in found["settings"].unique()][:NETWORKS]
            }
            data = re.sub(r",? ?test_transform=\w+\([^)]*\)", "", str(found["data"].iloc[0])).replace(" ()", "")
            title = f"{shown_data(data)}; bands: 95 % over {_over(found)}"
            step = 90.0 if kind == "rotation" else None
            yield f"views-{kind}", curve_grid({"": {"": lines}}, x_label=x_label, title=title, x_step=step)
            if kind == "rotation" and found["at"].nunique() > 3:
                yield f"views-{kind}-circle", accuracy_circle(lines)


def corruption_figures(summary: Summary, notes: list[str]) -> Drawn:
    """Error under each corruption of the benchmark at each severity."""
    cells = [f"{corruption}_{severity}" for corruption in BENCHMARK for severity in SEVERITIES]
    rows = summary.results[summary.results["view"].isin(cells)]
    for found in split(rows, "section").values():
        errors: dict[str, NDArray[np.float64]] = {}
        for one in split(found, "settings").values():
            error = 1 - one.set_index("view")["value"].reindex(cells)
            table = error.to_numpy(np.float64).reshape(len(BENCHMARK), len(SEVERITIES))
            errors[shown_network(str(one["label"].iloc[0]))] = table
        if len(errors) > _MAPS:
            notes.append(f"corruptions: the first {_MAPS} of {len(errors)} networks are drawn")
        names = [corruption.replace("_", " ") for corruption in BENCHMARK]
        shown = dict(list(errors.items())[:_MAPS])
        yield "corruptions", corruption_map(shown, names, [str(severity) for severity in SEVERITIES])
