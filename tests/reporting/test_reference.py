"""Runs kept in experiments/ give the numbers of their committed reports to the last digit."""

import csv
from pathlib import Path

import pytest

from symmetry_robustness.app.report import write_tables
from symmetry_robustness.reporting.aggregate import summarize
from symmetry_robustness.reporting.claims import judge_claims, load_claims
from symmetry_robustness.reporting.frame import frame_of
from symmetry_robustness.reporting.load import find_runs

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("name", ["first_light", "ablation_short", "symmetry"])
def test_old_runs_give_the_same_tables(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parent)  # the tables name runs as they were given
    runs, problems = find_runs([Path("experiments") / name / "runs"])
    frame = frame_of(runs, problems)
    summary = summarize(frame, runs)
    write_tables(runs, frame, summary, judge_claims(load_claims(), summary, runs), tmp_path)
    committed = {path.name: path.read_text() for path in (EXPERIMENTS / name / "report" / "tables").iterdir()}
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".parquet"} == set(committed)
    for file, text in committed.items():
        made = (tmp_path / file).read_text()
        assert rows(made) == rows(text) if file.endswith(".csv") else made == text, file


def rows(text: str) -> list[dict[str, str]]:
    """Rows of a CSV file; comparison groups are numbered, for their digests change with the settings of reports."""
    found = list(csv.DictReader(text.splitlines()))
    numbers: dict[str, str] = {}
    for row in found:
        if row.get("comparison_group"):
            row["comparison_group"] = numbers.setdefault(row["comparison_group"], str(len(numbers)))
    return found
