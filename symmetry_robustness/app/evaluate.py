"""`symrob evaluate checkpoint=… robustness=…`: the robustness of one checkpoint."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from symmetry_robustness.app.cli import guarded
from symmetry_robustness.app.config import finalize_config
from symmetry_robustness.app.hydra_main import run_hydra
from symmetry_robustness.errors import UserError
from symmetry_robustness.models import load_network
from symmetry_robustness.robustness import RobustnessReport, evaluate_robustness
from symmetry_robustness.sweeps.run_directory import CONFIG, read_config


def evaluate(config: DictConfig) -> RobustnessReport:
    """Evaluate a checkpoint and save the report.

    Args:
        config: resolved configuration of `symrob evaluate`.

    Raises:
        UserError: a checkpoint that is none, or data that do not fit it.
    """
    checkpoint = Path(config.checkpoint)
    network = load_network(checkpoint)
    run = checkpoint.resolve().parent.parent
    if not (run / CONFIG).is_file() and not (config.output and config.data):
        raise UserError(
            f"{checkpoint} does not lie in a run directory, so its data set is unknown; set data=… and output=…"
        )
    datamodule = instantiate(config.data or read_config(run).data)
    images, labels, indices = datamodule.subset(config.split, config.num_images, config.seed)
    device = find_device(config.accelerator)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        classes = network(images[:1].to(device)).shape[1]
    if classes != datamodule.num_classes:
        raise UserError(
            f"the checkpoint has {classes} classes, the data set {datamodule.num_classes}; choose data=… to fit"
        )
    report = evaluate_robustness(
        network, images.to(device), labels.to(device), instantiate(config.robustness, _convert_="all"), indices=indices
    )
    path = report.save(Path(config.output) if config.output else run / "robustness", config.name)
    print("\n".join(f"{name}: {value:.4f}" for name, value in report.summary().items()))
    for check in report.checks:
        if check.status != "passed":
            print(f"{check.status}: {check.name}: {check.evidence}", file=sys.stderr)
    print(f"report: {path}")
    return report


def find_device(accelerator: str) -> torch.device:
    """The device an accelerator setting stands for: auto, cpu, or gpu.

    Raises:
        UserError: an unknown setting, or no such device here.
    """
    if accelerator not in ("auto", "cpu", "gpu"):
        raise UserError(f"accelerator must be auto, cpu or gpu, got {accelerator!r}")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("accelerator=gpu, but no CUDA device is available; use accelerator=cpu")
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one evaluation.

    Args:
        argv: Hydra's overrides and flags.
    """

    def job(config: DictConfig) -> int:
        evaluate(finalize_config(config))
        return 0

    return run_hydra("evaluate", job, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(guarded(main))
