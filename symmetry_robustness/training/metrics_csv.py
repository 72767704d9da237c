"""metrics.csv: one row per step, written after every row, preserved when a run is resumed."""

import csv
import io
import logging
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from symmetry_robustness.training.best_effort_file import BestEffortFile

log = logging.getLogger(__name__)

_FIRST = ("step", "epoch")


class MetricsCSV(Logger):
    """Writes metrics.csv in a run directory.

    Lightning's CSVLogger deletes the rows of an earlier part of the run. Metrics logged for one step share a row; a
    metric never seen before adds a column.

    A failed write does not end the training; the next one repeats its rows.

    Args:
        directory: the run directory.
        steps: optimiser steps of the checkpoint that the run resumes from; later rows are dropped, because this part
            repeats them. None preserves all rows.
    """

    name = version = ""  # the run directory names the run, and has one such file

    def __init__(self, directory: Path, steps: int | None = None) -> None:
        super().__init__()
        self._path = Path(directory) / "metrics.csv"
        self._steps = steps
        self._file = BestEffortFile(self._path)
        self._rows: list[dict[str, Any]] | None = None

    @property
    def save_dir(self) -> str:
        """The run directory."""
        return str(self._path.parent)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run directory already holds config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add `metrics` to the row of `step`."""
        rows = self._read() if self._rows is None else self._rows
        self._rows = rows
        if not rows or str(rows[-1]["step"]) != str(step):
            rows.append({"step": step})
        rows[-1].update(metrics)
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write all rows."""
        if not self._rows:
            return
        seen = {key for row in self._rows for key in row}
        columns = [*(key for key in _FIRST if key in seen), *sorted(seen.difference(_FIRST))]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self._rows)
        self._file.write(text.getvalue())

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.is_file():
            return []
        with self._path.open(newline="", errors="replace") as file:
            rows = [*csv.DictReader(file)]
        whole = [row for row in rows if None not in row and (row.get("step") or "").isdecimal()]
        if len(whole) < len(rows):
            log.warning("%s: %d damaged rows are left out", self._path, len(rows) - len(whole))
        rows = [row for row in whole if self._steps is None or int(row["step"]) < self._steps]
        return [{key: value for key, value in row.items() if value} for row in rows]

    @property
    def last_error(self) -> str | None:
        """Reason why the last rows are not in the file, None if they are."""
        return self._file.last_error
