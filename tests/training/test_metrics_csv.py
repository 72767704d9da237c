import csv
from pathlib import Path

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
