"""Output of a running job: progress bars in a terminal, one line per epoch in every log."""

import logging
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from symmetry_robustness.training.throughput import ThroughputMonitor

log = logging.getLogger(__name__)


def set_up_logging(directory: Path, *, leader: bool) -> None:
    """Send the package's messages and all warnings to the terminal and to log.txt; other ranks only warn.

    Args:
        directory: the run directory.
        leader: whether this process is global rank 0.
    """
    logging.raiseExceptions = False  # a full disk must not fill the terminal with tracebacks of log.txt
    package = logging.getLogger("symmetry_robustness")
    package.setLevel(logging.INFO if leader else logging.WARNING)
    package.propagate = False
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    package.handlers = [terminal]
    if leader:
        file = logging.FileHandler(directory / "log.txt", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        package.addHandler(file)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # Lightning 2.6 on torch 2.13; a user cannot change it.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # Lightning on machines with Slurm; a job may be started without srun.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # Lightning in a resumed run.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    logging.getLogger("py.warnings").handlers = package.handlers


class EpochLog(pl.Callback):
    """One line per epoch: losses, accuracies, images per second.

    Args:
        throughput: counts the images.
    """

    def __init__(self, throughput: ThroughputMonitor) -> None:
        self._throughput = throughput

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train/", "validation/"))}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        epoch, rate = trainer.current_epoch + 1, self._throughput.images_per_second
        log.info("epoch %d/%s: %s, %.0f images/s", epoch, trainer.max_epochs, shown, rate)


def progress_bars() -> list[pl.Callback]:
    """Progress bars if standard output is a terminal."""
    return [RichProgressBar(refresh_rate=5)] if sys.stdout.isatty() else []
