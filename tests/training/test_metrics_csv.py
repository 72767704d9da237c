import csv
from pathlib import Path

import pytest

from symmetry_robustness.training.metrics_csv import MetricsCSV


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_step_is_one_row_and_new_metrics_add_columns(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"epoch": 0, "train/loss": 2.0}, step=9)
    logger.log_metrics({"robust/clean": 0.5}, step=9)
    logger.log_metrics({"epoch": 1, "train/loss": 1.0}, step=19)
    first, second = rows(tmp_path)
    assert first == {"step": "9", "epoch": "0", "robust/clean": "0.5", "train/loss": "2.0"}
    assert second == {"step": "19", "epoch": "1", "robust/clean": "", "train/loss": "1.0"}


def test_a_resumed_run_keeps_what_was_written(tmp_path: Path) -> None:
    MetricsCSV(tmp_path).log_metrics({"train/loss": 2.0}, step=9)
    MetricsCSV(tmp_path).log_metrics({"train/loss": 1.0}, step=19)
    assert [row["step"] for row in rows(tmp_path)] == ["9", "19"]


def test_what_is_done_again_is_dropped_first(tmp_path: Path) -> None:
    for step in (9, 19, 20):
        MetricsCSV(tmp_path).log_metrics({"train/loss": 2.0}, step=step)
    MetricsCSV(tmp_path, steps=19).log_metrics({"train/loss": 1.0}, step=19)
    assert [(row["step"], row["train/loss"]) for row in rows(tmp_path)] == [("9", "2.0"), ("19", "1.0")]


def test_a_row_that_is_damaged_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (9, 19):
        MetricsCSV(tmp_path).log_metrics({"train/loss": 2.0}, step=step)
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(b"foo,1.0\n29,1.0,2.0\n,3.0\n\xff\xfe\0\n29\n")
    MetricsCSV(tmp_path, steps=30).log_metrics({"train/loss": 1.0}, step=39)
    assert [(row["step"], row["train/loss"]) for row in rows(tmp_path)] == [
        ("9", "2.0"),
        ("19", "2.0"),
        ("29", ""),
        ("39", "1.0"),
    ]
    assert any("4 damaged rows" in line for line in caplog.messages)


def test_rows_wait_until_the_file_can_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = MetricsCSV(tmp_path)
    (tmp_path / "metrics.csv").mkdir()  # in the way
    for step in (9, 19):
        logger.log_metrics({"train/loss": 2.0}, step=step)
    assert logger.last_error
    assert sum("cannot be written" in line for line in caplog.messages) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]  # nothing is left of the attempts
    (tmp_path / "metrics.csv").rmdir()
    logger.log_metrics({"train/loss": 1.0}, step=29)
    assert logger.last_error is None
    assert [row["step"] for row in rows(tmp_path)] == ["9", "19", "29"]
