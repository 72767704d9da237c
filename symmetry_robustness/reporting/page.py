"""One self-contained HTML page about many runs: what it says as plain structures, and the file they are put into.

The page never asks the network for anything: its Content-Security-Policy allows no request, and runs only the two
scripts whose digests it states, so that a text of a run can do no harm even where escaping were forgotten.
"""

import base64
import gzip
import hashlib
import html
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from string import Template
from typing import Any, Literal

from plotly.offline import get_plotlyjs

Axis = Literal["epsilon", "rotation", "scale", "severity"]
# What tests say of the leader: it beats every other; it may lead by chance; it beats every other, but nobody knows how
# other trainings would do, because one of each was compared; some other could not be compared with.
Verdict = Literal["best", "chance", "single", "untested"]
# Scripts in the order in which they build on each other.
_SCRIPTS = ("dom.js", "table.js", "chart.js", "curves.js", "answer.js", "claims.js", "run.js", "main.js")
# Runs whose details are compressed together: alike as they are, they take a fraction of the space.
_BLOCK = 20


@dataclass(frozen=True)
class Setting:
    """What makes numbers comparable: the same images, judged by the same protocol.

    Attributes:
        data: data set.
        split: of the data set, "test" as a rule.
        protocol: its name.
        released: whether it re-enacts the released scripts, mistakes included.
        norm: of the perturbations; None where there were no attacks.
        description: the protocol in a line.
        training_differs_in: settings, beside the network's own, in which the networks' trainings differ; empty if none.
        variant: what else tells settings of one name apart; None where nothing does.
    """

    data: str
    split: str
    protocol: str
    released: bool
    norm: str | None
    description: str
    training_differs_in: str = ""
    variant: str | None = None


@dataclass(frozen=True)
class Curve:
    """Accuracy of one network in one setting over the strength of one attack, means over seeds.

    Attributes:
        setting: number of the setting.
        attack: its name; "worst_case" over all attacks, "none", or how the test images were changed: "rotation", "fog".
        axis: what positions are: epsilon in pixel units, degrees, factors, severities of a corruption.
        network: its name.
        positions: increasing; accuracies `values` in [0, 1] and their 95 % intervals belong to them.
        values: means.
        lows: None where there is no interval.
        highs: likewise.
        seeds: number of runs.
        images: in each run; None where unknown.
        checked: whether soundness checks were made; there are none of plain test accuracies.
        failed: runs in which a soundness check failed.
        warned: runs in which none failed and one warned.
        runs: numbers of the runs.
    """

    setting: int
    attack: str
    axis: Axis
    network: str
    positions: list[float]
    values: list[float | None]
    lows: list[float | None]
    highs: list[float | None]
    seeds: int
    images: int | None
    checked: bool
    failed: int
    warned: int
    runs: list[int]


@dataclass(frozen=True)
class Comparison:
    """The best network against another one.

    Attributes:
        other: the network it is compared with.
        role: "next" in the ranking, or "standard", the plain network.
        difference: of accuracies, with its 95 % interval from `low` to `high`, None where there is none.
        low: see there.
        high: see there.
        p_value: of a paired test; None where none was possible.
        seeds: trainings of each that were compared; of a single one the test speaks of these two networks alone.
        distinct: whether the test tells the two apart; None where none was possible.
        test: its name.
    """

    other: str
    role: Literal["next", "standard"]
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    seeds: int
    distinct: bool | None
    test: str


@dataclass(frozen=True)
class Answer:
    """Which network is best at one position of one setting.

    Attributes:
        setting: number of the setting.
        attack: as in `Curve`.
        position: likewise.
        best: the leader of the comparisons: highest accuracy among those without a failed check, or of all where every
            one failed.
        standard: the plain network it is compared with; None where there is none.
        set_aside: networks that failed a check and therefore cannot be best.
        verdict: see `Verdict`.
        comparisons: of the best one with others.
    """

    setting: int
    attack: str
    position: float
    best: str
    standard: str | None
    set_aside: list[str]
    verdict: Verdict
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Found:
    """Accuracies of one run over the strength of one attack, with standard errors over images (None if unknown)."""

    axis: Axis
    positions: list[float]
    values: list[float | None]
    errors: list[float | None]


@dataclass(frozen=True)
class Evaluation:
    """One report of one run: accuracies by attack, whether checks were made, and the names of those not passed."""

    setting: int
    images: int | None
    attacks: dict[str, Found]
    checked: bool
    failed: list[str]
    warned: list[str]


@dataclass(frozen=True)
class RunEntry:
    """One finished run; `name` is unique, `clean` its accuracy on the whole test set, in [0, 1]."""

    name: str
    network: str
    group: str | None
    data: str
    seed: int
    epochs: int | None
    commit: str | None
    parameters: int | None
    seconds: float | None
    clean: float | None
    reports: list[Evaluation]


@dataclass(frozen=True)
class Measured:
    """Mean over seeds with its 95 % interval, None where there is none."""

    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class NetworkMeasures:
    """What is known of one network beside its accuracies.

    Attributes:
        network: its name.
        data: data set.
        setting: number of the setting in which CLEVER was taken; None where there is none.
        checks: the worst of the soundness checks there, empty where there were none.
        values: name as in the frame (`clever`, `parameters`, …) to its mean over seeds.
    """

    network: str
    data: str
    setting: int | None
    checks: str
    values: dict[str, Measured]


@dataclass(frozen=True)
class Claim:
    """A number of the paper beside ours.

    Attributes:
        network: whose number it is; two of them where they are compared.
        what: it was measured: an attack or a measure.
        data: data set.
        epsilon: in pixel units; None where there is none.
        published_epsilon: the same in the units of the paper.
        kind: `exact` numbers are counts, others shares.
        claimed: the number; of a comparison the difference.
        released: what was measured under the protocol that re-enacts the released script; None where nothing was.
        sound: the same under the sound protocol.
        verdict: in words.
        reason: why there is none.
        source: where in the paper.
    """

    network: str
    what: str
    data: str
    epsilon: float | None
    published_epsilon: float | None
    kind: str
    claimed: float
    released: Measured | None
    sound: Measured | None
    verdict: str
    reason: str
    source: str


@dataclass(frozen=True)
class Page:
    """Everything on the page but the details of single runs.

    Attributes:
        title: of the page.
        made: when, in words.
        networks: all names, in the order of their colours.
        settings: everything else refers to them by number.
        curves: see `Curve`.
        answers: one for each setting, attack and position of the curves.
        runs: finished ones.
        checks: name of a soundness check to what it asks.
        measures: measures and costs of the networks.
        claims: of the paper.
        problems: what is left out, each with `path`, `kind` and `reason`.
        starts: data set to the number of the setting that is shown first, the first data set first.
    """

    title: str
    made: str
    networks: list[str]
    settings: list[Setting]
    curves: list[Curve]
    answers: list[Answer]
    runs: list[RunEntry]
    checks: dict[str, str]
    measures: list[NetworkMeasures] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    problems: list[dict[str, str]] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)


def render_page(page: Page, details: Iterable[Any]) -> str:
    """The page as HTML.

    Args:
        page: what it says.
        details: for each run in the order of `page.runs` what its own page shows (`run_details`), as plain values;
            consumed one block at a time.
    """
    assets = files(__package__) / "assets"
    script = "\n".join(["'use strict';", *((assets / name).read_text() for name in _SCRIPTS)])
    library = get_plotlyjs()
    allowed = " ".join(f"'sha256-{_digest(text)}'" for text in (script, library))
    return Template((assets / "page.html").read_text()).substitute(
        title=html.escape(page.title),
        policy=f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src {allowed}",
        style=(assets / "page.css").read_text(),
        colophon=f"Made {html.escape(page.made)} by symrob report. It holds all that it shows and asks no network.",
        data=_json({**vars(page), "block": _BLOCK}).replace("<", "\\u003c"),
        plotly=_packed(library),
        details="\n".join(_blocks(details)),
        script=script,
    )


def _blocks(details: Iterable[Any]) -> Iterator[str]:
    """Script elements that hold the details, some runs each."""
    remaining = iter(details)
    number = 0
    while block := list(islice(remaining, _BLOCK)):
        yield f'<script type="text/plain" id="details-{number}">{_packed(_json(block))}</script>'
        number += 1


def _json(value: Any) -> str:
    """As JSON without spaces; dataclasses by their fields. Not-a-number has no place in it."""
    return json.dumps(value, default=vars, allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def _packed(text: str) -> str:
    """Compressed, in letters that HTML leaves alone."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _digest(text: str) -> str:
    """As a Content-Security-Policy names an inline script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def finite(values: Iterable[float], digits: int = 17) -> list[float | None]:
    """For JSON: what is not finite is None. With fewer digits than 17 the page may round otherwise than the tables."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]
