"""A run directory: what stands in it, and how it comes to be."""

import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import AliasToken, YAMLError, scan

from symmetry_robustness.errors import UserError
from symmetry_robustness.files import replace_file, unused
from symmetry_robustness.runs.liveness import is_locked, read_mapping
from symmetry_robustness.runs.snapshot import package_digest

CONFIG = "config.yaml"
PROVENANCE = "provenance.json"
SUMMARY = "summary.json"
PROGRESS = "progress.json"
LOCK = ".lock"
SUBMISSION = "slurm.json"
# Settings that change where a result lies or is shown, not what it is.
ELSEWHERE = ("output", "group", "tags", "logger", "resume")
_PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "escnn", "torchattacks", "hydra-core", "numpy", "wandb")


def freeze(config: DictConfig, directory: Path, command: list[str]) -> None:
    """Make `directory` the run directory of a job that is still to start.

    It is written beside its place and moved there, so that of several processes one wins and none sees half of it.

    Args:
        config: resolved and checked.
        directory: new, or empty.
        command: the words the user typed.

    Raises:
        UserError: the directory already holds a run, or anything else, or is the current one; nothing is overwritten.
    """
    if directory.is_dir() and directory.samefile(".") and not any(directory.iterdir()):
        raise UserError(
            f"{directory} is the current directory, whose place a run cannot take; "
            "name a new one (hydra.run.dir=…) and leave out hydra.job.chdir"
        )
    unfinished = unused(directory.absolute())
    try:
        write_json(unfinished / PROVENANCE, _origin(config, command), durable=True)
        replace_file(unfinished / CONFIG, OmegaConf.to_yaml(config), durable=True)
        try:
            unfinished.rename(directory)
        except OSError as error:
            if (directory / CONFIG).exists():
                raise UserError(
                    f"{directory} already holds a run; go on with it (resume=auto) or choose another place "
                    "(hydra.run.dir=…)"
                ) from error
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY):
                raise
            raise UserError(f"{directory} is not empty; choose a new place for the run (hydra.run.dir=…)") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def renew(config: DictConfig, directory: Path, command: list[str]) -> None:
    """Before a run goes on: write anew what is damaged of it, and take settings that do not decide its result.

    A run that is done keeps its settings, and so does one that a process is running.

    Args:
        config: resolved and checked; computes the same as the run, so that at most settings of `ELSEWHERE` differ.
        directory: the run directory.
        command: the words the user typed.
    """
    ended = is_done(directory)
    try:
        outdated = read_config(directory) != config and not ended and not is_locked(directory / LOCK)
    except UserError:
        outdated = True
    if outdated:
        replace_file(directory / CONFIG, OmegaConf.to_yaml(config), durable=True)
    if not ended:
        try:
            read_provenance(directory)
        except UserError:
            write_json(directory / PROVENANCE, _origin(config, command), durable=True)


def _origin(config: DictConfig, command: list[str]) -> dict[str, Any]:
    """The provenance of a run that is still to start."""
    return {
        "command": command,
        "submitted": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seed": config.seed,
        "key": job_key(config),
        "wandb_id": secrets.token_hex(4),
        **code_version(),
    }


def job_key(config: DictConfig) -> str:
    """What a job computes, in twelve hexadecimal digits: of two jobs with one key the second would repeat the first.

    Args:
        config: resolved.
    """
    content = {key: value for key, value in _container(config).items() if key not in ELSEWHERE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def first_difference(config: DictConfig, other: DictConfig) -> str | None:
    """The first setting, with both values, in which two configurations would compute different things; else None."""
    flat, flat_other = (_flat({k: v for k, v in _container(c).items() if k not in ELSEWHERE}) for c in (config, other))
    for name in [*flat, *flat_other]:
        if flat.get(name) != flat_other.get(name):
            return f"{name}: {flat.get(name)} and {flat_other.get(name)}"
    return None


def find_run(directory: Path, config: DictConfig) -> Path | None:
    """The run to go on with: the one in `directory`, else the newest beside it that computes the same.

    Raises:
        UserError: `directory` holds a run that computes something else.
    """
    if (directory / CONFIG).exists():
        difference = first_difference(read_config(directory), config)
        if difference is not None:
            raise UserError(f"{directory} holds another run ({difference}); choose another directory (hydra.run.dir=…)")
        return directory
    key, found = job_key(config), []
    for path in directory.parent.glob(f"*/{PROVENANCE}"):
        provenance = read_mapping(path) or {}
        if provenance.get("key") == key and (path.parent / CONFIG).exists():
            found.append((str(provenance.get("submitted")), path.parent))
    return max(found)[1] if found else None


def _container(config: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(config)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {path: content}
    return {k: v for key, value in content.items() for k, v in _flat(value, f"{path}.{key}".removeprefix(".")).items()}


def is_done(directory: Path) -> bool:
    """Whether the run in `directory` has ended well."""
    try:
        summary = read_json(directory / SUMMARY)
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("status") == "done"


def read_config(directory: Path) -> DictConfig:
    """The frozen configuration of a run.

    Raises:
        UserError: `directory` is not a run directory, or its configuration is damaged or not as `freeze` writes it.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"{directory} is not a run directory: it has no {CONFIG}")
    try:
        text = path.read_text()
        if "${" in text or any(isinstance(token, AliasToken) for token in scan(text)):
            # An interpolation can read the environment, a few aliases can unfold to gigabytes.
            raise UserError(f"{path} holds interpolations or aliases, which no run writes; do not trust it")
        config = OmegaConf.create(text)
    except (UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())}); restore it or train again") from None
    if not isinstance(config, DictConfig) or not isinstance(config.get("data"), DictConfig):
        raise UserError(f"{path} is damaged: it is no configuration of a run; restore it or train again")
    return config


def read_provenance(directory: Path) -> dict[str, Any]:
    """Where a run comes from.

    Raises:
        UserError: its file is damaged or not there.
    """
    content = read_mapping(directory / PROVENANCE)
    if not content or "wandb_id" not in content:
        raise UserError(
            f"{directory / PROVENANCE} is damaged or gone; the same command again writes it anew "
            f"(that of a single job with resume=auto hydra.run.dir={directory})"
        )
    return content


def add_environment(directory: Path) -> None:
    """Add to a run's provenance where it runs: machine, devices, versions."""
    path, known = directory / PROVENANCE, read_provenance(directory)
    write_json(path, known | {"started": datetime.now(UTC).isoformat(timespec="seconds")} | environment(), durable=True)


@functools.cache
def code_version() -> Mapping[str, Any]:
    """The commit of the checkout this package runs from, and whether it was changed since; the version otherwise.

    As it was when first asked for: that is the code that this process has imported.
    """
    here = Path(__file__).parent
    version = {"version": _package_version("symmetry-robustness"), "code": package_digest()}
    try:
        commit = _git(here, "rev-parse", "HEAD")
        changed = bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return version | {"commit": None}
    return version | {"commit": commit, "changed_since_commit": changed}


def _git(directory: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", directory, *words], check=True, capture_output=True, text=True).stdout.strip()


def environment() -> dict[str, Any]:
    """Machine, devices and versions."""
    import torch

    return {
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _package_version(name) for name in _PACKAGES},
    }


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def write_json(path: Path, content: Any, *, durable: bool = False) -> None:
    """Write JSON so that a reader never sees half of it, see `replace_file`."""
    replace_file(path, json.dumps(content, indent=2) + "\n", durable=durable)
