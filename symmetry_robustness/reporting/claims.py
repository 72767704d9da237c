"""The paper's claims beside what was measured, under the released protocol and under the sound one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from symmetry_robustness.errors import UserError
from symmetry_robustness.reporting.aggregate import Seeds, Summary, compare, evaluations_by_group, trained_settings
from symmetry_robustness.reporting.frame import grouped, records
from symmetry_robustness.reporting.load import YAML_LOADER, Run
from symmetry_robustness.reporting.statistics import Difference, undecided
from symmetry_robustness.reporting.table_formats import Cell, Table, TableSet
from symmetry_robustness.results.names import SAME_AS, flatten

HOLDS = "holds"
ONLY_RELEASED = "holds only under the released protocol"
FAILS = "does not hold"
NOT_MEASURED = "not measured"

_PACKAGE = Path(__file__).parents[1]
_NAN = float("nan")


@dataclass(frozen=True)
class Claim:
    """One number of the paper.

    Attributes:
        id: names it.
        kind: `value` of a network, `comparison` of two, `example` of a single image, `exact` without seed or error.
        measure: what the number is of.
        source: where in the paper it stands.
        data: name of the data set.
        network: whose number it is.
        value: in [0, 1] where it is a share; of a comparison the difference.
        tolerance: how exactly the paper's number is known; of a comparison the least advantage that is one.
        than: the other network of a comparison.
        attack: under which; empty where there is none.
        epsilon: in pixel units.
        published_epsilon: as in the paper.
        released: protocol that re-enacts the released script of the network; empty where there is none.
        released_than: the same of the other network.
    """

    id: str
    kind: str
    measure: str
    source: str
    data: str
    network: str
    value: float
    tolerance: float
    than: str = ""
    attack: str = ""
    epsilon: float = _NAN
    published_epsilon: float = _NAN
    released: str = ""
    released_than: str = ""


@dataclass(frozen=True)
class Claims:
    """Content of claims.yaml.

    Attributes:
        seeds: how many a verdict needs.
        widest: half of the widest interval that confirms a value.
        training: settings by dotted name that a run must have to count.
        sound: protocol that judges soundly.
        claims: all of them.
        copies: of data sets, that count where the data set itself was not measured, by its name.
        alternatives: trainings that count where they have more of the seeds: settings that differ, by name.
    """

    seeds: int
    widest: float
    training: Mapping[str, Any]
    sound: str
    claims: Sequence[Claim]
    copies: Mapping[str, Sequence[str]] = field(default_factory=dict)
    alternatives: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Outcome(NamedTuple):
    """A claim, what was found under either protocol, the verdict, why there is none, and the alternative training."""

    claim: Claim
    released: Difference
    sound: Difference
    verdict: str
    reason: str
    training: str = ""


def claims_file() -> Path:
    """experiments/claims.yaml: beside the package in a checkout, inside it in an installed wheel."""
    beside = _PACKAGE.parent / "experiments" / "claims.yaml"
    return beside if beside.is_file() else _PACKAGE / "experiments" / "claims.yaml"


def load_claims(path: Path | None = None) -> Claims:
    """Read claims.yaml.

    Raises:
        UserError: a claim has other fields than it should, or the name of another.
    """
    path = claims_file() if path is None else path
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    released, claims = content.pop("released"), []
    known = {field.name for field in fields(Claim)}
    for group in content.pop("groups"):
        entries = group.pop("claims")
        for entry in entries:
            given = group | entry
            if unknown := set(given) - known:
                raise UserError(f"{path}: claim {entry.get('id')} has the unknown field {min(unknown)}; remove it")
            scripts = released if given["measure"] == "robust_accuracy" else {}
            than = scripts.get(given.get("than", ""), "")
            claims.append(Claim(**given, released=scripts.get(given["network"], ""), released_than=than))
    names = [claim.id for claim in claims]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: two claims are called {twice[0]}; rename one")
    return Claims(claims=tuple(claims), **content)


def judge_claims(claims: Claims, summary: Summary, runs: Sequence[Run]) -> list[Outcome]:
    """Set every claim beside what was measured.

    A protocol agrees with a value if its interval, over seeds and images, reaches the published number give or take its
    tolerance, and disagrees if it does not; with a comparison if the interval of the difference lies above zero, and
    disagrees if it stays below the least advantage that is one. Too few seeds, too wide an interval or one that allows
    both decide nothing. An alternative training counts only where it has more of the seeds that a verdict needs.

    Args:
        claims: of `load_claims`.
        summary: of the runs.
        runs: that were read.
    """
    trained = {key: flatten(settings) for key, settings in trained_settings(runs).items()}
    results, evaluations = summary.results, evaluations_by_group(runs)
    results = results[(results["weights"] == "last.ckpt") & (results["view"] == "")]
    outcomes = []  # of each training
    for name, other in {"": {}, **claims.alternatives}.items():
        training = {**claims.training, **other}
        fitting = {key for key, flat in trained.items() if all(flat.get(k) == v for k, v in training.items())}
        counting = results[results["settings"].isin(fitting)]
        rows = grouped(records(counting), lambda row: (row.network, row.measure, row.attack))
        found = _Found(summary, evaluations, rows)
        measured = set(zip(counting["network"], counting["data"], strict=True))
        judged = (_judge(_on_measured_data(claim, claims.copies, measured), claims, found) for claim in claims.claims)
        outcomes.append([outcome._replace(training=name) for outcome in judged])
    return [max(several, key=lambda one: min(one.sound.seeds, claims.seeds)) for several in zip(*outcomes, strict=True)]


def _on_measured_data(claim: Claim, copies: Mapping[str, Sequence[str]], measured: set[tuple[str, str]]) -> Claim:
    """The claim on its data set, or on the copy of it that its network was measured on, which its row then names."""
    if claim.kind == "exact" or (claim.network, claim.data) in measured:
        return claim
    known = (name for name in copies.get(claim.data, ()) if (claim.network, name) in measured)
    return replace(claim, data=next(known, claim.data))


class _Found(NamedTuple):
    """Measurements that claims are judged by; `rows` are those that count, by network, measure and attack."""

    summary: Summary
    evaluations: dict[tuple[str, str], Seeds]
    rows: Mapping[tuple[str, str, str], Sequence[Any]]


def _judge(claim: Claim, claims: Claims, found: _Found) -> Outcome:
    if claim.kind == "exact":
        return _judge_exact(claim, found.summary.results)
    sound = _measure(claim, claims.sound, claims.sound, found)
    # The paper judged each network by its own script.
    own, others = (SAME_AS.get(name, name) for name in (claim.released, claim.released_than))
    released = _measure(claim, own, others, found) if claim.released else undecided("")
    if claim.kind == "example":
        return Outcome(claim, released, sound, NOT_MEASURED, "the paper's number is of one image that it does not name")
    scripts = " and ".join(dict.fromkeys(filter(None, (claim.released, claim.released_than))))
    for protocol, measured, verdict in ((claims.sound, sound, HOLDS), (scripts, released, ONLY_RELEASED)):
        agrees, reason = _agrees(claim, measured, claims) if measured is sound or claim.released else (False, "")
        if agrees is None:
            return Outcome(claim, released, sound, NOT_MEASURED, f"protocol {protocol}: {reason}")
        if agrees:
            return Outcome(claim, released, sound, verdict, "")
    return Outcome(claim, released, sound, FAILS, "")


def _agrees(claim: Claim, found: Difference, claims: Claims) -> tuple[bool | None, str]:
    """Whether what was found agrees with the claim; None and the reason where that is not decided."""
    if np.isnan(found.value):
        return None, found.test
    if found.seeds < claims.seeds:
        return None, f"{found.seeds} of {claims.seeds} seeds"
    if claim.kind == "comparison":
        if found.high < claim.tolerance:
            return False, ""
        return (True, "") if found.low > 0 else (None, f"undecided, {_interval(found)}")
    if found.low > claim.value + claim.tolerance or found.high < claim.value - claim.tolerance:
        return False, ""
    wide = (found.high - found.low) / 2 > claims.widest
    return (None, f"the interval is too wide, {_interval(found)}") if wide else (True, "")


def _measure(claim: Claim, protocol: str, than_protocol: str, found: _Found) -> Difference:
    """The measurement that a claim is about, each network under its protocol, on the most images that there are."""
    pairs = [(claim.network, protocol), *([(claim.than, than_protocol)] if claim.than else [])]
    measured = [_by_images(network, name, claim, found) for network, name in pairs]
    for images in sorted(set.intersection(*map(set, measured)), reverse=True):
        keys = [by_images[images] for by_images in measured]
        if any(len(several) > 1 for several in keys):
            return undecided("several trainings fit; report them one at a time")
        own, *others = (found.evaluations[one[0]] for one in keys)
        first = next(iter(own.values()))
        total, shown_twice = first.test_images, first.original_of(first.report.indices) is not None
        coverage = min(1.0, len(first.report) / total) if total and not shown_twice else 0.0
        than = others[0] if others else None
        return compare(own, than, claim.measure, claim.attack, claim.epsilon, coverage=coverage)
    return undecided("no run")


def _by_images(network: str, protocol: str, claim: Claim, found: _Found) -> dict[int, list[tuple[str, str]]]:
    """Number of images -> comparison groups and settings in which a network was measured as the claim asks."""
    wanted = (protocol, claim.data, "test")
    groups = {
        key: group.images or 0
        for key, group in found.summary.groups.items()
        if (group.known, group.data, group.split) == wanted
    }
    measured: dict[int, list[tuple[str, str]]] = {}
    for row in found.rows.get((network, claim.measure, claim.attack), ()):
        place = (row.comparison_group, row.settings)
        near = not claim.attack or np.isclose(row.epsilon, claim.epsilon, rtol=1e-6, atol=0)
        if row.comparison_group in groups and near and place not in measured.setdefault(groups[place[0]], []):
            measured[groups[place[0]]].append(place)
    return measured


def _judge_exact(claim: Claim, results: pd.DataFrame) -> Outcome:
    rows = results[(results["measure"] == claim.measure) & (results["network"] == claim.network)]
    # Another copy of the data has as many classes.
    values = {
        value for data, value in zip(rows["data"], rows["value"], strict=True) if data.split(" ")[0] == claim.data
    }
    if len(values) != 1:
        reason = "no run" if not values else "networks of this name differ"
        return Outcome(claim, undecided(""), undecided(reason), NOT_MEASURED, reason)
    (value,) = values
    sound = Difference(value, value, value, _NAN, 1, 0, "exact")
    return Outcome(claim, undecided(""), sound, HOLDS if value == claim.value else FAILS, "")


def _interval(found: Difference) -> str:
    return f"[{100 * found.low:.1f}, {100 * found.high:.1f}] %"


def claims_table(outcomes: Sequence[Outcome]) -> TableSet:
    """The claims as a table, and as rows of numbers."""
    lines = [[Cell(text) for text in _texts(outcome)] for outcome in outcomes]
    verdicts = [outcome.verdict for outcome in outcomes]
    kinds = (HOLDS, ONLY_RELEASED, FAILS, NOT_MEASURED)
    title = "Claims of arXiv 2510.16171. " + ", ".join(f"{kind}: {verdicts.count(kind)}" for kind in kinds)
    columns = ("claim", "ε (paper)", "paper", "released protocol", "sound protocol", "verdict")
    note = "Accuracies in percent, differences in points; means and 95 % intervals over seeds and images."
    rows = []  # of numbers: fields of the claim, `released_…` and `sound_…`, verdict, reason
    for outcome in outcomes:
        row = asdict(outcome.claim)
        for name, found in (("released", outcome.released), ("sound", outcome.sound)):
            row |= {f"{name}_{part}": getattr(found, part) for part in ("value", "low", "high", "seeds", "images")}
        rows.append(row | {"verdict": outcome.verdict, "reason": outcome.reason, "training": outcome.training})
    tables = [Table(title, columns, lines, [note], fixed=2)] if outcomes else []
    return TableSet("claims", tables, pd.DataFrame(rows))


def _texts(outcome: Outcome) -> list[str]:
    claim = outcome.claim
    subject = f"{claim.network} over {claim.than}" if claim.than else claim.network
    under = claim.attack or claim.measure.replace("_", " ")
    epsilon = "" if np.isnan(claim.epsilon) else f"{claim.epsilon:g} ({claim.published_epsilon:g})"
    remarks = "; ".join(filter(None, (outcome.reason, outcome.training)))
    verdict = f"{outcome.verdict} ({remarks})" if remarks else outcome.verdict

    def text(value: float) -> str:
        return f"{value:,.0f}" if claim.kind == "exact" else f"{100 * value:.4g}"

    def found(measured: Difference) -> str:
        if np.isnan(measured.value):
            return ""
        exact = claim.kind == "exact" or measured.seeds < 2
        interval = "" if exact else f" [{100 * measured.low:.1f}, {100 * measured.high:.1f}]"
        return text(round(measured.value, 4)) + interval

    measured = [found(outcome.released), found(outcome.sound)]
    return [f"{claim.data}, {subject}, {under}", epsilon, text(claim.value), *measured, verdict]
