"""What a person sees while a run goes on: bars in a terminal, one line per epoch in every log."""

import logging
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from symmetry_robustness.training.throughput import TrainingClock

log = logging.getLogger(__name__)


def set_up_logging(directory: Path, *, leader: bool) -> None:
    """Send the package's messages and all warnings to the terminal and to log.txt; ranks but the first only warn.

    Args:
        directory: the run directory.
        leader: whether this process is global rank 0.
    """
    logging.raiseExceptions = False  # a disk that is full must not bury the terminal under tracebacks of log.txt
    package = logging.getLogger("symmetry_robustness")
    package.setLevel(logging.INFO if leader else logging.WARNING)
    package.propagate = False
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    package.handlers = [terminal]
    if leader:
        file = logging.FileHandler(directory / "log.txt")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        package.addHandler(file)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # Lightning 2.6 on torch 2.13; nothing a user could do about it.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # Lightning wherever Slurm is installed; a job started without srun means it.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # Lightning in a run that goes on.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    logging.getLogger("py.warnings").handlers = package.handlers


class EpochLog(pl.Callback):
    """One line per epoch: losses, accuracies, images per second.

    Args:
        clock: counts the images.
    """

    def __init__(self, clock: TrainingClock) -> None:
        self._clock = clock

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train/", "validation/"))}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        epoch, rate = trainer.current_epoch + 1, self._clock.images_per_second
        log.info("epoch %d/%s: %s, %.0f images/s", epoch, trainer.max_epochs, shown, rate)


class ProgressBars(RichProgressBar):
    """Live bars with the metrics of the epoch; Lightning's version number of the loggers is left out."""

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The metrics shown behind the bar."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown


def progress_bars() -> list[pl.Callback]:
    """Live bars where a person watches a terminal; none in a file, where they would only be noise."""
    return [ProgressBars(refresh_rate=5)] if sys.stdout.isatty() else []
