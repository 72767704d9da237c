"""One self-contained HTML page about many runs.

Numbers are rounded and worded here, as in the written tables; the page's script only chooses, sorts, filters and draws.
The page asks no server for anything: its Content-Security-Policy allows no request, and runs only the two scripts whose
digests it states, so that a text of a run can do no harm even where escaping were forgotten.
"""

import base64
import gzip
import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from symmetry_robustness.reporting.aggregate import Summary, at_chance
from symmetry_robustness.reporting.comparability import data_title
from symmetry_robustness.reporting.figures import COLORS, MARKERS
from symmetry_robustness.reporting.load import Run, shown_path
from symmetry_robustness.reporting.page.questions import (
    Attack,
    Grid,
    Question,
    answer,
    find_questions,
    in_order,
    readable,
    rows_by_question,
)
from symmetry_robustness.reporting.page.run import run_details
from symmetry_robustness.reporting.table_formats import Table, TableSet

_FOLDER = Path(__file__).parent
# plotly's names of matplotlib's markers.
_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}
# Runs whose adversarial examples are shown: those of a thousand runs would make a page of a hundred megabytes.
_PICTURED = 40


def write_page(
    path: Path,
    runs: Sequence[Run],
    frame: pd.DataFrame,
    summary: Summary,
    sheets: Iterable[TableSet],
    *,
    made: str,
    checks: Mapping[str, str],
) -> None:
    """Write the page.

    Args:
        path: of the file.
        runs: finished ones, at least one.
        frame: their numbers, with what was left out (`frame_of`).
        summary: what they come to (`summarize`).
        sheets: tables that the page shows as they are: "measures", "corruptions", "costs" and "claims" of them.
        made: when, in words.
        checks: name of a soundness check to what it asks.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"percent": percent, "signed": signed, "plural": plural, "readable": readable}
    environment.globals["readable"] = readable
    guessing = at_chance(summary.results, runs)
    questions = find_questions(summary, _norms(runs), guessing)
    names = _run_names(runs)
    states = _states(runs)
    parts: Any = environment.get_template("parts.html.j2").module
    script, library = (_FOLDER / "page.js").read_text(encoding="utf-8"), get_plotlyjs()
    pictured = _pictured(runs)
    grids = list(rows_by_question(questions, frame))
    asked = {question.group.key: (question, grid) for question, grid in zip(questions, grids, strict=True)}
    details = (
        parts.run(run_details(run, names[run.place], asked, pictures=run.place in pictured), checks) for run in runs
    )
    order = in_order(questions)
    start = (order[0], 0, questions[order[0]].first) if order else None
    stream = environment.get_template("page.html.j2").stream(
        title=_title(summary),
        made=made,
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        digests=[base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, library)],
        library=_packed(library),
        data={
            "start": start,
            "order": order,
            "looks": [[color, _SYMBOLS[marker]] for color, marker in zip(COLORS, MARKERS, strict=True)],
            **_choices(asked.values(), runs, states),
            "runs": [_run_row(run, names[run.place]) for run in runs],
        },
        questions=questions,
        answers=[
            [_answers(question, attack, summary, guessing) for attack in question.attacks] for question in questions
        ],
        start=start,
        tables=_tables(sheets),
        counts=_counts(runs),
        failing=_failing(runs, names),
        checks=checks,
        facts=[plural(len(runs), "run"), plural(summary.results["network"].nunique(), "network")],
        problems=frame.attrs["problems"],
        details=map(_packed, details),
    )
    with path.open("w", encoding="utf-8") as file:
        file.writelines(stream)


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
    sets = list(dict.fromkeys(group.data for group in summary.groups.values()))
    title = f"Robustness on {', '.join(sets)}"
    return title if sets and len(title) <= 60 else "Robustness report"


def _run_names(runs: Sequence[Run]) -> dict[str, str]:
    """Directories as far as they differ."""
    root = Path(os.path.commonpath([run.directory.resolve().parent for run in runs]))
    return {run.place: shown_path(run.directory.resolve().relative_to(root)) for run in runs}


def _norms(runs: Sequence[Run]) -> dict[str, str]:
    """Comparison group to norm of its attacks."""
    return {e.comparison_group: e.norm for run in runs for e in run.evaluations.values() if e.attacks}


def _states(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """(comparison group, run) to the worst status of its checks; empty where none were made."""
    return {(e.comparison_group, run.place): e.status for run in runs for e in run.evaluations.values()}


def _choices(
    asked: Iterable[tuple[Question, Grid]], runs: Sequence[Run], states: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    """What the script shows of the question that is chosen: percentages of networks and of runs, by number."""
    networks: dict[str, int] = {}
    places = {run.place: number for number, run in enumerate(runs)}
    shown = []
    for question, grid in asked:
        key, known, attacks = question.group.key, {}, []
        for attack, single in zip(question.attacks, grid.values(), strict=True):
            rows = {settings: row for at in attack.points.values() for settings, row in at.items()}
            for row in rows.values():
                networks.setdefault(row.label, len(networks))
                found = [states.get((key, run), "") for run in row.runs]
                known[networks[row.label]] = [row.seeds, *_status(found)]
            runs_here = dict.fromkeys(run for at in single.values() for run in at)
            attacks.append(
                {
                    "name": attack.title,
                    "label": attack.label,
                    "x": list(attack.points),
                    "places": attack.places,
                    "rows": [
                        [
                            networks[row.label],
                            *(_numbers(at.get(settings), "low", "high") for at in attack.points.values()),
                        ]
                        for settings, row in rows.items()
                    ],
                    "runs": {
                        places[run]: [_numbers(single[at].get(run), "standard_error") for at in attack.points]
                        for run in runs_here
                    },
                }
            )
        checks = {places[run]: _status([state]) for (group, run), state in states.items() if group == key}
        shown.append(
            {
                "data": question.group.data,
                "name": question.name,
                "first": question.first,
                "attacks": attacks,
                "networks": known,
                "checks": checks,
            }
        )
    return {"questions": shown, "networks": [readable(label) for label in networks]}


def _numbers(row: Any | None, *others: str) -> list[float | None] | None:
    """Percentages with the decimal that is shown; None where there is no number."""
    if row is None:
        return None
    values = [getattr(row, name) for name in ("value", *others)]
    return [None if math.isnan(value) else round(100 * value, 1) for value in values]


def _status(found: Sequence[str]) -> tuple[str, str]:
    """The worst outcome of the checks of some runs, and how many did not pass."""
    counts = Counter(found)
    for state in ("failed", "warned"):
        if counts[state]:
            return state, state if len(found) == 1 else f"{state} in {counts[state]} of {plural(len(found), 'run')}"
    return ("passed", "passed") if counts["passed"] else ("unchecked", "not checked")


def _answers(question: Question, attack: Attack, summary: Summary, guessing: Collection[str]) -> list[dict[str, Any]]:
    """The answer at each strength of one attack."""
    tests = summary.comparisons
    tests = tests[(tests["comparison_group"] == question.group.key) & tests["measure"].isin(_measures(attack.key))]
    found = []
    for rows in attack.points.values():
        first = next(iter(rows.values()))
        same = (tests["measure"] == first.measure) & (tests["attack"] == first.attack) & (tests["view"] == first.view)
        at = tests[same & (tests["epsilon"].eq(first.epsilon) | (tests["epsilon"].isna() & math.isnan(first.epsilon)))]
        found.append(
            answer(list(rows.values()), {row.other_settings: row for row in at.itertuples(index=False)}, guessing)
        )
    return found


def _measures(attack: str) -> tuple[str, ...]:
    return ("clean_accuracy", "worst_case_accuracy" if attack == "worst_case" else "robust_accuracy")


def _run_row(run: Run, name: str) -> list[Any]:
    """Of the table of runs: path, network, seed, data, clean accuracy on the whole test set."""
    clean = run.summary["clean_accuracy"]
    return [
        name,
        readable(run.title),
        run.seed,
        data_title(run.config["data"]),
        None if clean is None else round(100 * clean, 1),
    ]


def _tables(sheets: Iterable[TableSet]) -> dict[str, list[Table]]:
    """Tables by the section of the page that shows them; single corruptions are among the questions."""
    found = {sheet.name: list(sheet.tables) for sheet in sheets}
    corruptions = [table for table in found.get("corruptions", []) if table.title.startswith("Mean")]
    measures = [*found.get("measures", []), *corruptions, *found.get("costs", [])]
    return {"measures": measures, "claims": found.get("claims", [])}


def _counts(runs: Sequence[Run]) -> Counter[str]:
    """Outcomes of sound evaluations; re-enacted protocols are known to be unsound and do not count."""
    return Counter(e.status for run in runs for e in run.evaluations.values() if e.status and not e.released)


def _failing(runs: Sequence[Run], names: Mapping[str, str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Checks that did not pass somewhere: status, name, and the titles of the runs by name; failures first."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for run in runs:
        for evaluation in run.evaluations.values():
            for check in evaluation.checks:
                if check.status in ("failed", "warned"):
                    title = f"{readable(run.title)}, seed {run.seed}"
                    found.setdefault((check.status, check.name), {})[names[run.place]] = title
    order = sorted(found, key=lambda key: (key[0], -len(found[key])))
    return [(*key, list(found[key].items())) for key in order]


def _pictured(runs: Sequence[Run]) -> set[str]:
    """Runs whose examples are shown: first one of each network and data set, then a second one, up to a number."""
    seen: Counter[tuple[str, str]] = Counter()
    turns = []
    for run in runs:
        kind = (run.name, str(run.config["data"].get("_target_")))
        turns.append((seen[kind], run.place))
        seen[kind] += 1
    return {place for _, place in sorted(turns, key=lambda turn: turn[0])[:_PICTURED]}
