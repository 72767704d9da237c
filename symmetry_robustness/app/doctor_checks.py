"""The examinations of `symrob doctor`."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from hydra.utils import instantiate
from torch.nn import functional as F

from symmetry_robustness.app.config import load_config
from symmetry_robustness.app.data import ARCHIVES
from symmetry_robustness.attacks import PGD, ThreatModel
from symmetry_robustness.data.integrity import CHECKSUMS, check_files
from symmetry_robustness.errors import UserError
from symmetry_robustness.files import locked, replace_file
from symmetry_robustness.layers.disk_cache import cache_folder
from symmetry_robustness.models import build_network
from symmetry_robustness.precision import computes_in_bfloat16
from symmetry_robustness.runs.provenance import available_cores, package_version
from symmetry_robustness.training import wandb_logger

Status = Literal["ok", "warning", "problem"]

# Time limits of servers that may never answer, well below the 15 s of the whole command.
WANDB_S: Final = 5.0
_SINFO_S: Final = 3.0
_ENOUGH_GB, _LITTLE_GB = 5.0, 0.5  # of disk: a run of the paper's size needs some hundred megabytes
_DISTRIBUTION: Final = "symmetry-robustness"
_REQUIRED: Final = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "wandb", "numpy")
_APART: Final = {"escnn": "rotation layers", "torchattacks": "further attacks by name (TorchAttack)"}
_SLURM: Final = ("sbatch", "srun", "squeue", "sacct", "scontrol", "scancel", "sinfo")


@dataclass(frozen=True)
class Finding:
    """The result of one examination.

    Args:
        topic: in a word or two.
        status: "warning" if something is missing or slow, "problem" if commands will fail.
        found: the present state.
        remedy: the user's next step; empty if there is none.
    """

    topic: str
    status: Status
    found: str
    remedy: str = ""


def versions() -> Iterator[Finding]:
    """This package, Python and the packages they need."""
    yield Finding("Python", "ok", f"{sys.version.split()[0]}, symmetry-robustness {package_version(_DISTRIBUTION)}")
    found = {name: package_version(name) for name in _REQUIRED}
    yield Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in found.items() if version))
    if lacking := [name for name, version in found.items() if version is None]:
        yield Finding("packages", "problem", f"not installed: {', '.join(lacking)}", "make setup")
    for name, use in _APART.items():
        version = package_version(name)
        remedy = f"needed for {use}: pip install --no-deps {name}"
        yield Finding(name, "ok", version) if version else Finding(name, "warning", "not installed", remedy)
    if (version := package_version("torchvision")) is not None:
        reason = "nothing here needs it, and a build that does not fit torch's breaks `import pytorch_lightning`"
        yield Finding("torchvision", "warning", version, f"{reason}: pip uninstall torchvision")


def devices() -> Iterator[Finding]:
    """GPUs, cores, threads, and whether they compute in bfloat16."""
    cores = available_cores() or 1
    text = f"{cores} cores, {torch.get_num_threads()} threads, {_bfloat16(torch.device('cpu'))}"
    crowded = torch.get_num_threads() > cores
    remedy = f"threads will wait for each other: OMP_NUM_THREADS={cores}" if crowded else ""
    yield Finding("processor", "warning" if crowded else "ok", text, remedy)
    for index in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(index))
        memory, bfloat16 = f"{free:.1f} of {total:.1f} GiB free", _bfloat16(torch.device("cuda"))
        text = f"{torch.cuda.get_device_name(index)}, {memory}, {bfloat16}"
        yield Finding(f"GPU {index}", "ok", text)
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPUs"
        driver = shutil.which("nvidia-smi") is not None
        remedy = "torch can use none; install one that fits the driver" if driver else ""
        yield Finding("GPU", "warning" if driver else "ok", f"none; {built}", remedy)


def _bfloat16(device: torch.device) -> str:
    return "bfloat16" if computes_in_bfloat16(device) else "no bfloat16"


def slurm() -> Iterator[Finding]:
    """Slurm's commands and partitions, and the job this process belongs to."""
    there = [name for name in _SLURM if shutil.which(name)]
    if not there:
        yield Finding("Slurm", "ok", "not here; sweeps run on this machine")
        return
    if absent := [name for name in _SLURM if name not in there]:
        yield Finding("Slurm", "warning", f"without {', '.join(absent)}", "install Slurm's client commands")
    if job := os.environ.get("SLURM_JOB_ID"):
        yield Finding("Slurm job", "ok", f"this is job {job} on {platform.node()}")
    if "sinfo" not in there:
        return
    try:
        asked = ["sinfo", "--noheader", "--format=%P %a, %D nodes, %l"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=_SINFO_S, check=True).stdout
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip() or f"exit status {error.returncode}").splitlines()[-1]
        yield Finding("partitions", "warning", f"sinfo fails ({why})", "ask whether the controller runs")
    except subprocess.TimeoutExpired:
        yield Finding("partitions", "warning", f"sinfo does not answer in {_SINFO_S:.0f} s", "try again later")
    else:
        yield Finding("partitions", "ok", "; ".join(answer.splitlines()) or "none")


def wandb() -> Iterator[Finding]:
    """The mode that a run with `logger=wandb` would have."""
    mode = wandb_logger.resolve_mode("online")
    if mode != "online":
        yield Finding("W&B", "ok", f"{mode}, as WANDB_MODE says")
    elif reason := wandb_logger.why_offline(WANDB_S):
        yield Finding("W&B", "warning", f"runs would be offline, {reason}", "upload them later: wandb sync RUN/wandb")
    else:
        yield Finding("W&B", "ok", "online: there is a key, and the server answers")


def data(root: Path) -> Iterator[Finding]:
    """The data sets in place, and whether they are complete."""
    yield Finding("shapes", "ok", "drawn by code, always there")
    for title, archive in ARCHIVES.items():
        directory = root / archive.folder
        if root.exists() and not root.is_dir():
            yield Finding(title, "problem", f"{root} is no directory", "name another with --root, or in SYMROB_DATA")
            continue
        if not directory.is_dir():
            yield Finding(title, "ok", f"not in {root}; {archive.download_command(root)} gets it")
            continue
        try:
            check_files(archive, directory, list(archive.files), "other")
        except UserError as error:
            yield Finding(title, "problem", str(error))
            continue
        note = "nothing shows that it is the official copy; use it with data.copy=other"
        known: tuple[Status, str] = ("ok", "") if (directory / CHECKSUMS).exists() else ("warning", note)
        yield Finding(title, known[0], f"complete in {directory}", known[1])


def output(directory: Path) -> Iterator[Finding]:
    """Whether runs can be written: files, locks that exclude each other, free disk."""
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    elsewhere = "choose another place with output=…"
    try:
        with tempfile.TemporaryDirectory(prefix=".symrob-doctor-", dir=existing) as name:
            replace_file(Path(name) / "file", "content")
            locks = _locks(Path(name) / "lock")
    except OSError as error:
        yield Finding("output", "problem", f"{existing} cannot be written ({error.strerror})", elsewhere)
        return
    yield Finding("output", "ok", f"{existing} can be written")
    if not locks:
        yield Finding("output", "problem", f"locks of files (flock) do not work in {existing}", elsewhere)
    free = shutil.disk_usage(existing).free / 1e9
    status: Status = "ok" if free >= _ENOUGH_GB else "warning" if free >= _LITTLE_GB else "problem"
    remedy = "" if status == "ok" else f"make room, or {elsewhere}"
    yield Finding("free disk", status, f"{free:.1f} GB in {existing}", remedy)


def _locks(path: Path) -> bool:
    """Whether a lock keeps a second opener out, and lets it in afterwards."""
    try:
        with locked(path):
            try:
                with locked(path):
                    return False
            except BlockingIOError:
                pass
        with locked(path):
            return True
    except OSError:
        return False


def kernel_cache() -> Iterator[Finding]:
    """Whether bases of rotation layers can be cached."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        remedy = "rotation networks build slower; set SYMMETRY_ROBUSTNESS_CACHE to a directory that can be written"
        yield Finding("kernel cache", "warning", f"{folder} cannot be written ({error.strerror})", remedy)
    else:
        yield Finding("kernel cache", "ok", str(folder))


def batch_and_attack() -> Iterator[Finding]:
    """A batch forward and backward through a small network, and one attack step, on the device of runs."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = ["data.train_size=64", "data.validation_size=0", "data.test_size=32"]
    config = load_config("train", ["model=standard_4layer", *small])
    images, labels, _ = instantiate(config.data).subset("test", 32, seed=0)
    images, labels = images.to(device), labels.to(device)
    network = build_network(config).to(device)
    loss = F.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, [*network.parameters()])
    if all(bool(gradient.isfinite().all()) for gradient in gradients):
        yield Finding("one batch", "ok", f"32 images forward and backward on {device}, loss {loss.item():.3f}")
    else:
        yield Finding("one batch", "problem", f"gradients on {device} are not finite", "reinstall torch")
    threat = ThreatModel(norm="linf", epsilon=8 / 255)
    attacked = PGD(steps=1)(network.eval(), images, labels, threat)
    moved = (attacked - images).abs().max().item()
    inside = 0 < moved <= threat.epsilon + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    found = f"moves pixels by {moved * 255:.2f}/255 of 8/255"
    yield Finding("one attack step", "ok" if inside else "problem", found, "" if inside else "reinstall torch")
