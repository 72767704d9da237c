"""`symrob evaluate checkpoint=… robustness=…`: the robustness of one checkpoint."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from symmetry_robustness.app.config import check_targets, finalize_config
from symmetry_robustness.app.hydra_main import run_hydra
from symmetry_robustness.app.progress import shown_progress
from symmetry_robustness.errors import UserError
from symmetry_robustness.models import load_network, require_trusted
from symmetry_robustness.reporting.figures import measure_figures, save_figure
from symmetry_robustness.results.checks import count_checks
from symmetry_robustness.robustness import RobustnessReport, Turn, evaluate_in_shares
from symmetry_robustness.runs.directory import CONFIG, read_config
from symmetry_robustness.runs.exit_status import run_guarded
from symmetry_robustness.runs.process import keep_freed_memory
from symmetry_robustness.runs.snapshot import package_digest


def evaluate(config: DictConfig) -> RobustnessReport | None:
    """Evaluate a checkpoint, save report and figures of its measures; an interrupted evaluation goes on where it was.

    Finished shares wait beside the report in `NAME.partial/KEY/`, where the key stands for all that decides the result,
    so that shares of other settings are never mixed in. Processes that torchrun or Slurm started together share the
    work through that folder.

    Args:
        config: resolved configuration of `symrob evaluate`.

    Returns:
        The report; None where another process of the same job completed it.

    Raises:
        UserError: a checkpoint that is none, data that do not fit it, or a report of other settings in the way.
    """
    _check(config)
    checkpoint = Path(config.checkpoint)
    network = load_network(checkpoint, config.trusted)
    run = checkpoint.resolve().parent.parent
    if not (run / CONFIG).is_file() and not (config.output and "_target_" in (config.data or {})):
        raise UserError(
            f"{checkpoint} does not lie in a run directory, so its data set is unknown; set data=… and output=…"
        )
    turn, device = find_turn(), find_device(config.accelerator)
    if turn.ranks > 1 and config.overwrite:
        raise UserError("overwrite=true would make processes overwrite each other; remove the old report instead")
    data = choose_data(config, run)
    provenance = describe_subject(config, checkpoint, data, device)
    directory = Path(config.output) if config.output else run / "robustness"
    path = directory / f"{config.name}.json"
    partial = directory / f"{config.name}.partial" / provenance["key"]

    def find() -> RobustnessReport | None:
        return None if config.overwrite else find_report(path, provenance)

    if report := find():
        print("already evaluated with the same settings; overwrite=true evaluates again")
    else:
        report = _evaluate(config, data, network.to(device), partial, turn, lambda: find() is not None)
        if report is not None:
            report = replace(report, provenance=provenance)
            report.save(directory, config.name)
        elif turn.ranks == 1:  # the same command, given a second time, was faster
            report = find()
    _remove(partial)
    if report is not None:
        for title, figure in measure_figures(report).items():
            save_figure(figure, directory / f"{config.name}-{title}")
        _show(report, path)
    return report


def _check(config: DictConfig) -> None:
    """Refuse settings that only this command has.

    Raises:
        UserError: an unknown split, a name that is a path, or nothing to evaluate.
    """
    if config.split not in ("train", "validation", "test"):
        raise UserError(f"split must be train, validation or test, got {config.split!r}")
    if Path(config.name).name != config.name:
        raise UserError(f"name={config.name} must name a file, not a path; choose the folder with output=…")
    if not config.robustness:
        raise UserError("robustness=none leaves nothing to evaluate; choose robustness=quick, paper or strong")


def _evaluate(
    config: DictConfig, data: DictConfig, network: nn.Module, partial: Path, turn: Turn, is_over: Callable[[], bool]
) -> RobustnessReport | None:
    """Read the images and evaluate the network on them, in shares that are kept in a folder."""
    datamodule = instantiate(data)
    if datamodule.test_transform is not None and config.split != "test":
        raise UserError(
            f"split={config.split} has no views (data.test_transform); choose split=test, or data.test_transform=null"
        )
    if turn.rank == 0:
        print(f"{config.split} split of {datamodule.provenance}")
    images, labels, indices = datamodule.subset(config.split, config.num_images, config.seed, setting="num_images")
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        classes = network(images[:1].to(next(network.parameters()).device)).shape[1]
    if classes != datamodule.num_classes:
        raise UserError(
            f"the checkpoint has {classes} classes, the data set {datamodule.num_classes}; choose data=… to fit"
        )
    with shown_progress() as progress:
        return evaluate_in_shares(
            network,
            images,
            labels,
            instantiate(config.robustness, _convert_="all"),
            partial,
            indices=indices,
            window=config.window,
            turn=turn,
            compiled=config.compile,
            is_over=is_over,
            progress=progress if turn.rank == 0 else None,
        )


def choose_data(config: DictConfig, run: Path) -> DictConfig:
    """The data set to evaluate on: the one given, or the run's own with the settings given in place of its own.

    Raises:
        UserError: the run names a class that is not trusted, or its class has no such setting.
    """
    given: DictConfig = config.data or OmegaConf.create({})
    if "_target_" in given:
        return given
    own = read_config(run).data
    require_trusted(OmegaConf.to_container(own), "data", ["symmetry_robustness.data"], config.trusted)
    data = OmegaConf.create({**own, **given})
    check_targets(data, "data")
    return data


def describe_subject(config: DictConfig, checkpoint: Path, data: DictConfig, device: torch.device) -> dict[str, Any]:
    """All that decides the result of an evaluation, as plain values.

    `key` is a digest of them; `file` only says what the checkpoint was called.
    """
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    values = {
        "checkpoint": digest,
        "data": OmegaConf.to_container(data),
        "robustness": OmegaConf.to_container(config.robustness),
        "split": config.split,
        "num_images": config.num_images,
        "seed": config.seed,
        "window": config.window,
        "device": device.type,
        "compile": config.compile,
        "software": {name: importlib.metadata.version(name) for name in ("symmetry-robustness", "torch")},
        "code": {"symmetry_robustness": package_digest(), **own_code()},
    }
    text = json.dumps(values, sort_keys=True)
    return {**values, "key": hashlib.sha256(text.encode()).hexdigest()[:16], "file": checkpoint.name}


def own_code() -> dict[str, str]:
    """Digests of the modules loaded that are neither this package's, nor installed, nor Python's: the user's own."""
    places = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")}
    found = {}
    for name, module in sorted(sys.modules.items()):
        file, package = getattr(module, "__file__", None), name.partition(".")[0]
        if not file or package in ("__main__", "__mp_main__", "symmetry_robustness", "hydra_plugins"):
            continue
        path = Path(file).resolve()
        if path.suffix == ".py" and path.is_file() and not any(path.is_relative_to(place) for place in places):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def find_report(path: Path, provenance: Mapping[str, Any]) -> RobustnessReport | None:
    """The report that already holds this very evaluation, None where there is no report.

    Raises:
        UserError: the report is one of something else.
    """
    if not path.exists():
        return None
    report = RobustnessReport.load(path)
    if report.provenance.get("key") == provenance["key"]:
        return report
    other = [
        name
        for name, value in provenance.items()
        if name not in ("key", "file") and report.provenance.get(name) != value
    ]
    raise UserError(f"{path} holds a report of another {', '.join(other)}; choose another name=… or set overwrite=true")


def _remove(partial: Path) -> None:
    """Remove the folder of shares, and the one it is in unless shares of other settings wait there."""
    shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        partial.parent.rmdir()


def _show(report: RobustnessReport, path: Path) -> None:
    """Print the numbers, how many checks passed, and the path; checks that did not pass on standard error."""
    print("\n".join(f"{name}: {value:.4f}" for name, value in report.summary().items()))
    print("checks:", ", ".join(f"{count} {status}" for status, count in count_checks(report.checks).items()))
    for check in report.checks:
        if check.status != "passed":
            print(f"{check.status}: {check.name}: {check.evidence}", file=sys.stderr)
    print(f"report: {path}")


def find_turn() -> Turn:
    """Which of the processes started together by torchrun or Slurm this one is; the only one otherwise."""
    for rank, ranks in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and ranks in os.environ:
            return Turn(int(os.environ[rank]), int(os.environ[ranks]))
    return Turn()


def find_device(accelerator: str) -> torch.device:
    """The device an accelerator setting stands for: auto, cpu, or gpu.

    Raises:
        UserError: an unknown setting, or no such device here.
    """
    if accelerator not in ("auto", "cpu", "gpu"):
        raise UserError(f"accelerator must be auto, cpu or gpu, got {accelerator!r}")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("accelerator=gpu, but no CUDA device is available; use accelerator=cpu")
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    return torch.device("cuda", local % torch.cuda.device_count())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one evaluation.

    Args:
        argv: Hydra's overrides and flags.
    """
    keep_freed_memory()

    def job(config: DictConfig) -> int:
        evaluate(finalize_config(config))
        return 0

    return run_hydra("evaluate", job, list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(run_guarded(main))
