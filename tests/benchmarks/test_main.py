"""What `python -m benchmarks` does with the rows that a part has measured."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest


def test_rows_become_a_table_on_the_terminal_and_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    main = importlib.import_module("benchmarks.__main__").main
    rows = [{"network": "standard", "ratio": 1.23456}, {"network": "cascaded", "seconds": 12345.6}]
    monkeypatch.setitem(sys.modules, "benchmarks.training", SimpleNamespace(run=lambda device: rows))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "training", "--device", "cpu", "--output", str(tmp_path)])
    assert main() == 0
    lines = ["| network | ratio | seconds |", "| standard | 1.235 |  |", "| cascaded |  | 1.235e+04 |"]
    for text in (capsys.readouterr().out, (tmp_path / "results.md").read_text()):
        assert [line for line in text.splitlines() if line.startswith("|") and "--" not in line] == lines
    assert json.loads((tmp_path / "results.json").read_text())["results"] == {"training": rows}
