"""Evaluates one checkpoint or network and saves the report."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from symmetry_robustness.app.progress import shown_progress
from symmetry_robustness.app.subject import CheckpointSubject, NetworkSubject, Subject
from symmetry_robustness.attacks.validation import lay_out
from symmetry_robustness.errors import UserError
from symmetry_robustness.files import replace_file, unused
from symmetry_robustness.reporting.figures import report_figures, save_figure
from symmetry_robustness.reporting.frame import accuracy_by_test_set, corruption_error
from symmetry_robustness.reporting.tables import mean_text, print_numbers, titled_means, with_interval
from symmetry_robustness.results.checks import count_checks
from symmetry_robustness.results.names import WORST_CASE, epsilon_name
from symmetry_robustness.results.report import share_estimate
from symmetry_robustness.robustness import EvaluationProtocol, RobustnessReport, Worker, evaluate_in_shards
from symmetry_robustness.runs.autotune import (
    Tuned,
    agreed,
    computing_in,
    lay_out_as,
    plain_tuned,
    read_tuned,
    tune_attacks,
)
from symmetry_robustness.runs.json_files import read_mapping, write_json
from symmetry_robustness.runs.provenance import own_code, package_digest
from symmetry_robustness.runs.settings import check_outputs

TUNED: Final = "compute.json"  # beside the shards
_CHECKED: Final = 8  # images on which a network shows what it returns
_PATIENCE_S: Final = 60.0  # with the first process, which says how the network is computed


def evaluate(config: DictConfig, command: Sequence[str] = ()) -> RobustnessReport | None:
    """Evaluate a network, save the report and figures of its measures, and print a table.

    Finished shards wait beside the report in `NAME.partial/KEY/`, where the key is a digest of all that decides the
    result, so that shards of other settings never mix. An interrupted evaluation resumes from them, and processes that
    torchrun or Slurm started together share the work through that folder.

    Args:
        config: resolved configuration of `symrob evaluate`.
        command: the argv the user typed, for the run of a network of theirs.

    Returns:
        The report; None if another process of the same job completed it.

    Raises:
        UserError: a file that is no checkpoint, a network that cannot be built, data that do not fit, or an existing
            report of other settings.
    """
    worker, device = find_worker(), find_device(config.accelerator)
    subject: Subject = NetworkSubject(config, command) if config.network else CheckpointSubject(config)
    protocol = instantiate(config.robustness, _convert_="all")
    if config.sources and not protocol.origins:
        raise UserError(
            f"robustness={config.protocol} crafts no images on other networks; set robustness=transfer for sources"
        )
    if worker.workers > 1 and config.overwrite:
        raise UserError("overwrite=true would make processes overwrite each other; remove the old report instead")
    sources = {name: origin["digest"] for name, origin in protocol.origins.items()}
    provenance = describe_subject(config, subject, device, sources) | {"file": subject.file, "trained": subject.trained}
    path = subject.report_path(config)
    partial = path.with_suffix(".partial") / provenance["key"]

    def find() -> RobustnessReport | None:
        return None if config.overwrite else find_report(path, provenance)

    report = find()
    images = None if report and subject.is_finished() else _read_images(config, subject, worker, device)
    if report:
        print("already evaluated with the same settings; overwrite=true evaluates again")
    if images is not None:
        with subject.at_work():
            if report is None:
                found = _evaluate(
                    config, images, subject.network, protocol, partial, worker, lambda: find() is not None
                )
                if found is not None:
                    report = replace(found, provenance={**provenance, **found.provenance, "sources": protocol.origins})
                    report.save(path.parent, path.stem)
                elif worker.workers == 1:  # another process with the same command was faster
                    report = find()
            if report is not None:
                subject.finish(report, images.datamodule, device)
    _remove(partial)
    if report is not None:
        for title, figure in report_figures(report).items():
            save_figure(figure, path.parent / f"{path.stem}-{title}")
        _show(report, path)
    return report


class _Images(NamedTuple):
    """Images (N, C, H, W), labels and their numbers, and the data module that they are of."""

    datamodule: Any
    images: Tensor
    labels: Tensor
    indices: Tensor


def _read_images(config: DictConfig, subject: Subject, worker: Worker, device: torch.device) -> _Images:
    """Read the images, and check the network on a few of them; it moves to its device."""
    datamodule = instantiate(subject.data)
    if datamodule.test_transform is not None and config.split != "test":
        raise UserError(
            f"split={config.split} has no views (data.test_transform); choose split=test, or data.test_transform=null"
        )
    images, labels, indices = datamodule.subset(config.split, config.num_images, config.seed, setting="num_images")
    if worker.rank == 0:
        print(f"{config.split} split of {datamodule.provenance}")
    shown = images[:_CHECKED].to(device)
    check_outputs(lay_out(subject.network.to(device), shown), shown, datamodule.num_classes)
    return _Images(datamodule, images, labels, indices)


def _evaluate(
    config: DictConfig,
    data: _Images,
    network: nn.Module,
    protocol: EvaluationProtocol,
    partial: Path,
    worker: Worker,
    should_stop: Callable[[], bool],
) -> RobustnessReport | None:
    """Evaluate the network on the images, in shards that are saved in a folder."""
    check_writable(partial)
    calibration = _calibration(config, data, protocol)
    tuned = settle(network, protocol, data, partial, worker)
    with _forgotten_if_refused(partial / TUNED), computing_in(tuned.settings.threads), shown_progress() as progress:
        report = evaluate_in_shards(
            network,
            data.images,
            data.labels,
            protocol,
            partial,
            indices=data.indices,
            shard_size=config.shard_size,
            worker=worker,
            compiled=config.compile,
            should_stop=should_stop,
            calibration=calibration,
            progress=progress if worker.rank == 0 else None,
        )
    if report is None:
        return None
    known: dict[str, Any] = {"compute": plain_tuned(tuned)}
    if config.split == "test":
        size = len(data.datamodule.test_dataloader()[0].split)
        known |= {"test_sets": data.datamodule.test_names, "test_images": size}
    return replace(report, provenance=known)


def _calibration(config: DictConfig, data: _Images, protocol: EvaluationProtocol) -> Tensor | None:
    """Clean validation images (n, C, H, W) for the measures that are calibrated.

    Raises:
        UserError: validation images are evaluated, or there are too few.
    """
    wanted = protocol.calibration_images
    if not wanted:
        return None
    if config.split == "validation":
        raise UserError("split=validation has the images by which detectors are calibrated; choose split=test")
    available: int = data.datamodule.validation_size
    if available < wanted:
        raise UserError(
            f"robustness={config.protocol} calibrates detectors on {wanted} validation images, "
            f"data.validation_size={available} has fewer; lower robustness.measures.NAME.calibration_images, or "
            "choose a network that was trained with more"
        )
    images: Tensor = data.datamodule.subset("validation", wanted, config.seed)[0]
    return images


@contextlib.contextmanager
def _forgotten_if_refused(path: Path) -> Iterator[None]:
    """Remove a file if what is asked for is refused, so that a mistake leaves nothing behind."""
    try:
        yield
    except UserError:
        path.unlink(missing_ok=True)
        raise


def settle(network: nn.Module, protocol: EvaluationProtocol, data: _Images, partial: Path, worker: Worker) -> Tuned:
    """Lay out the network as it is attacked fastest, in float32 always; all processes, also later ones, do the same."""
    path = partial / TUNED

    def decide() -> Tuned:
        shape, device = data.images.shape[1:], next((p.device for p in network.parameters()), data.images.device)
        tuned = tune_attacks(network, min(protocol.batch_size, len(data.images)), shape, device)
        write_json(path, plain_tuned(tuned))
        return tuned

    tuned = agreed(lambda: read_tuned(read_mapping(path)), decide, decides=worker.rank == 0, patience=_PATIENCE_S)
    lay_out_as(network, tuned.settings)
    if worker.rank == 0:
        print(f"attacked in {tuned.describe()}")
    return tuned


def check_writable(folder: Path) -> None:
    """Write to a folder and take it back, so that a full or closed one shows before the work.

    Raises:
        UserError: names the folder and the reason.
    """
    trial = unused(folder / "trial")
    try:
        replace_file(trial, b"")
        trial.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); choose a folder with output=…") from error


def describe_subject(
    config: DictConfig, subject: Subject, device: torch.device, sources: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """All that decides the result of an evaluation, as plain values; `key` is a digest of them.

    Args:
        config: of `symrob evaluate`.
        subject: what is evaluated.
        device: where the evaluation runs.
        sources: digests of the checkpoints that attacks come from, by name.
    """
    values = {
        **subject.identity,
        **({"sources": dict(sources)} if sources else {}),
        "data": OmegaConf.to_container(subject.data),
        "robustness": OmegaConf.to_container(config.robustness),
        "split": config.split,
        "num_images": config.num_images,
        "seed": config.seed,
        "shard_size": config.shard_size,
        "device": device.type,
        "compile": config.compile,
        "software": {name: importlib.metadata.version(name) for name in ("symmetry-robustness", "torch")},
        "code": {"symmetry_robustness": package_digest(), **own_code()},
    }
    text = json.dumps(values, sort_keys=True)
    return {**values, "key": hashlib.sha256(text.encode()).hexdigest()[:16]}


def find_report(path: Path, provenance: Mapping[str, Any]) -> RobustnessReport | None:
    """The report that already holds this very evaluation, None if there is no report.

    Raises:
        UserError: the report is of other settings.
    """
    if not path.exists():
        return None
    report = RobustnessReport.load(path)
    if report.provenance.get("key") == provenance["key"]:
        return report
    other = [
        name
        for name, value in provenance.items()
        if name not in ("key", "file", "trained") and report.provenance.get(name) != value
    ]
    raise UserError(f"{path} holds a report of another {', '.join(other)}; choose another name=… or set overwrite=true")


def _remove(partial: Path) -> None:
    """Remove the folder of shards, and its parent unless shards of other settings wait there."""
    shutil.rmtree(partial, ignore_errors=True)
    with contextlib.suppress(OSError):
        partial.parent.rmdir()


def _show(report: RobustnessReport, path: Path) -> None:
    """Print a table of the results and the path; checks that did not pass on standard error."""
    for check in report.checks:
        if check.status != "passed":
            print(f"{check.status}: {check.name}: {check.evidence}", file=sys.stderr)
    print_numbers(path.stem, table_rows(report))
    print(f"report: {path.absolute()}")


def table_rows(report: RobustnessReport) -> dict[str, str]:
    """The numbers of a report as texts by their titles."""
    rows = {"images": f"{len(report):,}", "clean %": with_interval(share_estimate(report.clean_correct))}
    attacks = [*report.minimal_epsilon]
    for attack in attacks + [WORST_CASE] * (len(attacks) > 1):
        white_box = report.settings.get("attacks", {}).get(attack, {}).get("white_box")
        title = attack.replace("_", " ") + (" (white box)" if white_box else "")
        rows |= {f"{title} {epsilon_name(e)} %": with_interval(report.accuracy(attack, e)) for e in report.epsilons}
    for attack, passes in report.passes.items():
        if given := report.counts.get(f"given.{attack}"):  # of a cascade
            broken, cost = report.counts[f"broken.{attack}"], passes.sum() / given
            rows[f"{attack.replace('_', ' ')} breaks"] = f"{broken:,.0f} of {given:,.0f}, {cost:,.0f} passes each"
    classes = next((check.evidence for check in report.checks if check.name == "enough_classes"), "")
    if ";" in classes:
        rows["left out"] = classes
    if corrupted := corruption_error(accuracy_by_test_set(report)):
        rows["mean corruption error %"] = with_interval(corrupted)
    for title, mean in titled_means(report.measured_means(), report.settings.get("measures", {})):
        rows[title] = mean_text(mean) if mean.images else "NaN for every image"
    counts = count_checks(report.checks)
    rows["checks"] = ", ".join(f"{count} {status}" for status, count in counts.items())
    return rows


def find_worker() -> Worker:
    """The place of this process among those that torchrun or Slurm started together; the only one otherwise.

    Raises:
        UserError: variables that name no place.
    """
    for rank, ranks in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and ranks in os.environ:
            place, workers = os.environ[rank], os.environ[ranks]
            if not (place.isdecimal() and workers.isdecimal() and int(place) < int(workers)):
                raise UserError(f"{rank}={place} and {ranks}={workers} name no process of several; unset both")
            return Worker(int(place), int(workers))
    return Worker()


def find_device(accelerator: str) -> torch.device:
    """The device of an accelerator setting: auto, cpu, or gpu.

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
