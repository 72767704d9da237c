from pathlib import Path

import pytest

from symmetry_robustness.app.report import main
from symmetry_robustness.errors import UserError

from ..reporting.made import draw_broken_at, make_report, make_run


def test_all_tables_are_written_and_what_is_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("standard", "cascaded")):
        make_run(tmp_path / "runs" / name, make_report(draw_broken_at(40, number)), name=name)
    (make_run(tmp_path / "runs" / "unfinished") / "summary.json").unlink()
    assert main([str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    names = {path.name for path in (tmp_path / "report" / "tables").iterdir()}
    kinds = ("accuracy", "leaders", "measures", "costs", "claims", "runs")
    assert names == {f"{kind}.{form}" for kind in kinds for form in ("md", "tex", "csv", "parquet")}
    said = capsys.readouterr()
    assert said.err == f"left out: {tmp_path}/runs/unfinished: unfinished\n"
    assert "Who leads" in said.out


def test_nothing_finished_is_nothing_to_report(tmp_path: Path) -> None:
    (make_run(tmp_path / "run") / "summary.json").unlink()
    with pytest.raises(UserError, match="none of the 1 runs found is finished"):
        main([str(tmp_path), "--output", str(tmp_path / "report")])
