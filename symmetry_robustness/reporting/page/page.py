"""One self-contained HTML page about many runs.

Numbers are rounded and worded here, as in the written tables; the page's script only chooses, sorts, filters and draws.
The page asks no server for anything: its Content-Security-Policy allows no request, and runs only the two scripts whose
digests it states, so that a text of a run can do no harm even where escaping were forgotten.
"""

import base64
import gzip
import hashlib
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from symmetry_robustness.reporting.aggregate import Summary, run_titles
from symmetry_robustness.reporting.comparability import data_title, readable, shown_data
from symmetry_robustness.reporting.figures import COLORS
from symmetry_robustness.reporting.load import Run, shown_path
from symmetry_robustness.reporting.page.questions import Points, Question, answers, find_questions, in_order
from symmetry_robustness.reporting.page.run import run_details
from symmetry_robustness.reporting.table_formats import TableSet
from symmetry_robustness.reporting.tradeoff import tradeoff_figures, tradeoffs
from symmetry_robustness.results.checks import Check

_FOLDER = Path(__file__).parent
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")  # plotly's, as figures.MARKERS
# Runs whose examples are shown: those of a thousand runs would make a page of a hundred megabytes.
_PICTURED = 40


def write_page(
    path: Path, runs: Sequence[Run], frame: pd.DataFrame, summary: Summary, tables: Iterable[TableSet]
) -> None:
    """Write the page.

    Args:
        path: of the file.
        runs: finished ones, at least one.
        frame: their numbers, with what was left out (`frame_of`).
        summary: of them.
        tables: those that the page shows as they are: "measures", "corruptions", "costs", "tradeoff", "claims" of them.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {one.__name__: one for one in (percent, signed, plural, readable, shown_data)}
    parts: Any = environment.get_template("parts.html.j2").module
    questions = find_questions(summary, frame)
    order, pictured, found = in_order(questions), _pictured(runs), {one.name: one.tables for one in tables}
    root = Path(os.path.commonpath([run.directory.resolve().parent for run in runs]))
    names = {run.place: shown_path(run.directory.resolve().relative_to(root)) for run in runs}
    titles = {place: readable(title) for place, title in run_titles(runs).items()}
    script, library = (_FOLDER / "page.js").read_text(encoding="utf-8"), get_plotlyjs()
    start = (order[0], 0, questions[order[0]].first) if order else None
    stream = environment.get_template("page.html.j2").stream(
        title=_title(summary),
        made=datetime.now(UTC).date().isoformat(),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        digests=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, library)],
        library=_packed(library),
        data={
            "start": start,
            "order": order,
            "looks": [*zip(COLORS, _SYMBOLS, strict=True)],
            "runs": [
                (names[run.place], titles[run.place], run.seed, shown_data(data_title(run.config["data"])), clean)
                for run in runs
                for clean in [_percent(run.summary["clean_accuracy"])]
            ],
            **_choices(questions, runs),
        },
        questions=questions,
        answers=[answers(question, summary) for question in questions],
        start=start,
        measures=[
            table
            for kind in ("measures", "corruptions", "costs")
            for table in found.get(kind, ())
            if kind != "corruptions" or table.title.startswith("Mean")  # single ones are among the questions
        ],
        prices=found.get("tradeoff", ()),
        priced=[_drawing(figure) for _, figure in tradeoff_figures(tradeoffs(summary, runs), summary.guessing)],
        claims=found.get("claims", ()),
        counts=Counter(e.status for run in runs for e in run.evaluations.values() if e.status and not e.released),
        failing=_failing(runs, names, titles),
        facts=[plural(len(runs), "run"), plural(summary.results["network"].nunique(), "network")],
        problems=frame.attrs["problems"],
        elsewhere=summary.trained_elsewhere,
        details=(
            _packed(parts.run(run_details(run, *about, questions, pictures=run.place in pictured)))
            for run in runs
            for about in [(names[run.place], titles[run.place])]
        ),
    )
    with path.open("w", encoding="utf-8") as file:
        file.writelines(stream)


def _drawing(figure: Figure) -> str:
    """A figure as the address of an image that the page holds."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def percent(share: float) -> str:
    """With one decimal, as in the tables."""
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def signed(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def plural(count: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {word}" + ("s" if count != 1 else "")


def _packed(text: str) -> str:
    """Compressed, in letters that HTML leaves alone."""
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _title(summary: Summary) -> str:
    """Names the data, which a page is about more than anything else."""
    title = f"Robustness on {', '.join(dict.fromkeys(shown_data(group.data) for group in summary.groups.values()))}"
    return title if summary.groups and len(title) <= 60 else "Robustness report"


def _choices(questions: Sequence[Question], runs: Sequence[Run]) -> dict[str, Any]:
    """Content that the script shows of the chosen question: percentages of networks and of runs, by number."""
    networks: dict[str, int] = {}
    places = {run.place: number for number, run in enumerate(runs)}
    states = {(e.comparison_group, run.place): e.status for run in runs for e in run.evaluations.values()}
    shown = []
    for question in questions:
        key, known, attacks = question.group.key, {}, []
        for attack in question.attacks:
            lines = []
            for row, *numbers in _lines(attack.points, "value", "low", "high"):
                number = networks.setdefault(row.label, len(networks))
                known[number] = [row.seeds, *_status([states.get((key, run), "") for run in row.runs])]
                lines.append([number, *numbers])
            own = {places[row.run]: numbers for row, *numbers in _lines(attack.runs, "value", "standard_error")}
            about = {"name": attack.title, "label": attack.label, "x": list(attack.points), "places": attack.places}
            attacks.append(about | {"rows": lines, "runs": own})
        checks = {places[run]: _status([state]) for (group, run), state in states.items() if group == key}
        shown.append(
            {"data": shown_data(question.group.data), "name": question.name, "first": question.first}
            | {"attacks": attacks, "networks": known, "checks": checks}
        )
    return {"questions": shown, "networks": list(map(readable, networks))}


def _lines(points: Points, *names: str) -> Iterator[list[Any]]:
    """A row of each network or run, and its percentages at every strength, None where there is no row."""
    rows = {owner: row for at in points.values() for owner, row in at.items()}
    for owner, last in rows.items():
        own = [at.get(owner) for at in points.values()]
        yield [last, *(row and [_percent(getattr(row, name)) for name in names] for row in own)]


def _percent(share: float | None) -> float | None:
    """With the decimal that is shown."""
    return None if share is None or math.isnan(share) else round(100 * share, 1)


def _status(found: Sequence[str]) -> tuple[str, str]:
    """The worst outcome of the checks of some runs, and how many did not pass."""
    counts = Counter(found)
    for state in ("failed", "warned"):
        if counts[state]:
            return state, state if len(found) == 1 else f"{state} in {counts[state]} of {plural(len(found), 'run')}"
    return ("passed", "passed") if counts["passed"] else ("unchecked", "not checked")


def _failing(
    runs: Sequence[Run], names: Mapping[str, str], titles: Mapping[str, str]
) -> list[tuple[Check, list[tuple[str, str]]]]:
    """Checks that did not pass somewhere, with names and titles of the runs; failures and frequent ones first."""
    found: dict[tuple[str, str], tuple[Check, dict[str, str]]] = {}
    for run in runs:
        for check in (check for evaluation in run.evaluations.values() for check in evaluation.report.checks):
            if check.status in ("failed", "warned"):
                title = f"{titles[run.place]}, seed {run.seed}"
                found.setdefault((check.status, check.name), (check, {}))[1][names[run.place]] = title
    ordered = sorted(found.values(), key=lambda one: (one[0].status, -len(one[1])))
    return [(check, list(titles.items())) for check, titles in ordered]


def _pictured(runs: Sequence[Run]) -> set[str]:
    """Runs whose examples are shown: one of each network and data set first, then others."""
    kinds = pd.Series([(run.name, str(run.config["data"].get("_target_"))) for run in runs])
    turns = kinds.groupby(kinds).cumcount().sort_values(kind="stable")
    return {runs[number].place for number in turns.index[:_PICTURED]}
